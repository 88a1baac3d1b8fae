"""The command line of `acestep_jax.generate`: what it can say, and what of that was said.

Fields of a request and settings of the sampler that are not given are absent from the namespace:
so the request's own defaults hold, and what contradicts a file is noticed.
"""

import argparse
import dataclasses
import pathlib
from typing import Any

from acestep_jax import songfiles
from acestep_jax.songfiles import BadCall
from acestep_jax.tasks import loading
from acestep_jax.tasks.request import Request
from acestep_jax.tasks.settings import Settings

FIELDS = {field.name for field in dataclasses.fields(Request)}
SETTINGS = {field.name for field in dataclasses.fields(Settings)}
_PRECISIONS = ("float32", "bfloat16", "int8")


def parser() -> argparse.ArgumentParser:
    """Builds the parser of the command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m acestep_jax.generate",
        description="Makes songs from captions and lyrics.",
        allow_abbrev=False,
    )
    _add_model(made.add_argument_group("model"))
    _add_call(made.add_argument_group("what to do"))
    _add_request(made.add_argument_group("the song, where no file of requests is named"))
    _add_settings(made.add_argument_group("sampling; the model's own by default"))
    return made


def _add_model(group: Any) -> None:
    add = group.add_argument
    add("--preset", default="nano", choices=list(loading.SHIPPED), help="shipped weights")
    add("--model", default="", help="folder or hub id of other weights")
    add("--weights", default="float32", choices=_PRECISIONS, help="what parameters are kept in")
    add("--dtype", default="float32", choices=_PRECISIONS[:2], help="what is computed in")
    add("--by_stage", action="store_true", help="one stage at a time on the device: less memory")
    add("--lora", nargs="*", default=[], metavar="PATH[:WEIGHT]", help="LoRA or LoKr, several")
    add("--merge_lora", action="store_true", help="add LoRA to the kernels: quicker sampling")


def _add_call(group: Any) -> None:
    add = group.add_argument
    add("--out", type=pathlib.Path, required=True, help="file; a folder for several songs")
    add("--requests", type=pathlib.Path, help="JSON or YAML list of requests")
    add("--again", type=pathlib.Path, metavar="SONG", help="make this command's song once more")
    add("--think", nargs="?", const="", metavar="PLANNER", help="let a planner fill in the request")
    add("--keep_caption", action="store_true", help="think, but leave the caption as it is")
    add("--best_of", type=int, default=1, metavar="N", help="make N takes of each, keep the best")
    add("--score", default="aas", help="what takes are chosen by: aas, pmi (by a planner), aas,pmi")
    add("--aligner", default="", help="folder or hub id of who listens for aas; the model's own")
    add("--score_draws", type=int, default=4, help="draws of noise that aas is averaged over")


def _add_request(group: Any) -> None:
    def add(name: str, **options: Any) -> None:
        group.add_argument(name, default=argparse.SUPPRESS, **options)

    add("--caption")
    add("--lyrics")
    group.add_argument("--lyrics_file", type=pathlib.Path)
    add("--instrumental", action="store_true")
    add("--task")
    add("--instruction", help="instead of the task's own sentence")
    add("--language")
    add("--bpm", type=int)
    add("--keyscale")
    add("--timesignature")
    add("--duration", type=float, help="seconds")
    add("--source", help="sound file that the task starts from")
    add("--references", nargs="*", help="sound files whose sound to take on")
    add("--tracks", nargs="*")
    add("--span", nargs=2, type=float, metavar=("START", "END"), help="seconds")
    add("--hide_span", dest="tell_span", action="store_false", help="let the source alone tell it")
    add("--cover_strength", type=float)
    add("--cover_noise", type=float)
    add("--no_cover_codes", dest="cover_codes", action="store_false", help="cover the latents")
    add("--keeping")
    add("--seed", type=int)


def _add_settings(group: Any) -> None:
    def add(name: str, kind: Any = float, **options: Any) -> None:
        group.add_argument(name, default=argparse.SUPPRESS, type=kind, **options)

    add("--steps", int)
    add("--shift")
    add("--times", nargs="*", help="levels instead of steps, falling")
    add("--solver", str)
    add("--rule", str, help="guidance: none, cfg, apg, adg")
    add("--guidance")
    add("--interval", nargs=2, metavar=("LOWEST", "HIGHEST"), help="levels to guide at")
    add("--retake")
    add("--retake_seed", int)
    add("--velocity_limit")
    add("--velocity_memory")
    add("--wavelet", str)
    add("--wavelet_low")
    add("--wavelet_high")


def given(arguments: argparse.Namespace, names: set[str]) -> dict[str, Any]:
    """Takes those of the named arguments that were said."""
    return {name: value for name, value in vars(arguments).items() if name in names}


def settings(arguments: argparse.Namespace, default: Settings) -> Settings:
    """Puts what was said of sampling into a model's own settings.

    Raises:
      ValueError: for settings that cannot be.
    """
    said = given(arguments, SETTINGS).items()
    return dataclasses.replace(
        default, **{name: tuple(v) if isinstance(v, list) else v for name, v in said}
    )


def entries(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Collects the requests' fields, from the file or from the command line.

    Raises:
      BadCall: for a file that cannot be read, and for requests by both.
    """
    said = given(arguments, FIELDS)
    lyrics_file = arguments.lyrics_file
    if arguments.requests is None:
        if lyrics_file is not None and "lyrics" in said:
            raise BadCall("--lyrics and --lyrics_file are two texts; give one.")
        words = {} if lyrics_file is None else {"lyrics": songfiles.read_text(lyrics_file)}
        return [said | words]
    also = sorted(said) + ["lyrics_file"] * (lyrics_file is not None)
    if also:
        raise BadCall(f"{arguments.requests} says what to make; write {', '.join(also)} in it.")
    return songfiles.read_requests(arguments.requests)


_CALL = ("preset", "model", "weights", "dtype", "lora", "merge_lora")


def call(arguments: argparse.Namespace) -> list[str]:
    """Lists the arguments that name the model and its adapters, for `again`."""
    words: list[str] = []
    for name in _CALL:
        value = getattr(arguments, name)
        if value and value is not True:
            words += [f"--{name}", *([value] if isinstance(value, str) else value)]
        elif value:
            words.append(f"--{name}")
    return words


def again(arguments: argparse.Namespace) -> tuple[argparse.Namespace, dict[str, Any], Settings]:
    """Reads what made a song: the model's arguments, the request's fields, and the settings.

    Raises:
      BadCall: if the file does not say, or something else than its place is asked for.
    """
    plain = parser().parse_args(["--out", str(arguments.out)])
    free = ("out", "again", "by_stage")
    other = sorted(name for name, value in vars(arguments).items()
                   if name not in free and vars(plain).get(name) != value)  # fmt: skip
    if other:
        raise BadCall(f"{arguments.again} says how it was made; leave out {', '.join(other)}.")
    made = songfiles.read_made(arguments.again)
    try:
        model = parser().parse_args([*map(str, made["call"]), "--out", str(arguments.out)])
    except SystemExit as stop:
        raise BadCall(f"{arguments.again} names a model that cannot be: {made['call']}.") from stop
    model.by_stage = arguments.by_stage
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in made["settings"].items()}
    if set(values) != SETTINGS:
        raise BadCall(f"{arguments.again} has settings {sorted(values)}; known: {sorted(SETTINGS)}")
    return model, made["request"], Settings(**values)
