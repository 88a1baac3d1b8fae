"""Training runs seen from outside: started, watched, killed, and started again.

A life is one process of a run, with the command line that a user would give. To make lives cheap
they are forked from a server that has imported the libraries and computed nothing: a short life
would else spend most of its time importing. What a first life compiles, later ones find on disk.
"""

import dataclasses
import functools
import multiprocessing
import os
import pathlib
import re
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from acestep_jax import compilation
from acestep_jax.training import checkpoint, cli
from acestep_jax.training.config import Run
from acestep_jax.training.recipes.tokenizer import TrainTokenizer
from acestep_jax.training.recipes.vae import TrainVAE

ROOT = pathlib.Path(__file__).parents[1]
NUM_STEPS = 12  # of a run that is killed; its phases share them
POLL_SECONDS = 0.002
LIMIT_SECONDS = 1800.0  # of one life; first ones compile
_FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
_DEVICES = "--xla_force_host_platform_device_count"
_IMPORTED = ("grain", "tensorboardX", "tokenizers")  # by functions of every run, at last

_server = multiprocessing.get_context("forkserver")


@dataclasses.dataclass(frozen=True)
class Trainer:
    """A run that can be started again and again.

    Attributes:
      name: of the method.
      module: its script.
      arguments: of the command, but for the folder of the run, which comes last.
      num_steps: where it ends.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    num_steps: int


def discover(names: Sequence[str] = (), num_steps: int = NUM_STEPS) -> list[Trainer]:
    """Finds the scripts of train/ that have a configuration in configs/nano.

    Args:
      names: of those that are wanted; all by default.
      num_steps: of their runs.

    Raises:
      ValueError: if a name is none of them.
    """
    found = [
        script.stem
        for script in sorted((ROOT / "train").glob("*.py"))
        if (ROOT / "configs" / "nano" / script.name).is_file() and "cli.run(" in script.read_text()
    ]
    unknown = [name for name in names if name not in found]
    if unknown:
        raise ValueError(f"no trainer {', '.join(unknown)}; there are {', '.join(found)}.")
    trainers = []
    for name in names or found:
        arguments = ("--config", str(_config_file(name, num_steps)), "--workdir")
        trainers.append(Trainer(name, f"train.{name}", arguments, num_steps))
    return trainers


def quick_form(name: str, num_steps: int) -> Run:
    """Gives the quick form of configs/nano/<name>.py with other steps, in all of its phases."""
    config = cli.load_config(ROOT / "configs" / "nano" / f"{name}.py", quick=True)
    changes: dict[str, Any] = {"num_steps": num_steps}
    if isinstance(config, TrainVAE):
        each, more = divmod(num_steps, len(config.phases))
        lengths = [each + (i < more) for i in range(len(config.phases))]
        changes["phases"] = tuple(
            dataclasses.replace(phase, num_steps=length)
            for phase, length in zip(config.phases, lengths, strict=True)
        )
    elif isinstance(config, TrainTokenizer):
        changes |= {"reconstruct_steps": num_steps // 3, "settle_steps": num_steps // 3}
    return dataclasses.replace(config, **changes, log_every=1, save_every=1, eval_every=0)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    """Makes a folder that goes with this process."""
    return tempfile.TemporaryDirectory(prefix="lives-")


def _config_file(name: str, num_steps: int) -> pathlib.Path:
    """Writes a configuration file that gives a quick form."""
    path = pathlib.Path(_folder().name) / f"{name}_{num_steps}.py"
    path.write_text(
        f'"""The quick form of configs/nano/{name}.py, lengthened."""\n\n'
        "from experiments import lives\n\n\n"
        "def get_config(quick=False):\n"
        f"    return lives.quick_form({name!r}, {num_steps})\n"
    )
    return path


# Lives ------------------------------------------------------------------------------------------


class Life:
    """One process of a run."""

    _spent: ClassVar[list[float]] = []

    def __init__(
        self,
        trainer: Trainer,
        workdir: pathlib.Path,
        arguments: Sequence[str] = (),
        num_devices: int = 0,
    ) -> None:
        """Starts it.

        Args:
          trainer: the run.
          workdir: its folder; what the process prints goes to a file beside it.
          arguments: more of the command.
          num_devices: simulated ones; by default as many as XLA_FLAGS says.
        """
        _start_server()
        self.log = workdir.parent / f"{workdir.name}.log"
        self._workdir, self._limit = workdir, time.monotonic() + LIMIT_SECONDS
        command = (*arguments, *trainer.arguments, str(workdir))
        given = (trainer.module, command, num_devices, str(self.log))
        self._process = _server.Process(target=_live, args=given, daemon=True)
        self._process.start()

    def wait_for(self, moment: Callable[[], bool]) -> bool:
        """Waits until something is so; False if the process ended before.

        Raises:
          TimeoutError: if it takes too long; the process is killed then.
        """
        while not moment():
            if self._process.exitcode is not None:
                return moment()
            if time.monotonic() > self._limit:
                self.end(signal.SIGKILL)
                raise TimeoutError(f"{self._workdir} took longer than {LIMIT_SECONDS:.0f} s.")
            time.sleep(POLL_SECONDS)
        return True

    def end(self, number: signal.Signals | None = None) -> int:
        """Sends a signal, if any, and gives the status that the process ends with."""
        if number is not None and self._process.exitcode is None:
            self._spent.append(_processor_seconds(self._process.pid))
            os.kill(self._process.pid, number)
        self._process.join()
        return self._process.exitcode

    @staticmethod
    def processor_seconds() -> float:
        """Gives the processor time of all lives that were ended so far; 0 where Linux is not."""
        return sum(Life._spent)

    def last_words(self) -> str:
        """Gives the end of what the process printed."""
        return self.log.read_text(errors="replace")[-3000:]


def _start_server() -> None:
    """Says what the server imports and inherits; of effect before the first life alone."""
    scripts = sorted((ROOT / "train").glob("[a-z]*.py"))
    _server.set_forkserver_preload([*(f"train.{path.stem}" for path in scripts), *_IMPORTED])
    chosen = os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if chosen == "cpu" and "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
        # a life spends more time in the compiler than in the program
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()
    cache = compilation.cache_folder() or pathlib.Path(_folder().name)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "lives"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Who is killed leaves semaphores behind, which would be told at the end
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker"


def _processor_seconds(pid: int) -> float:
    """Reads how long a process has computed."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _live(module: str, arguments: Sequence[str], num_devices: int, log: str) -> None:
    """Becomes `python -m module arguments`, in a process of its own."""
    if num_devices:  # read when devices are first asked for
        others = re.sub(rf"{_DEVICES}=\d+", "", os.environ.get("XLA_FLAGS", ""))
        os.environ["XLA_FLAGS"] = f"{others} {_DEVICES}={num_devices}"
    os.chdir(ROOT)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


# What a run has left on disk ----------------------------------------------------------------------


def steps_logged(workdir: pathlib.Path) -> int:
    """Gives the last step in a run's metrics."""
    path = workdir / "metrics.jsonl"
    steps = re.findall(r'^\{"step": (\d+)', path.read_text() if path.is_file() else "", re.M)
    return int(steps[-1]) if steps else 0


def is_saving(workdir: pathlib.Path, step: int = 0) -> bool:
    """Tells whether a checkpoint, of this step or a later one, is being written."""
    folders = (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")
    return any(int(folder.name.partition(".")[0]) >= step for folder in folders)


def newest(workdir: pathlib.Path) -> int:
    """Gives the step of a run's newest finished checkpoint; 0 without one."""
    return max(checkpoint.steps_on_disk(workdir), default=0)


def is_saved(workdir: pathlib.Path, step: int) -> bool:
    """Tells whether a checkpoint is finished: it bears its name."""
    return (workdir / "checkpoints" / str(step)).is_dir()
