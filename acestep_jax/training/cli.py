"""From a command line to a checked configuration, and from there into a run.

    python -m train.distill --config configs/nano/distill.py --set student.peak_lr=1e-5

`--config` names a file with `get_config(quick=False)`; `--set` overrides any field, its value read
by the field's type; `--help_config` prints every field with its value and the comment beside it.
The resolved configuration is saved with the run, and a run resumes only with the same one.
"""

import ast
import contextlib
import dataclasses
import difflib
import importlib.util
import inspect
import io
import json
import os
import pathlib
import pprint
import re
import sys
import tokenize
import types
import typing
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Literal, TypeVar, Union

from absl import app, flags, logging

from acestep_jax import compilation
from acestep_jax.training import config as config_lib
from acestep_jax.training import files
from acestep_jax.training.checkpoint import CheckpointError
from acestep_jax.training.metrics import NonFiniteLoss

FLAGS = flags.FLAGS
Config = TypeVar("Config")


class ConfigError(ValueError):
    """A field that does not exist, or a value that its type refuses."""


def define_flags() -> None:
    """Defines the flags every training script has; once a process."""
    if "config" in FLAGS:
        return
    flags.DEFINE_string("config", None, "Python file with get_config(quick=False).")
    flags.DEFINE_multi_string("set", [], "Override a field: --set mesh.fsdp=8. Repeatable.")
    flags.DEFINE_string("workdir", None, "Folder of the run; runs/<name> by default.")
    flags.DEFINE_bool("quick", False, "The toy form of the configuration, which runs anywhere.")
    flags.DEFINE_bool("help_config", False, "List the fields of the configuration, and stop.")
    flags.DEFINE_enum(
        "resume",
        "same",
        ["same", "changed", "fresh"],
        "With a run in the workdir: resume it if the configuration is the same, resume it though "
        "that changed, or set it aside and start afresh.",
    )


def run(main: Callable[[Any], None], default_config: str | None = None) -> None:
    """Runs `main(config)` with the configuration that the command line asks for.

    Args:
      main: the training script's entry; it finds its folder in `config.workdir`.
      default_config: the file to use without `--config`.
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
        compilation.enable_cache()
        with plain_errors():
            prepare_workdir(config, FLAGS.resume)
            main(config)

    app.run(absl_main)


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


# Overrides ------------------------------------------------------------------------------------


def override(config: Config, assignments: Sequence[str]) -> Config:
    """Sets fields of nested frozen dataclasses from texts such as `"student.peak_lr=1e-5"`.

    Returns:
      A new configuration, whose own checks have run again.

    Raises:
      ConfigError: for a field that does not exist (it names the nearest real one), a value that the
        field's type refuses, or a combination that the configuration refuses.
    """
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator:
            raise ConfigError(f"--set {assignment}: expected field=value.")
        config = _replace(config, name.strip(), text.strip(), config, name.strip())
    return config


def _replace(node: Any, path: str, text: str, root: Any, full_path: str) -> Any:
    head, _, rest = path.partition(".")
    if not dataclasses.is_dataclass(node) or head not in _field_names(node):
        raise ConfigError(_unknown_field(root, full_path))
    value = getattr(node, head)
    if rest:
        value = _replace(value, rest, text, root, full_path)
    elif dataclasses.is_dataclass(value):
        inside = ", ".join(f"{full_path}.{name}" for name in _field_names(value))
        raise ConfigError(f"{full_path} is a group of fields; set one of {inside}.")
    else:
        annotation = typing.get_type_hints(type(node))[head]
        value = parse_value(text, annotation, full_path)
    try:
        return dataclasses.replace(node, **{head: value})
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"--set {full_path}={text}: {error}") from error


def _unknown_field(root: Any, path: str) -> str:
    names = [name for name, _, _ in leaves(root)]
    last = path.rpartition(".")[2]
    nearest = [name for name in names if name.rpartition(".")[2] == last]  # in another place
    nearest = nearest or difflib.get_close_matches(path, names, n=1, cutoff=0.5)
    if not nearest:
        by_last = {name.rpartition(".")[2]: name for name in reversed(names)}
        nearest = [by_last[n] for n in difflib.get_close_matches(last, list(by_last), n=1)]
    hint = f"did you mean {' or '.join(nearest[:3])}?" if nearest else "see --help_config."
    return f"{type(root).__name__} has no field {path}; {hint}"


def parse_value(text: str, annotation: Any, name: str) -> Any:
    """Reads `text` as a value of type `annotation`.

    Knows bool, int, float, str, Literal, `X | None`, and tuples of these, written `1,2,3` or as a
    Python literal.

    Raises:
      ConfigError: if the text is no such value; the message names the field and the type.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        return _parse_union(text, arguments, name)
    if origin is Literal:
        return _parse_literal(text, arguments, name)
    if origin is tuple:
        return _parse_tuple(text, arguments, name)
    if annotation is str:
        return text
    if annotation is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise ConfigError(f"--set {name}={text}: expected true or false.")
    if annotation in (int, float):
        try:
            return annotation(text)
        except ValueError:
            kind = "a whole number" if annotation is int else "a number"
            raise ConfigError(f"--set {name}={text}: expected {kind}.") from None
    raise ConfigError(f"{name} has type {annotation} and can be set in a config file only.")


def _parse_union(text: str, arguments: tuple[Any, ...], name: str) -> Any:
    if type(None) in arguments and text.lower() == "none":
        return None
    problems = []
    for argument in arguments:
        if argument is type(None):
            continue
        try:
            return parse_value(text, argument, name)
        except ConfigError as error:
            problems.append(str(error).rpartition(": ")[2].rstrip("."))
    if type(None) in arguments:
        problems.append("or none")
    raise ConfigError(f"--set {name}={text}: {', '.join(problems)}.")


def _parse_literal(text: str, choices: tuple[Any, ...], name: str) -> Any:
    for choice in choices:
        if text == str(choice):
            return choice
    nearest = difflib.get_close_matches(text, [str(choice) for choice in choices], n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else "."
    raise ConfigError(
        f"--set {name}={text}: expected one of {', '.join(str(choice) for choice in choices)}{hint}"
    )


def _parse_tuple(text: str, arguments: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    if text[:1] in "([" and text:
        try:
            items = [str(item) for item in ast.literal_eval(text)]
        except (ValueError, SyntaxError):
            raise ConfigError(f"--set {name}={text}: expected a Python tuple.") from None
    else:
        items = [item.strip() for item in text.split(",") if item.strip()]
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(parse_value(item, arguments[0], name) for item in items)
    if len(items) != len(arguments):
        raise ConfigError(f"--set {name}={text}: expected {len(arguments)} values.")
    return tuple(
        parse_value(item, argument, name) for item, argument in zip(items, arguments, strict=True)
    )


# Listing --------------------------------------------------------------------------------------


def _field_names(node: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(node)]


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yields (dotted name, value, help text) of every settable field."""
    comments = _field_comments(type(node))
    for name in _field_names(node):
        value = getattr(node, name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, comments.get(name, "")


def _field_comments(cls: type) -> dict[str, str]:
    """Reads the comment beside each field, or right above it, of a class and those it inherits."""
    comments: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        name, above = "", []
        source = inspect.cleandoc("\n" + inspect.getsource(base))
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            line, words = token.line.strip(), token.string.lstrip("# ")
            if token.type == tokenize.COMMENT and line.startswith("#"):
                above.append(words)
            elif token.type == tokenize.COMMENT and name:
                comments[name] = words
            elif token.type == tokenize.NL and not line:
                above = []
            elif token.start[1] == 4 and re.match(rf"{re.escape(token.string)}\s*:", line):
                name = token.string
                comments[name], above = " ".join(above), []
    return comments


def describe(config: Any) -> str:
    """Writes a line for every field: name = value, and its help text."""
    rows = [(f"{name} = {value!r}", text) for name, value, text in leaves(config)]
    width = min(44, max(len(row) for row, _ in rows))
    return "\n".join(f"{row:<{width}}  {text}".rstrip() for row, text in rows)


# The run's folder -----------------------------------------------------------------------------


def to_json(config: Any) -> dict[str, Any]:
    """Turns a configuration into nested dictionaries that JSON keeps (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def prepare_workdir(config: Any, resume: str = "same") -> pathlib.Path:
    """Makes the run's folder and saves the resolved configuration in it.

    Writes `config.json` and `config.py.txt`, the same as a Python expression.

    Args:
      config: the resolved configuration, `workdir` included.
      resume: what to do with an earlier run in the folder: "same" resumes it if its configuration
        is the same up to `config.FREE_FIELDS`; "changed" resumes it in any case; "fresh" renames
        the folder and starts anew.

    Raises:
      ConfigError: if the folder holds a run with another configuration; it names the fields.
    """
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
            if name.partition(".")[0] not in config_lib.FREE_FIELDS
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
    return workdir
