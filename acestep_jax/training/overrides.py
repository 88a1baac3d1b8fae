"""Fields of nested frozen dataclasses, set by dotted name and text, and listed with their help.

The type of a field reads its value; the comment beside it (or right above) is its help text; a name
that does not exist is answered with the nearest one that does.
"""

import ast
import dataclasses
import difflib
import inspect
import io
import re
import tokenize
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeVar, Union

Config = TypeVar("Config")


class ConfigError(ValueError):
    """A field that does not exist, or a value that its type refuses."""


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
