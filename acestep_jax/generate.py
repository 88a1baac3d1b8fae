"""Makes songs from the command line.

    python -m acestep_jax.generate --caption "a quiet waltz" --instrumental --out waltz.flac
    python -m acestep_jax.generate --model checkpoints/acestep-v15-turbo --requests a.yaml --out a/
    python -m acestep_jax.generate --lyrics_file boat.txt --best_of 8 --score aas --out boat.flac
    python -m acestep_jax.generate --again boat.flac --out boat_again.wav

A file of requests is a JSON or YAML list; each entry has the fields of `tasks.request.Request`,
with files in place of sound (`source`, `references`), and may name its own `out`. The ending of an
output chooses its format: wav, flac, ogg or mp3. Its comment holds the model, the request and the
settings: with `--again` the song is made once more. With `--best_of` a request is made several
times, by seeds that follow its own, and what the rewards of training prefer is kept
(`tasks.choosing`).
"""

import argparse
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from acestep_jax import arguments as arguments_lib
from acestep_jax import compilation, songfiles, units
from acestep_jax.songfiles import BadCall
from acestep_jax.tasks import alignment, choosing
from acestep_jax.tasks.alignment import Reading
from acestep_jax.tasks.pipeline import Pipeline, Song
from acestep_jax.tasks.planning import think
from acestep_jax.tasks.planning.planner import Planner
from acestep_jax.tasks.request import Request
from acestep_jax.tasks.settings import show


def main(
    argv: Sequence[str] | None = None, *, load: Callable[..., Pipeline] = Pipeline.load
) -> int:
    """Runs the command; returns the exit status.

    Args:
      argv: arguments; those of the process by default.
      load: makes the pipeline.
    """
    said = arguments_lib.parser().parse_args(argv)
    compilation.enable_cache()
    try:
        _run(said, load)
    except (BadCall, ValueError, OSError) as error:  # BadRequest is a ValueError
        print(f"{type(error).__name__}: {songfiles.one_line(error)}", file=sys.stderr)
        return 2
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        hint = "try --by_stage, --weights int8, a shorter song or fewer takes"
        print(f"The device's memory is too small for this; {hint}.", file=sys.stderr)
        return 2
    return 0


def _run(said: argparse.Namespace, load: Callable[..., Pipeline]) -> None:
    """Refuses what cannot be done, then makes the songs and writes them."""
    settings = None
    if said.again is None:
        entries = arguments_lib.entries(said)
    else:
        said, entry, settings = arguments_lib.again(said)
        entries = [entry]
    outs = _outputs(entries, said.out)
    requests = [songfiles.make_request(entry) for entry in entries]
    pipe = _load(said, load)
    settings = settings or arguments_lib.settings(said, pipe.settings)
    for request in requests:
        pipe.check(request)
    scores = _scores(said, requests)
    planner = _planner(said) if said.think is not None or "pmi" in scores else None
    requests, entries = _takes(said.best_of, requests, entries)
    if planner is not None and said.think is not None:
        requests, entries = _think(said, planner, requests, entries)
    made = pipe.stream(requests, settings=settings, progress=Bars())
    if said.best_of > 1:
        takes = dict(made)
        best = _best(said, scores, pipe, planner, [takes[i] for i in range(len(takes))])
        made, entries = enumerate(takes[i] for i in best), [entries[i] for i in best]
    for i, song in made:  # each is written when it is done: what comes later may fail
        songfiles.write_song(outs[i], song, entries[i], arguments_lib.call(said))
        print(f"{outs[i]}  {len(song.audio) / units.SAMPLE_RATE:.2f} s", flush=True)


def _load(said: argparse.Namespace, load: Callable[..., Pipeline]) -> Pipeline:
    adapters = [read_adapter(text) for text in said.lora]
    pipe = load(
        said.model or said.preset,
        weights=said.weights,
        dtype=said.dtype,
        resident=not said.by_stage,
    )
    return pipe.with_adapters(*adapters, merge=said.merge_lora) if adapters else pipe


class Bars:
    """A bar for each stage, on standard error: how much of it is done, and since when."""

    def __init__(self, width: int = 20) -> None:
        self._width, self._stage, self._start = width, "", 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self._stage, self._start = stage, time.monotonic()
        filled = self._width * done // max(total, 1)
        bar = "#" * filled + "-" * (self._width - filled)
        spent = time.monotonic() - self._start
        end = "\r" if done < total and sys.stderr.isatty() else "\n"
        line = f"{stage:<10}[{bar}] {done}/{total}  {spent:.1f} s"
        print(line, end=end, file=sys.stderr, flush=True)


def _planner(arguments: argparse.Namespace) -> Planner:
    folder = think.find_planner(arguments.think or "", arguments.model)
    return Planner.load(folder, dtype=arguments.dtype, rules=think.SONG_RULES)


def _scores(arguments: argparse.Namespace, requests: Sequence[Request]) -> tuple[str, ...]:
    """Reads what takes are chosen by; nothing where there is one take."""
    if arguments.best_of < 1:
        raise BadCall(f"--best_of {arguments.best_of}; make one take or more.")
    if arguments.best_of == 1:
        return ()
    names = tuple(name.strip() for name in arguments.score.split(","))
    choosing.check(requests, names)
    return names


def _takes(
    count: int, requests: list[Request], entries: list[dict[str, Any]]
) -> tuple[list[Request], list[dict[str, Any]]]:
    """Repeats requests by other seeds; their entries tell the seed."""
    if count == 1:
        return requests, entries
    takes = choosing.repeat(requests, count)
    pairs = zip(takes, (entry for entry in entries for _ in range(count)), strict=True)
    return takes, [entry | {"seed": take.seed} for take, entry in pairs]


def _best(
    arguments: argparse.Namespace,
    names: Sequence[str],
    pipe: Pipeline,
    planner: Planner | None,
    songs: Sequence[Song],
) -> list[int]:
    """Picks the best takes, and prints all scores."""
    takes, latents = [song.request for song in songs], [song.latents for song in songs]
    scores = {}
    if "aas" in names:
        model = arguments.model or arguments.preset
        ear, heads = alignment.open_ear(pipe, model, aligner=arguments.aligner)
        reading = Reading(heads, t=1 / songs[0].settings.steps, draws=arguments.score_draws)
        scores["aas"] = choosing.alignment_scores(ear, takes, latents, reading)
    if planner is not None and "pmi" in names:
        scores["pmi"] = choosing.information_scores(planner, pipe, takes, latents)
    best = choosing.choose(list(scores.values()), arguments.best_of)
    for i, take in enumerate(takes):
        shown = "  ".join(f"{name} {values[i]:.4f}" for name, values in scores.items())
        print(f"take with seed {take.seed}: {shown}{'  *' if i in best else ''}")
    return best


def _think(
    arguments: argparse.Namespace,
    planner: Planner,
    requests: list[Request],
    entries: list[dict[str, Any]],
) -> tuple[list[Request], list[dict[str, Any]]]:
    """Lets a planner fill requests in and write their codes; what it chose joins the entries."""
    planned = think.plan_requests(planner, requests, rewrite_caption=not arguments.keep_caption)
    pairs = zip(entries, requests, planned, strict=True)
    return planned, [entry | think.changes(old, new) for entry, old, new in pairs]


def read_adapter(text: str) -> tuple[str, float]:
    """Reads "path" or "path:weight".

    Raises:
      BadCall: if the weight is not finite.
    """
    path, mark, weight = text.rpartition(":")
    try:
        pair = (path, float(weight)) if mark else (text, 1.0)
    except ValueError:  # a path with a colon in it
        pair = (text, 1.0)
    if not math.isfinite(pair[1]):
        raise BadCall(f"the adapter {text!r} has the weight {pair[1]}; use a finite number.")
    return pair


def _outputs(entries: Sequence[Mapping[str, Any]], out: pathlib.Path) -> list[pathlib.Path]:
    """Names a file for each song.

    Raises:
      BadCall: for endings that no format has, several songs for one file, one name twice, or a
        place where no file can be.
    """
    if len(entries) == 1 and "out" not in entries[0] and out.suffix:
        outs = [out]
    elif out.suffix:
        raise BadCall(f"{out} is one file, and there are {len(entries)} songs; name a folder.")
    else:
        outs = [out / e.get("out", f"song_{i:03d}.flac") for i, e in enumerate(entries)]
    for path in outs:
        _check_place(path, inside=None if outs == [out] else out)
        if path.suffix not in songfiles.FORMATS:
            raise BadCall(
                f"{path} ends in {path.suffix!r}; use one of {', '.join(songfiles.FORMATS)}."
            )
    if len(set(outs)) < len(outs):
        raise BadCall("two songs have one output file.")
    return outs


def _check_place(path: pathlib.Path, inside: pathlib.Path | None) -> None:
    """Refuses, before anything is computed, names where no song can be written."""
    if "\0" in str(path):
        raise BadCall(f"{show(str(path))} is no name of a file.")
    if inside is not None and (".." in path.parts or not path.is_relative_to(inside)):
        raise BadCall(f"{path} leads out of {inside}; name files in it.")
    existing = next(place for place in path.parents if place.exists())
    if path.is_dir() or not existing.is_dir():
        raise BadCall(f"{path} cannot be written: a folder, or a file in the way of one.")
    longest = os.pathconf(existing, "PC_NAME_MAX") - len(songfiles.PARTIAL)
    if any(len(os.fsencode(part)) > longest for part in path.parts):
        raise BadCall(f"{show(str(path))} is too long a name; {longest} bytes fit.")
    if not os.access(existing, os.W_OK):
        raise BadCall(f"{path} cannot be written: {existing} is not ours to write in.")


if __name__ == "__main__":
    sys.exit(main())
