"""Does a run that is killed end as one that is not, bit for bit?

    python -m experiments.faults --kills 20 --seed 0
    python -m experiments.faults --kills 5 --trainers dit,vae --jobs 2

For each script of train/ with a configuration in configs/nano, its quick form runs once in peace.
Then, again and again: a fresh run is struck down at a random moment, started with the same command,
and its last checkpoint compared with the peaceful one's: parameters, averages, optimizer state,
counters, key, and position in the data. Three ways of dying take turns:

    kill   SIGKILL, a random while after a random step
    save   SIGKILL while a random checkpoint is being written
    term   SIGTERM after a random step: the run must save, and end with the signal's status

A run counts as passed if it ended equal and, told to stop, stopped in order. What follows the last
checkpoint of a run (evaluation, export, report) is cut off: it changes no state.
"""

import concurrent.futures
import dataclasses
import itertools
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

from absl import app, flags

from acestep_jax.training import checkpoint, cli
from acestep_jax.training.overrides import ConfigError, override

ROOT = pathlib.Path(__file__).parents[1]
WAYS = ("kill", "save", "term")
FEWEST_STEPS = 6  # a quick form of fewer is made this long, where its phases allow it
ATTEMPTS = 5  # to meet a moment as short as a save
POLL_SECONDS = 0.002
LIMIT_SECONDS = 1800.0  # of one life of a run; first ones compile

FLAGS = flags.FLAGS


@dataclasses.dataclass(frozen=True)
class Trainer:
    """A run that can be started again and again.

    Attributes:
      name: of the method.
      command: starts it, but for the folder, which comes last.
      num_steps: where it ends.
    """

    name: str
    command: tuple[str, ...]
    num_steps: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was done to a run, and what was wrong with it afterwards ("" if nothing)."""

    story: str
    problem: str


def discover(names: Sequence[str] = ()) -> list[Trainer]:
    """Finds the scripts of train/ that have a configuration in configs/nano.

    Raises:
      ValueError: if a name is none of them.
    """
    found = {}
    for script in sorted((ROOT / "train").glob("*.py")):
        config = ROOT / "configs" / "nano" / script.name
        if config.is_file() and "cli.run(" in script.read_text():
            found[script.stem] = _trainer(script.stem, config)
    unknown = [name for name in names if name not in found]
    if unknown:
        raise ValueError(f"no trainer {', '.join(unknown)}; there are {', '.join(found)}.")
    return [found[name] for name in names or found]


def _trainer(name: str, config: pathlib.Path) -> Trainer:
    changes = ["log_every=1", "save_every=1", "eval_every=0"]
    quick = override(cli.load_config(config, quick=True), changes)
    if quick.num_steps < FEWEST_STEPS:
        try:
            quick = override(quick, [f"num_steps={FEWEST_STEPS}"])
            changes.append(f"num_steps={FEWEST_STEPS}")
        except (ConfigError, ValueError):
            pass  # its phases fix its length
    sets = itertools.chain.from_iterable(("--set", change) for change in changes)
    command = (sys.executable, "-m", f"train.{name}", "--config", str(config), "--quick", *sets)
    return Trainer(name, (*command, "--workdir"), quick.num_steps)


# Lives ------------------------------------------------------------------------------------------


class Life:
    """One process of a run, watched from outside."""

    def __init__(self, trainer: Trainer, workdir: pathlib.Path) -> None:
        """Starts the process."""
        self._folder, self._limit = workdir, time.monotonic() + LIMIT_SECONDS
        self._log = (workdir.parent / f"{workdir.name}.log").open("ab")
        self._process = subprocess.Popen(
            [*trainer.command, str(workdir)], cwd=ROOT, stdout=self._log, stderr=self._log
        )

    def wait_for(self, moment: Callable[[], bool]) -> bool:
        """Waits until something is so; False if the process ended before."""
        while not moment():
            if self._process.poll() is not None:
                return moment()
            if time.monotonic() > self._limit:
                self.end(signal.SIGKILL)
                raise TimeoutError(f"{self._folder} took longer than {LIMIT_SECONDS:.0f} s.")
            time.sleep(POLL_SECONDS)
        return True

    def end(self, number: signal.Signals) -> int:
        """Sends a signal and gives the status that the process ends with."""
        self._process.send_signal(number)
        status = self._process.wait()
        self._log.close()
        return status


def steps_logged(workdir: pathlib.Path) -> int:
    """Gives the last step in a run's metrics."""
    path = workdir / "metrics.jsonl"
    steps = re.findall(r'^\{"step": (\d+)', path.read_text() if path.is_file() else "", re.M)
    return int(steps[-1]) if steps else 0


def is_saving(workdir: pathlib.Path, step: int = 0) -> bool:
    """Tells whether a checkpoint, of this step or a later one, is being written."""
    folders = (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")
    return any(int(folder.name.partition(".")[0]) >= step for folder in folders)


def is_saved(workdir: pathlib.Path, step: int) -> bool:
    """Tells whether a checkpoint is finished: it bears its name."""
    return (workdir / "checkpoints" / str(step)).is_dir()


def run_to_end(trainer: Trainer, workdir: pathlib.Path) -> str:
    """Starts a run or goes on with it; gives the digest of its last checkpoint, "" without one."""
    life = Life(trainer, workdir)
    if not life.wait_for(lambda: is_saved(workdir, trainer.num_steps)):
        return ""
    life.end(signal.SIGKILL)
    return checkpoint.digest(workdir, trainer.num_steps)


# Deaths -----------------------------------------------------------------------------------------


def strike(
    trainer: Trainer, workdir: pathlib.Path, way: str, rng: random.Random, delay: float
) -> Outcome | None:
    """Starts a run and ends it at a random moment in one of `WAYS`; None if that came too late."""
    step, life = rng.randrange(1, trainer.num_steps), Life(trainer, workdir)
    moments = {
        "kill": lambda: steps_logged(workdir) >= step,
        "save": lambda: is_saving(workdir, step),
        "term": lambda: steps_logged(workdir) >= step,
    }
    if not life.wait_for(moments[way]):
        return None
    time.sleep(rng.uniform(0, 0.05 if way == "save" else delay))
    status = life.end(signal.SIGTERM if way == "term" else signal.SIGKILL)
    story = f"{way} at step {steps_logged(workdir)}"
    if way == "term":
        done = is_saved(workdir, trainer.num_steps)  # no steps were left to be stopped
        in_order = status == 128 + signal.SIGTERM or done
        return Outcome(story, "" if in_order else f"SIGTERM ended it with status {status}")
    return Outcome(f"{story}, in the middle of a save" if is_saving(workdir) else story, "")


def trial(
    trainer: Trainer, workdir: pathlib.Path, way: str, seed: str, expected: str, delay: float
) -> Outcome:
    """Strikes a fresh run down, lets it resume, and compares its end."""
    rng, struck = random.Random(seed), None
    try:
        for attempt in range(ATTEMPTS):
            place = workdir / str(attempt)
            place.mkdir(parents=True)
            struck = strike(trainer, place / "run", way, rng, delay)
            if struck is not None:
                break
        if struck is None or struck.problem:
            return struck or Outcome(way, f"ended {ATTEMPTS} times before it could be struck")
        found = run_to_end(trainer, place / "run")
    except TimeoutError as error:
        return Outcome(way, str(error))
    if not found:
        return Outcome(struck.story, "did not come to its end when started again")
    return Outcome(struck.story, "" if found == expected else "ended in another state")


def trials(
    trainer: Trainer, kills: int, seed: int, folder: pathlib.Path, jobs: int
) -> Iterator[Outcome]:
    """Runs a trainer once in peace and `kills` times not, `jobs` at a time."""
    begun = time.monotonic()
    expected = run_to_end(trainer, folder / "peace")
    if not expected:
        log = (folder / "peace.log").read_text()[-2000:]
        yield from itertools.repeat(Outcome("undisturbed", f"did not run:\n{log}"), kills)
        return
    delay = (time.monotonic() - begun) / trainer.num_steps / 10  # some of a step

    def one(number: int) -> Outcome:
        way, name = WAYS[number % len(WAYS)], f"{trainer.name}-{seed}-{number}"
        return trial(trainer, folder / str(number), way, name, expected, delay)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(one, range(kills))


def main(argv: Sequence[str]) -> None:
    """Tries every trainer, prints a line a trial and the sum, and fails if any trial did."""
    del argv
    passed = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for trainer in discover(FLAGS.trainers):
            place = pathlib.Path(folder) / trainer.name
            place.mkdir()
            for outcome in trials(trainer, FLAGS.kills, FLAGS.seed, place, FLAGS.jobs):
                passed, failed = passed + (not outcome.problem), failed + bool(outcome.problem)
                verdict = f"FAILED: {outcome.problem}" if outcome.problem else "passed"
                print(f"{trainer.name}: {outcome.story}: {verdict}", flush=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


def define_flags() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_integer("kills", 20, "How often each trainer is killed.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of steps and moments.")
    flags.DEFINE_list("trainers", [], "Names of scripts in train/; all of them by default.")
    flags.DEFINE_integer("jobs", 1, "Runs at a time.", lower_bound=1)


if __name__ == "__main__":
    define_flags()
    app.run(main)
