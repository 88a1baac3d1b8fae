"""Does the planner plan what it is asked for, and hear what a song is?

    python -m experiments.planner.evaluate [--quick] [--planner FOLDER] [--audio FOLDER]

On songs whose tunes no training song has, rendered and encoded here, measured afresh:

- blueprints: the share that is valid, with and without the grammar, and the share that has the
  tempo and the key that the caption names, against the captions of the other songs;
- listening: from a song's codes, tempo within 4 % and the very key, against the other songs;
- codes: cross-entropy a code, after the true thought, after an empty one, and of counted unigram
  and bigram models, with an interval over songs;
- sound: codes of plans through detokenizer, DiT and autoencoder, beside the songs that the captions
  describe and beside noise: loudness, distance of mean spectra, and whether the key is the plan's.

The last line is one JSON object.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax import compilation
from acestep_jax.data.chat import Clip
from acestep_jax.ops import logits as logits_lib
from acestep_jax.sampling import decode
from acestep_jax.tasks.pipeline import Pipeline
from acestep_jax.tasks.planning import blueprint, chat, think
from acestep_jax.tasks.planning.blueprint import Blueprint
from acestep_jax.tasks.planning.planner import Brief, Drawing, Planner
from acestep_jax.tasks.request import Request
from acestep_jax.training import sound as sound_lib
from experiments.music import judges, statistics
from experiments.planner import songs as songs_lib
from experiments.planner.baselines import Counts

LYRIC_TOKENS = 256
"""Room for the lyrics of a clip; a smaller cache is read faster."""
SECONDS = 20
SONGS = 4
"""So many are made into sound."""
_BPM = re.compile(r"(\d{2,3}) ?bpm", re.IGNORECASE)
_KEY = re.compile(r"\b([A-G][#b]?) (major|minor)\b")


# Blueprints ---------------------------------------------------------------------------------------


def is_valid(own: Blueprint) -> bool:
    """Tells whether a request could be made from it: nothing missing, nothing out of range."""
    try:
        fields = {k: v for k, v in own.known().items() if k not in ("genres",)}
        duration = fields.pop("duration")
        Request(duration=float(duration), **fields)
    except (KeyError, ValueError, TypeError):
        return False
    return all(getattr(own, name) is not None for name in blueprint.WRITTEN)


def facts(caption: str) -> tuple[int | None, str | None]:
    """Reads tempo and key that a caption names."""
    bpm, key = _BPM.search(caption), _KEY.search(caption)
    return (int(bpm[1]) if bpm else None), (f"{key[1]} {key[2]}" if key else None)


def blueprints(planner: Planner, clips: Sequence[Clip]) -> dict[str, Any]:
    """Plans from captions that name tempo or key, with and without the grammar."""
    captions = [max(clip.labels.captions, key=_named) for clip in clips]
    briefs = [
        Brief(caption=caption, lyrics=clip.lyrics, seed=i)
        for i, (caption, clip) in enumerate(zip(captions, clips, strict=True))
    ]
    result: dict[str, Any] = {}
    for name, constrained in (("grammar", True), ("free", False)):
        drawing = Drawing(constrained=constrained)
        own = [plan.blueprint for plan in planner.generate(briefs, drawing, sing=False)]
        valid = sum(map(is_valid, own))
        result[f"valid_{name}"] = valid / len(own)
        result[f"valid_{name}_interval"] = statistics.rounded(statistics.wilson(valid, len(own)))
        if constrained:
            asked = [facts(caption) for caption in captions]
            result |= _reached(own, asked)
    return result


def _named(caption: str) -> int:
    return sum(fact is not None for fact in facts(caption))


def _reached(own: Sequence[Blueprint], asked: Sequence[tuple[int | None, str | None]]) -> dict:
    result = {}
    for place, name in enumerate(("bpm", "keyscale")):
        chosen = [i for i, fact in enumerate(asked) if fact[place] is not None]
        if len(chosen) > 1:
            table = [[getattr(own[i], name) == asked[j][place] for j in chosen] for i in chosen]
            result[f"{name}_reached"] = statistics.agreement(np.array(table))
    return result


# Listening ----------------------------------------------------------------------------------------


def listening(planner: Planner, clips: Sequence[Clip]) -> dict[str, Any]:
    """Describes songs from their codes, and compares tempo and key with all songs' own."""
    heard = [planner.understand(clip.codes, Drawing(temperature=0.0)).blueprint for clip in clips]
    tempo = [[abs(h.bpm / c.labels.bpm - 1) <= 0.04 for c in clips if c.labels.bpm] for h in heard]
    key = [[h.keyscale == c.labels.keyscale for c in clips] for h in heard]
    return {
        "bpm": statistics.agreement(np.array(tempo)),
        "keyscale": statistics.agreement(np.array(key)),
    }


# Codes --------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(0, 4))
def _code_losses(module: Any, params: Any, tokens: Any, mask: Any, span: decode.Span) -> Any:
    """Gives -log p of every token among the codes, as if none other could be written."""
    hidden = module.apply({"params": params}, tokens[:, :-1], mask=mask[:, :-1])
    rows = module.apply({"params": params}, hidden, (span.first, span.last), method="logits")
    own = jnp.clip(tokens[:, 1:] - span.first, 0, span.last - span.first - 1)
    is_code = (tokens[:, 1:] >= span.first) & (tokens[:, 1:] < span.last) & mask[:, 1:]
    return -logits_lib.token_log_probs(rows, own), is_code


def code_losses(planner: Planner, clips: Sequence[Clip], *, thinking: bool) -> np.ndarray:
    """Measures the mean loss a code of every clip, behind its true thought or an empty one."""
    vocabulary, means = planner.vocabulary, []
    for clip in clips:
        caption = clip.labels.captions[0]
        thought = blueprint.write_cot(clip.metadata(clip.labels.captions[-1]))
        parts = chat.code_prompt(caption, clip.lyrics, thought if thinking else chat.EMPTY_THOUGHT)
        ids = vocabulary.encode_prompt(parts) + vocabulary.code_tokens(clip.codes)
        padded = decode.pad_prompts([ids], vocabulary.pad, planner.context)
        arrays = map(jnp.asarray, padded)
        each, is_code = _code_losses(planner.module, planner.params, *arrays, planner.span)
        means.append(float(jnp.sum(each * is_code) / jnp.sum(is_code)))
    return np.array(means)


def cross_entropy(planner: Planner, clips: Sequence[Clip], counts: Counts) -> dict[str, Any]:
    """Compares the planner with counted models, clip by clip, in nats a code."""
    songs = [np.array(clip.codes) for clip in clips]
    columns = {
        "planner": code_losses(planner, clips, thinking=True),
        "planner_without_thought": code_losses(planner, clips, thinking=False),
        "unigram": np.array([counts.unigram(song) for song in songs]),
        "bigram": np.array([counts.bigram(song) for song in songs]),
    }
    result: dict[str, Any] = {k: round(float(v.mean()), 4) for k, v in columns.items()}
    for name, column in columns.items():
        if name != "planner":
            gain = column - columns["planner"]
            result[f"below_{name}"] = [round(float(gain.mean()), 4), _interval(gain)]
    return result


def _interval(values: np.ndarray, draws: int = 10_000) -> list[float]:
    """Bootstraps the mean over songs."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(draws, len(values)))].mean(axis=1)
    return statistics.rounded(np.quantile(means, (0.025, 0.975)))


# Sound --------------------------------------------------------------------------------------------


def sound(planner: Planner, pipe: Pipeline, clips: Sequence[Clip], heard: np.ndarray) -> dict:
    """Plans songs from captions, makes them, and compares them with the songs described.

    Args:
      planner: writes metadata and codes.
      pipe: makes songs of them.
      clips: whose captions are asked for.
      heard: sound of some real songs [N, W, 2].
    """
    asked = [
        Request(caption=clip.labels.captions[0], instrumental=True, duration=10.0, seed=i)
        for i, clip in enumerate(clips)
    ]
    planned = think.plan_requests(planner, asked)
    made = np.stack([song.audio for song in pipe.generate(planned)])
    noise = 0.1 * np.random.default_rng(0).standard_normal(made.shape).astype(np.float32)
    key_judge = judges.load_key_judge()
    in_key = sum(
        key_judge.estimate(audio) == request.keyscale
        for audio, request in zip(made, planned, strict=True)
    )
    return {
        "songs": len(made),
        "codes": [len(request.codes) for request in planned],
        "made": sound_lib.measure(made, heard),
        "noise": sound_lib.measure(noise, heard),
        "real, loudness, dB": float(sound_lib.loudness(heard).mean()),
        "in the plan's key": in_key / len(made),
    }


# The whole ----------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints a line a question, and everything as JSON last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--planner", default="", help="its folder; empty: the shipped one")
    parser.add_argument("--audio", type=pathlib.Path, default=songs_lib.FOLDER, help="of the songs")
    parser.add_argument("--quick", action="store_true", help="24 songs, not 64")
    parser.add_argument("--songs", type=int, help="another number of songs")
    parser.add_argument("--silent", action="store_true", help="leave the sound out")
    arguments = parser.parse_args(argv)
    compilation.enable_cache()
    start = time.perf_counter()
    planner = Planner.load(think.find_planner(arguments.planner))
    planner = dataclasses.replace(planner, lyric_tokens=LYRIC_TOKENS)
    count = arguments.songs or (24 if arguments.quick else 64)
    clips = songs_lib.cut_clips(songs_lib.held_out(count, arguments.audio), SECONDS)
    counts = Counts(songs_lib.load_codes(), planner.vocabulary.num_codes)
    result: dict[str, Any] = {"songs": len(clips)}
    measures = {
        "codes": lambda: cross_entropy(planner, clips, counts),
        "blueprints": lambda: blueprints(planner, clips),
        "listening": lambda: listening(planner, clips),
    }
    if not arguments.silent:
        some = clips[:SONGS]
        heard = songs_lib.hear([clip.labels.name for clip in some], folder=arguments.audio)
        measures["sound"] = lambda: sound(planner, Pipeline.load("nano"), some, heard)
    for name, measure in measures.items():
        result[name] = measure()
        print(f"{name}: {result[name]}", flush=True)
    result["seconds"] = round(time.perf_counter() - start, 1)
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
