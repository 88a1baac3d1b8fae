"""Do the lyrics and the song fit? Scores and lyric times, from latents and their conditions.

    reading = Reading(find_heads("checkpoints/acestep-v15-turbo", config), t=1 / 8)
    scores = score(dit, params, reading, latents, conditions, frame_mask, spans, keys)
    first, last = place(dit, params, reading, latents, conditions, frame_mask, spans, keys)

Both are pure and run on the device; a training reward calls `score` within its step. Which heads
listen to the lyrics is a property of weights: the release names seven of its 2B decoder, and a
model of another size or training keeps its own in `alignment_heads.json` beside its weights
(`experiments/alignment/heads.py` selects them). A model that is too small to have any is listened
to by an aligner, a copy whose heads were taught (`train/aligner.py`).

Of instrumentals there is nothing to score: leave them out (`lyrics.LyricTokens.has_words`).
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax import units, weights
from acestep_jax.nn.config import ModelConfig
from acestep_jax.nn.dit import DiT
from acestep_jax.nn.lora import Adapted
from acestep_jax.ops import alignment, dtw, flow, masks
from acestep_jax.ops.alignment import Rules, Scores, Sizes
from acestep_jax.sampling import attending
from acestep_jax.sampling import flow as sampling_flow
from acestep_jax.sampling.attending import Heads
from acestep_jax.tasks import inputs, loading, lyrics, timestamps
from acestep_jax.tasks.condition import Conditions
from acestep_jax.tasks.inputs import Sounds
from acestep_jax.tasks.lyrics import LyricSpans, LyricTokens
from acestep_jax.tasks.pipeline import Pipeline
from acestep_jax.tasks.request import BadRequest, Request
from acestep_jax.tasks.timestamps import Timed
from acestep_jax.typing import Array, Key, Params

RELEASED_HEADS: Heads = ((2, (6,)), (3, (10, 11)), (4, (3,)), (5, (8, 9)), (6, (8,)))
"""Of the 2B decoder (24 layers of 16 heads), turbo, base and sft alike."""
HEADS_FILE = "alignment_heads.json"
ALIGNER = loading.NANO.parent / "aligners/1"
ALIGNERS = dict.fromkeys(loading.SHIPPED, ALIGNER)
"""Who listens to the songs of the shipped models."""
_SEED = 42
"""The release's, of the noise that songs are listened through."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """How songs are listened to.

    Attributes:
      heads: whose maps are averaged.
      t: how much noise there is; the release's is 1 / steps of the sampler. At 1 there is nothing
        else, and the score is that of the conditions ("lm_score").
      draws: of noise; a score is their mean. The variance falls with their number.
      rules: of the score.
    """

    heads: Heads
    t: float = 1 / 8
    draws: int = 1
    rules: Rules = Rules()

    def __post_init__(self) -> None:
        if not 0 < self.t <= 1 or self.draws < 1:
            raise ValueError(
                f"t={self.t}, draws={self.draws}: listen at a t within (0, 1], at least once."
            )


# On the device -----------------------------------------------------------------------------------


def score(
    dit: DiT | Adapted,
    params: Params,
    reading: Reading,
    latents: Array,
    conditions: Conditions,
    frame_mask: Array | None,
    spans: LyricSpans,
    keys: Key,
    t: Array | float | None = None,
) -> Scores:
    """Scores songs by `ops.alignment`, each part averaged over draws of noise.

    Args:
      dit: the network that listens; frozen where the score is a reward, or its attention sharpens
        and nothing is sung any better.
      params: its parameters.
      reading: heads, noise, rules.
      latents: finished songs [B, T, C].
      conditions: those of sampling; a mask of None attends padding, as the release does.
      frame_mask: [B, T], or None.
      spans: where the lyrics stand.
      keys: [B], of the noise; a song's score is the same in any batch and bucket.
      t: in place of the reading's, where one program shall serve several.

    Returns:
      float32 [B] each. The score is unrounded, and the mean of the draws' scores.
    """
    sizes = _sizes(dit, latents, frame_mask, spans)
    t = reading.t if t is None else t

    def listen(noise: Array) -> Array:
        x_t = flow.interpolate(latents, noise, t)
        maps = _maps(dit, params, reading.heads, x_t, t, conditions, frame_mask, spans)
        return alignment.energy(maps, sizes, reading.rules)

    drawn = attending.draw_noise(keys, reading.draws, *latents.shape[1:])
    energies = jax.lax.map(listen, drawn)  # maps of one draw at a time, but all paths at once
    flat = energies.reshape(-1, *energies.shape[2:])
    repeated = [jnp.tile(jnp.asarray(x), (reading.draws,)) for x in sizes]
    sung = jnp.tile(jnp.asarray(spans.sung), (reading.draws, 1))
    scores, _ = alignment.score(flat, sung, Sizes(*repeated), reading.rules)
    return jax.tree.map(lambda x: jnp.mean(x.reshape(reading.draws, -1), axis=0), scores)


def place(
    dit: DiT | Adapted,
    params: Params,
    reading: Reading,
    latents: Array,
    conditions: Conditions,
    frame_mask: Array | None,
    spans: LyricSpans,
    keys: Key,
) -> tuple[Array, Array]:
    """Finds the first and last patch of every lyric token, int32 [B, N]; one draw of noise.

    Arguments as for `score`. Patches are 12.5 a second.
    """
    sizes = _sizes(dit, latents, frame_mask, spans)
    noise = attending.draw_noise(keys, 1, *latents.shape[1:])[0]
    x_t = flow.interpolate(latents, noise, reading.t)
    maps = _maps(dit, params, reading.heads, x_t, reading.t, conditions, frame_mask, spans)
    width = reading.rules.medfilt_width
    path = dtw.warp(-alignment.sharpen(maps, sizes, medfilt_width=width), *sizes)
    return dtw.spans(path, spans.sung.shape[1])


def _maps(
    dit: DiT | Adapted,
    params: Params,
    heads: Heads,
    x_t: Array,
    t: Array | float,
    conditions: Conditions,
    frame_mask: Array | None,
    spans: LyricSpans,
) -> Array:
    return attending.lyric_maps(
        dit,
        params,
        heads,
        x_t,
        t,
        conditions.tokens,
        conditions.context,
        jnp.asarray(spans.first),
        spans.sung.shape[1],
        condition_mask=conditions.mask,
        frame_mask=frame_mask,
    )


def _sizes(
    dit: DiT | Adapted, latents: Array, frame_mask: Array | None, spans: LyricSpans
) -> Sizes:
    patch = (dit.module if isinstance(dit, Adapted) else dit).config.patch_size
    if frame_mask is None:
        patches = jnp.full(len(latents), -(-latents.shape[1] // patch), jnp.int32)
    else:
        patches = jnp.sum(masks.patches(frame_mask, patch), axis=1, dtype=jnp.int32)
    return Sizes(jnp.asarray(spans.count), patches)


# Heads -------------------------------------------------------------------------------------------


def find_heads(model: str, config: ModelConfig) -> Heads:
    """Finds the heads of a model that listen to its lyrics.

    Args:
      model: "nano", or a folder or hub id; a file `alignment_heads.json` in it counts first.
      config: of the model.

    Raises:
      FileNotFoundError: if it has no such file and is not of the released 2B size.
    """
    folder = loading.NANO if model == "nano" else pathlib.Path(weights.resolve(model))
    if (folder / HEADS_FILE).is_file():
        return read_heads(folder / HEADS_FILE)
    if (config.num_hidden_layers, config.dit.num_heads, config.dit.width) == (24, 16, 2048):
        return RELEASED_HEADS
    raise FileNotFoundError(
        f"{folder / HEADS_FILE} is missing, and only the 2B models have heads that are known; "
        "select some with python -m experiments.alignment.heads."
    )


def open_ear(
    pipe: Pipeline, model: str, *, aligner: str = "", heads: Heads | None = None
) -> tuple[Pipeline, Heads]:
    """Finds who listens to a model's songs: its aligner, or the model itself, without adapters.

    Args:
      pipe: of the model.
      model: its preset, or its folder or hub id.
      aligner: folder or hub id of the one who listens; that of a shipped model by default, unless
        heads are named.
      heads: of who listens; those that are known of it by default.

    Returns:
      A pipeline to `judge` with, and its heads.

    Raises:
      FileNotFoundError, ValueError: if nobody's heads are known, or the aligner does not fit.
    """
    pipe = pipe.without_adapters()
    chosen = aligner or ("" if heads else str(ALIGNERS.get(model, "")))
    heads = heads or find_heads(chosen or model, pipe.networks.config)
    if not chosen:
        return pipe, heads
    package = weights.load_model(chosen)
    if not package.config.is_built_like(pipe.networks.config):
        raise ValueError(
            f"{chosen} is of other sizes than {model}, and cannot listen to its songs."
        )
    own = {name: package.params[name] for name in ("dit", "condition_encoder")}
    return dataclasses.replace(pipe, params={**pipe.params, **own}), heads


def read_heads(path: pathlib.Path) -> Heads:
    """Reads {"layer": [heads]} from JSON.

    Raises:
      ValueError: if the file holds anything else.
    """
    given = json.loads(path.read_text("utf-8"))
    given = given.get("heads", given) if isinstance(given, dict) else given
    try:
        return tuple((int(layer), tuple(map(int, own))) for layer, own in given.items())
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f'{path} holds no heads; write {{"heads": {{"2": [6]}}}}.') from error


# Songs of a pipeline -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How one song's lyrics fit.

    Attributes:
      score, coverage, monotonicity, confidence: see `ops.alignment`.
      conditions_score: the score at t = 1, of what the conditions alone place.
    """

    score: float
    coverage: float
    monotonicity: float
    confidence: float
    conditions_score: float


def judge(
    pipe: Pipeline, requests: Sequence[Request], latents: Sequence[np.ndarray], reading: Reading
) -> list[Verdict]:
    """Scores songs under their requests, one after another.

    Args:
      pipe: whose DiT listens.
      requests: of the songs; with lyrics.
      latents: of the songs, [T, C] each.
      reading: heads, noise, rules.

    Raises:
      BadRequest: for a song without words.
    """
    found = []
    for request, own in zip(requests, latents, strict=True):
        given = _prepare(pipe, request, own)
        parts, without = (
            jax.device_get(_score(pipe.networks.dit, reading, *given.arrays, t))
            for t in (reading.t, 1.0)
        )
        measures = {name: float(value[0]) for name, value in parts._asdict().items()}
        found.append(Verdict(**measures, conditions_score=float(without.score[0])))
    return found


def time_lyrics(
    pipe: Pipeline, request: Request, latents: np.ndarray, reading: Reading
) -> tuple[list[Timed], list[Timed]]:
    """Places a song's lyrics in time: lines (tags among them) and words.

    Raises:
      BadRequest: for a song without words.
    """
    given = _prepare(pipe, request, latents)
    first, last = (np.asarray(x[0]) for x in _place(pipe.networks.dit, reading, *given.arrays))
    patches = -(-len(latents) // pipe.networks.config.patch_size)
    seconds = len(latents) / units.FRAME_RATE / patches
    own = given.lyrics
    times = timestamps.token_times(first, last, len(own.ids), seconds)
    lines = timestamps.lines(own.ids, times, own.decode)
    return lines, timestamps.words(own.ids, times, own.sung, own.decode)


@dataclasses.dataclass(frozen=True, eq=False)
class _Given:
    """What `_score` and `_place` read of one song, and its lyrics."""

    arrays: tuple
    lyrics: LyricTokens


def _prepare(pipe: Pipeline, request: Request, latents: np.ndarray) -> _Given:
    frames = inputs.num_frames(request)
    if len(latents) != frames:
        raise BadRequest(
            f"the song has {len(latents)} latent frames, and its request stands for {frames}."
        )
    arrays = inputs.make_inputs(
        [request],
        [_sounds(pipe, request)],
        pipe.tokenizer,
        np.asarray(pipe.silence_latent[0]),
        timbre_frames=pipe.networks.config.timbre_fix_frame,
    )
    own = lyrics.find_lyrics(pipe.tokenizer, arrays.lyric_tokens[0], request.language)
    if not own.has_words:
        raise BadRequest("a song without words has no lyrics to align; give it some.")
    room = arrays.frame_mask.shape[1]
    padded = np.pad(latents, ((0, room - frames), (0, 0)))[None].astype(np.float32)
    given = (
        pipe.place(pipe.params["dit"]),
        padded,
        pipe.conditions(arrays),
        np.asarray(arrays.frame_mask),
        lyrics.stack([own], room=arrays.lyric_tokens.shape[1]),
        sampling_flow.item_keys(np.array([_SEED], np.uint32)),
    )
    return _Given(given, own)


def _sounds(pipe: Pipeline, request: Request) -> Sounds:
    quiet = request.source is None and not request.references
    return Sounds() if quiet else pipe.listen(request)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _score(dit: DiT | Adapted, reading: Reading, params: Params, *given: Array) -> Scores:
    return score(dit, params, reading, *given)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _place(
    dit: DiT | Adapted, reading: Reading, params: Params, *given: Array
) -> tuple[Array, Array]:
    return place(dit, params, reading, *given)
