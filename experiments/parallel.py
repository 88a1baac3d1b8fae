"""Do songs that are made at once cost less than one after another?

    python -m experiments.parallel [--preset nano] [--seconds 10 30 60] [--songs 4]

The whole way of the pipeline, from requests with lyrics to sound, for one song and for several at
once; by wall clock and by processor time, medians of a few rounds in turn. A device that a single
song leaves idle gains; a processor gains where a song is short. The last line is one JSON object.
"""

import argparse
import json
import time
from collections.abc import Sequence

import numpy as np

import acestep_jax as ace
from acestep_jax import compilation

_LINE = "the river runs below the stars tonight"
_SECONDS_A_LINE = 4.0


def requests(count: int, seconds: float) -> list[ace.Request]:
    """Makes requests that differ in their seed alone."""
    lyrics = "\n".join(["[verse]", *[_LINE] * max(1, int(seconds / _SECONDS_A_LINE))])
    given = {"caption": "calm piano", "lyrics": lyrics, "language": "en", "duration": seconds}
    return [ace.Request(bpm=90, seed=seed, **given) for seed in range(count)]


def measure(pipe: ace.Pipeline, seconds: float, songs: int, rounds: int) -> dict[str, float]:
    """Times one song and several in turn: {"alone", "together"}: seconds a song, both clocks."""
    times: dict[str, list[tuple[float, float]]] = {"alone": [], "together": []}
    for number in range(1 + rounds):  # the first compiles
        for name, count in (("alone", 1), ("together", songs)):
            begin = time.perf_counter(), time.process_time()
            made = pipe.generate(requests(count, seconds))
            spent = time.perf_counter() - begin[0], time.process_time() - begin[1]
            assert len(made) == count
            if number:
                times[name].append((spent[0] / count, spent[1] / count))
    found: dict[str, float] = {}
    for name, spans in times.items():
        wall, processor = np.median(spans, axis=0)
        found |= {f"{name}_s": float(wall), f"{name}_processor_s": float(processor)}
    return found | {"share": found["together_s"] / found["alone_s"]}


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="nano", help="or a folder, or a hub id")
    parser.add_argument("--seconds", type=float, nargs="+", default=[10, 30, 60])
    parser.add_argument("--songs", type=int, default=4, help="at once")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    compilation.enable_cache()
    pipe = ace.Pipeline.load(options.preset)
    found = {}
    for seconds in options.seconds:
        own = measure(pipe, seconds, options.songs, options.rounds)
        found[f"{seconds:g} s"] = {name: round(value, 3) for name, value in own.items()}
        print(
            f"{seconds:g} s: a song alone {own['alone_s']:.2f} s, of {options.songs} at once "
            f"{own['together_s']:.2f} s ({100 * own['share']:.0f} %); processor time "
            f"{own['alone_processor_s']:.2f} and {own['together_processor_s']:.2f} s",
            flush=True,
        )
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
