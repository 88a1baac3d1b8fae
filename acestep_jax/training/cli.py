"""From a command line to a checked configuration, and from there into a run.

    python -m train.distill --config configs/nano/distill.py --set student.peak_lr=1e-5

On several machines every process runs the same command; `--cluster` and the flags beside it say how
they find each other (`processes.join`, and experiments/launch for TPU pods, SLURM and Kubernetes).

`--config` names a file with `get_config(quick=False)`; `--set` overrides any field, its value read
by the field's type; `--help_config` prints every field with its value and the comment beside it.
The resolved configuration is saved with the run, and a run resumes only with the same one.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import pprint
import sys
from collections.abc import Callable, Generator, Sequence
from typing import Any

import jax
from absl import app, flags, logging

from acestep_jax import compilation
from acestep_jax.training import config as config_lib
from acestep_jax.training import files, processes, topologies
from acestep_jax.training.checkpoint import CheckpointError
from acestep_jax.training.metrics import NonFiniteLoss
from acestep_jax.training.overrides import ConfigError, describe, override

FLAGS = flags.FLAGS


def define_flags(values: flags.FlagValues = FLAGS) -> None:
    """Defines the flags every training script has; once a process."""
    if "config" in values:
        return
    flags.DEFINE_string(
        "config", None, "Python file with get_config(quick=False).", flag_values=values
    )
    flags.DEFINE_multi_string(
        "set", [], "Override a field: --set mesh.fsdp=8. Repeatable.", flag_values=values
    )
    flags.DEFINE_string(
        "workdir", None, "Folder of the run; runs/<name> by default.", flag_values=values
    )
    flags.DEFINE_bool(
        "quick",
        False,
        "The toy form of the configuration, which runs anywhere.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "help_config", False, "List the fields of the configuration, and stop.", flag_values=values
    )
    flags.DEFINE_enum(
        "resume",
        "same",
        ["same", "changed", "fresh"],
        "With a run in the workdir: resume it if the configuration is the same, resume it though "
        "that changed, or set it aside and start afresh.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "cluster",
        "auto",
        ["auto", "join", "off"],
        "Several processes: join them if a launcher says so, in any case, or never.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "coordinator", None, "host:port of process 0, where no launcher tells.", flag_values=values
    )
    flags.DEFINE_integer(
        "num_processes", None, "How many processes run, with --coordinator.", flag_values=values
    )
    flags.DEFINE_integer(
        "process_id", None, "Which of them this is, with --coordinator.", flag_values=values
    )
    flags.DEFINE_bool(
        "dry_run",
        False,
        "Compile every step for simulated devices, print what a run would take, and stop.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "devices", 8, "How many devices are simulated, with --dry_run.", flag_values=values
    )
    flags.DEFINE_string(
        "topology",
        "",
        "Accelerators to compile for in their place, none needed: v5p:2x2x2, h100:8.",
        flag_values=values,
    )


def run(
    main: Callable[[Any], None],
    default_config: str | None = None,
    rehearse: Callable[..., Any] | None = None,
) -> None:
    """Runs `main(config)` with the configuration that the command line asks for.

    Args:
      main: the training script's entry; it finds its folder in `config.workdir`.
      default_config: the file to use without `--config`.
      rehearse: what `--dry_run` calls in place of it, with the devices of `--topology` or None
        for simulated ones.
    """
    define_flags()

    def absl_main(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments {argv[1:]}; fields are set with --set.")
        logging.set_verbosity(logging.WARNING)
        try:
            config = _config_from_flags(default_config)
        except (ConfigError, FileNotFoundError) as error:
            raise app.UsageError(str(error)) from error
        if FLAGS.help_config:
            print(describe(config))
            return
        if FLAGS.dry_run:
            with plain_errors():
                _rehearse(rehearse, config)
            return
        compilation.enable_cache()
        with plain_errors():
            join_processes()
            prepare_workdir(config, FLAGS.resume)
            main(config)

    app.run(absl_main)


def _rehearse(rehearse: Callable[..., Any] | None, config: Any) -> None:
    """Turns this machine into `--devices` processors, or thinks of TPUs, and compiles for them."""
    if rehearse is None:
        raise app.UsageError("this trainer has no --dry_run; train.distill has one.")
    jax.config.update("jax_platforms", "cpu")  # before JAX looks for devices
    jax.config.update("jax_num_cpu_devices", FLAGS.devices)
    rehearse(config, topologies.describe(FLAGS.topology) if FLAGS.topology else None)


def join_processes() -> None:
    """Joins the other processes of the run, if the flags or the launcher say that there are any.

    Raises:
      ConfigError: if the flags do not fit together, or the others do not answer.
    """
    try:
        processes.join(
            FLAGS.cluster,
            coordinator=FLAGS.coordinator,
            num_processes=FLAGS.num_processes,
            process_id=FLAGS.process_id,
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(str(error)) from error


@contextlib.contextmanager
def plain_errors() -> Generator[None]:
    """Ends the process at an error that a run foresees, with its message last on the screen.

    Without the interpreter's tear-down: after a full disk, writes that Orbax has given up would
    bury the message under a traceback each.
    """
    try:
        yield
    except (CheckpointError, ConfigError, NonFiniteLoss) as error:
        sys.stdout.flush()
        sys.stderr.write(f"\n{type(error).__name__}: {error}\n")
        sys.stderr.flush()
        os._exit(1)


def _config_from_flags(default_config: str | None) -> Any:
    path = FLAGS.config or default_config
    if path is None:
        raise ConfigError("--config is missing; name a file such as configs/nano/dit.py.")
    config = override(load_config(path, quick=FLAGS.quick), FLAGS.set)
    quick = "_quick" if FLAGS.quick else ""
    workdir = FLAGS.workdir or config.workdir or f"runs/{config.name}{quick}"
    return dataclasses.replace(config, workdir=workdir)


def load_config(path: str | pathlib.Path, *, quick: bool = False) -> Any:
    """Reads the configuration that a Python file describes.

    Raises:
      FileNotFoundError: if there is no such file.
      ConfigError: if the file has no `get_config`.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no configuration file {path}; is the folder right?")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{path} has no function get_config(quick=False).")
    return module.get_config(quick=quick)


# The run's folder -----------------------------------------------------------------------------


def to_json(config: Any) -> dict[str, Any]:
    """Turns a configuration into nested dictionaries that JSON keeps (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def prepare_workdir(config: Any, resume: str = "same") -> pathlib.Path:
    """Makes the run's folder and saves the resolved configuration in it; the first process does.

    Writes `config.json` and `config.py.txt`, the same as a Python expression.

    Args:
      config: the resolved configuration, `workdir` included.
      resume: what to do with an earlier run in the folder: "same" resumes it if its configuration
        is the same up to `config.FREE_FIELDS`; "changed" resumes it in any case; "fresh" renames
        the folder and starts anew.

    Raises:
      ConfigError: if the folder holds a run with another configuration; it names the fields.
    """
    try:
        processes.first_does(lambda: _prepare(config, resume))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return pathlib.Path(config.workdir)


def _prepare(config: Any, resume: str) -> None:
    workdir = pathlib.Path(config.workdir)
    saved = workdir / "config.json"
    if saved.is_file() and resume == "fresh":
        aside = next(
            path
            for path in (workdir.with_name(f"{workdir.name}.{i}") for i in range(1, 10_000))
            if not path.exists()
        )
        workdir.rename(aside)
        logging.warning("The earlier run in %s is now in %s.", workdir, aside)
    elif saved.is_file() and resume == "same":
        differing = [
            name
            for name in config_lib.differing_fields(json.loads(saved.read_text()), to_json(config))
            if not {name, name.partition(".")[0]} & set(config_lib.FREE_FIELDS)
        ]
        if differing:
            raise ConfigError(
                f"{workdir} holds a run that differs in {', '.join(differing)}; use another "
                "--workdir, --resume changed to go on all the same, or --resume fresh to set the "
                "earlier run aside."
            )
    workdir.mkdir(parents=True, exist_ok=True)
    files.write_atomically(saved, json.dumps(to_json(config), indent=2) + "\n")
    files.write_atomically(workdir / "config.py.txt", pprint.pformat(config, width=100) + "\n")
