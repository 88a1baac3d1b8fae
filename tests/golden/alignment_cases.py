"""Golden cases of alignment and warping, run through the package as they were recorded."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from outcomes import Outcome, compare, equal

from acestep_jax.ops import alignment, dtw
from acestep_jax.ops.alignment import Rules, Sizes
from acestep_jax.tasks import lyrics, timestamps

Arrays = Mapping[str, np.ndarray]

# Two float32 programs differ in the order of their sums; seen are 2e-7, 2e-6 and 4e-8.
ENERGY, SHARP, MEASURE = 5e-6, 1e-4, 1e-6
ROUNDED = 5e-5 + 1e-6  # of a score to four places
_warp = jax.jit(dtw.warp)
_energy = jax.jit(alignment.energy, static_argnums=2)
_score_song = jax.jit(alignment.score, static_argnums=3)
_sharpen = jax.jit(alignment.sharpen, static_argnames=("violence", "medfilt_width"))


def run_dtw(meta: Mapping[str, Any], arrays: Arrays) -> list[Outcome]:
    """Finds the path of every cost matrix."""
    count = meta.get("n", sum(name.startswith("cost_") for name in arrays))
    return [
        equal_paths(f"path_{i}", arrays[f"cost_{i}"], arrays[f"path_{i}"]) for i in range(count)
    ]


def equal_paths(name: str, cost: np.ndarray, expected: np.ndarray) -> Outcome:
    """Compares the path of a cost with the one recorded."""
    return compare(name, path_of(cost), np.asarray(expected).reshape(-1, 2))


def path_of(cost: np.ndarray) -> np.ndarray:
    """Warps one matrix; float64 costs that float32 cannot hold are added in float64."""
    single = cost.astype(np.float32)
    if np.array_equal(single, cost, equal_nan=True):
        return dtw.steps(_warp(single[None]))
    with jax.enable_x64(True):
        return dtw.steps(_warp(cost[None]))


def run_align(meta: Mapping[str, Any], arrays: Arrays) -> list[Outcome]:
    """Scores a song's maps and places its lyrics in time."""
    maps = jnp.asarray(chosen_maps(arrays["attention"], meta["config"]))[None]
    pieces = [bytes.fromhex(piece) for piece in meta["token_pieces_hex"]]

    def decode(ids: Any) -> str:
        return b"".join(pieces[i] for i in ids).decode(errors="replace")

    outcomes = _score(meta, arrays, maps, [decode([i]) for i in range(len(pieces))])
    return outcomes + _place(meta, arrays, maps, range(len(pieces)), decode)


def chosen_maps(attention: np.ndarray, config: Mapping[str, Any]) -> np.ndarray:
    """Stacks the heads of a config that exist, [H, N, M]; the release passes over the others.

    Raises:
      ValueError: if none exists.
    """
    layers, heads = attention.shape[:2]
    found = [
        attention[int(layer), head]
        for layer, own in config.items()
        for head in own
        if int(layer) < layers and head < heads
    ]
    if not found:
        raise ValueError(f"no head of {config} is among {layers} layers of {heads}")
    return np.stack(found).astype(np.float32)


def _sizes(maps: jax.Array) -> Sizes:
    return Sizes(*(jnp.full((1,), size, jnp.int32) for size in maps.shape[2:]))


def _score(
    meta: Mapping[str, Any], arrays: Arrays, maps: jax.Array, texts: list[str]
) -> list[Outcome]:
    width = meta.get("medfilt_width_scorer", 1)
    rules = Rules(medfilt_width=width, **meta.get("metric_kw", {}))
    sung = lyrics.sung_tokens(texts)
    if len(sung) != maps.shape[2]:  # as the release does where the two disagree
        sung = np.ones(maps.shape[2], bool)
    sizes = _sizes(maps)
    energies = _energy(maps, sizes, rules)
    scores, path = _score_song(energies, jnp.asarray(sung)[None], sizes, rules)
    outcomes = [
        compare("energy", energies[0], arrays["sc_energy"], ENERGY),
        compare("sc_calc", jnp.square(energies[0]), arrays["sc_calc"], ENERGY),
        compare("type_mask", sung, arrays["sc_type_mask"]),
        equal_paths("sc_path", -arrays["sc_calc"], arrays["sc_path"]),
    ]
    stored = arrays["sc_energy"].astype(np.float32)[None]
    staged, _ = _score_song(jnp.asarray(stored), jnp.asarray(sung)[None], sizes, rules)
    names = ["coverage", "monotonicity", "confidence"]
    outcomes += [
        compare(name, getattr(staged, name)[0], arrays[f"sc_{name}"], MEASURE) for name in names
    ]
    outcomes.append(compare("score", staged.score[0], arrays["sc_score"], ROUNDED))
    if meta.get("stable", True):
        outcomes += [
            compare("whole sc_path", dtw.steps(path), arrays["sc_path"]),
            compare("whole score", scores.score[0], arrays["sc_score"], ROUNDED),
        ]
    return outcomes


def _place(
    meta: Mapping[str, Any], arrays: Arrays, maps: jax.Array, ids: range, decode: lyrics.Decode
) -> list[Outcome]:
    sharp = _sharpen(
        maps,
        _sizes(maps),
        violence=meta.get("violence_level", 2.0),
        medfilt_width=meta.get("medfilt_width_stamps", 1),
    )
    stored = -jnp.asarray(arrays["st_calc"], jnp.float32)[None]
    outcomes = [
        compare("st_calc", sharp[0], arrays["st_calc"], SHARP),
        equal_paths("st_path", -arrays["st_calc"], arrays["st_path"]),
        *_timed(meta, arrays, stored, ids, decode),
        equal("token_texts", lyrics.token_texts(ids, decode), meta["token_texts"]),
    ]
    if meta.get("stable", True):
        outcomes.append(compare("whole st_path", dtw.steps(_warp(-sharp)), arrays["st_path"]))
    return outcomes


def _timed(
    meta: Mapping[str, Any], arrays: Arrays, cost: jax.Array, ids: range, decode: lyrics.Decode
) -> list[Outcome]:
    rows, columns = cost.shape[1:]
    first, last = (np.asarray(x[0]) for x in dtw.spans(_warp(cost), rows))
    seconds = meta["total_duration_seconds"] / columns
    times = timestamps.token_times(first, last, len(ids), seconds)
    found = timestamps.lines(ids, times, decode)
    return [
        compare("tok_start", times[:, 0], arrays["st_tok_start"], 1e-9),
        compare("tok_end", times[:, 1], arrays["st_tok_end"], 1e-9),
        compare("sent_start", [line.start for line in found], arrays["st_sent_start"], 1e-9),
        compare("sent_end", [line.end for line in found], arrays["st_sent_end"], 1e-9),
        compare("sent_conf", [line.confidence for line in found], arrays["st_sent_conf"], 1e-9),
        equal("sentence_texts", [line.text for line in found], meta["sentence_texts"]),
        equal("lrc", timestamps.lrc(found), meta["lrc"]),
        equal("lrc_with_end", timestamps.lrc(found, ends=True), meta["lrc_with_end"]),
    ]
