"""How well lyrics and music fit, read from cross-attention: maps, path, and three measures.

A map holds the attention [N, M] that N lyric tokens get from M patches of latents (12.5 a second).
Over several heads, and with every song of a batch padded to common sizes, maps are [B, H, N, M].
There are two ways from maps to a path; each belongs to its purpose, and they are not to be mixed.

To score (`energy`, `score`), the raw probabilities are averaged and stretched to [0, 1]:

    G = median_filter(mean_h A),   e = (G - min G) / (max G - min G),   path = dtw(-e^2)        (1)
    coverage     = share of sung tokens i with max_j e_ij > 0.1                                 (2)
    monotonicity = share of neighbours among sung tokens with q' >= q - 9, where
                   q_i = sum_j j w_ij / sum_j w_ij,   w = e where e > 0.01, else 0              (3)
    confidence   = mean of e along the path                                                     (4)
    score        = clip(coverage^2 monotonicity^2 confidence, 0, 1)                             (5)

To place tokens in time (`sharpen`), a cell must be likely among frames and among tokens:

    P = softmax_frames(A) softmax_tokens(A), less `violence` times its median over frames, then
    over tokens, negative values set to zero both times; P = P^2; z-scores over all heads;
    median filter; mean over heads; path = dtw(-that)                                           (6)

(6) takes a softmax of probabilities: so does the release, whose numbers these are. Everything is
float32; rows and columns of padding take part in nothing.

Source: the release's alignment scorer and timestamper. The paper calls (5) the attention alignment
score (arXiv:2602.00744).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.ops import dtw
from acestep_jax.typing import Array


def _check_width(width: int) -> None:
    if width < 1 or width % 2 == 0:
        raise ValueError(f"a median filter of width {width}; use an odd width, 1 for none.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """The numbers in (1) to (5); the defaults are the release's.

    Attributes:
      medfilt_width: of the median filter along frames, odd; 1 leaves maps alone.
      audible: a token whose largest energy is above this is covered.
      time_weight: energies up to this do not move a token's centroid.
      overlap_frames: how far a centroid may lie before its predecessor's (9 frames are 0.72 s).
      instrumental_weight: of path steps on tokens that are not sung, beside 1 for the others.
      powers: of coverage, monotonicity and confidence in (5); 0 leaves one out.
    """

    medfilt_width: int = 1
    audible: float = 0.1
    time_weight: float = 0.01
    overlap_frames: float = 9.0
    instrumental_weight: float = 1.0
    powers: tuple[int, int, int] = (2, 2, 1)

    def __post_init__(self) -> None:
        _check_width(self.medfilt_width)


class Scores(NamedTuple):
    """The measures (2) to (4) and their product (5), float32 [B]."""

    coverage: Array
    monotonicity: Array
    confidence: Array
    score: Array


class Sizes(NamedTuple):
    """What of the padded maps [B, H, N, M] is real: tokens [B] and frames [B], int32."""

    tokens: Array
    frames: Array

    def cells(self, shape: tuple[int, ...]) -> Array:
        """Marks the real cells of maps of this shape, bool [B, N, M]."""
        rows = jnp.arange(shape[-2])[None] < self.tokens[:, None]
        columns = jnp.arange(shape[-1])[None] < self.frames[:, None]
        return rows[:, :, None] & columns[:, None, :]


# Scoring: (1) to (5) -----------------------------------------------------------------------------


def energy(maps: Array, sizes: Sizes, rules: Rules = Rules()) -> Array:
    """Averages maps over heads and stretches them to [0, 1] by (1).

    Args:
      maps: attention [B, H, N, M].
      sizes: what of them is real.
      rules: the width of the median filter counts.

    Returns:
      [B, N, M] float32, 0 in padding. A map without contrast (1e-9) becomes all zeros.
    """
    cells = sizes.cells(maps.shape)
    mean = jnp.mean(maps.astype(jnp.float32), axis=1)
    mean = median_filter(mean, sizes.frames[:, None], rules.medfilt_width)
    least = jnp.min(mean, axis=(1, 2), where=cells, initial=jnp.inf)[:, None, None]
    span = jnp.max(mean, axis=(1, 2), where=cells, initial=-jnp.inf)[:, None, None] - least
    has_contrast = span > 1e-9
    stretched = (mean - least) / jnp.where(has_contrast, span, 1.0)
    return jnp.where(cells & has_contrast, stretched, 0.0)


def score(
    energies: Array, sung: Array, sizes: Sizes, rules: Rules = Rules()
) -> tuple[Scores, dtw.Path]:
    """Scores lyrics against music by (2) to (5), and gives the path.

    Args:
      energies: [B, N, M] from `energy`.
      sung: [B, N], true on tokens that are sung, false within [tags].
      sizes: what of the energies is real.
      rules: thresholds and weights.

    Returns:
      Scores, unrounded, and paths. A song without tokens or frames scores 0, as does one without
      contrast. One whose tokens are all tags has full coverage and monotonicity: there is nothing
      in it that could be missing, and nothing to learn from either.
    """
    sung = sung.astype(bool) & (jnp.arange(sung.shape[1])[None] < sizes.tokens[:, None])
    path = dtw.warp(-jnp.square(energies), sizes.tokens, sizes.frames)
    parts = (
        coverage(energies, sung, rules.audible),
        monotonicity(energies, sung, rules.time_weight, rules.overlap_frames),
        confidence(energies, sung, path, rules.instrumental_weight),
    )
    product = jnp.ones_like(parts[0])
    for part, power in zip(parts, rules.powers, strict=True):
        product *= part**power
    is_song = (sizes.tokens > 0) & (sizes.frames > 0)
    return Scores(*parts, jnp.where(is_song, jnp.clip(product, 0.0, 1.0), 0.0)), path


def coverage(energies: Array, sung: Array, audible: float = 0.1) -> Array:
    """Counts the sung tokens that are heard somewhere, (2): a share [B]; 1 if none is sung."""
    heard = jnp.max(energies, axis=2, initial=0.0) > _not_above(audible)
    count = jnp.sum(sung, axis=1)
    share = jnp.sum(sung & heard, axis=1) / jnp.maximum(count, 1)
    return jnp.where(count > 0, share, 1.0)


def centroids(energies: Array, time_weight: float = 0.01) -> tuple[Array, Array]:
    """Finds the centre of every token's energy in frames, (3), and whether it has one; [B, N].

    Distances are taken from the row's peak, so that a token on a single frame has it exactly.
    """
    weights = jnp.where(energies > _not_above(time_weight), energies, 0.0)
    total = jnp.sum(weights, axis=2)
    peak = jnp.argmax(weights, axis=2)
    offsets = (jnp.arange(energies.shape[2])[None, None] - peak[..., None]).astype(jnp.float32)
    exists = total > 1e-9
    centre = peak + jnp.sum(offsets * weights, axis=2) / jnp.where(exists, total, 1.0)
    return centre, exists


def monotonicity(
    energies: Array, sung: Array, time_weight: float = 0.01, overlap_frames: float = 9.0
) -> Array:
    """Counts the sung tokens that do not come before their predecessor, (3): a share [B].

    Tokens without a centroid are passed over; 1 if fewer than two have one.
    """
    centre, exists = centroids(energies, time_weight)
    counts = exists & sung
    place = jnp.arange(sung.shape[1])[None]
    latest = jax.lax.cummax(jnp.where(counts, place, -1), axis=1)
    before = jnp.pad(latest, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    earlier = jnp.take_along_axis(centre, jnp.maximum(before, 0), axis=1)
    pairs = counts & (before >= 0)
    in_order = pairs & (centre >= earlier - overlap_frames)
    count = jnp.sum(pairs, axis=1)
    return jnp.where(count > 0, jnp.sum(in_order, axis=1) / jnp.maximum(count, 1), 1.0)


def confidence(
    energies: Array, sung: Array, path: dtw.Path, instrumental_weight: float = 1.0
) -> Array:
    """Averages energy along the path, (4), [B]; 0 if nothing on it counts."""

    def one(energies: Array, sung: Array, path: dtw.Path) -> Array:
        weight = jnp.where(sung[path.rows], 1.0, instrumental_weight)
        weight = jnp.where(path.visited, weight, 0.0)
        total = jnp.sum(weight)
        along = jnp.sum(weight * energies[path.rows, path.columns])
        return jnp.where(total > 0, along / jnp.where(total > 0, total, 1.0), 0.0)

    if 0 in energies.shape:
        return jnp.zeros(energies.shape[0])
    return jax.vmap(one)(energies, sung, path)


# Placing in time: (6) ----------------------------------------------------------------------------


def sharpen(maps: Array, sizes: Sizes, *, violence: float = 2.0, medfilt_width: int = 1) -> Array:
    """Prepares maps [B, H, N, M] for the path that places tokens in time, (6).

    Args:
      maps: attention of chosen heads.
      sizes: what of it is real.
      violence: how many medians are taken away; named so by the release.
      medfilt_width: of the median filter along frames, odd.

    Returns:
      [B, N, M] float32; the cost of a path is its negative.
    """
    _check_width(medfilt_width)
    if 0 in maps.shape:
        return jnp.zeros((len(maps), *maps.shape[2:]))
    maps = maps.astype(jnp.float32)
    cells = jnp.broadcast_to(sizes.cells(maps.shape)[:, None], maps.shape)
    consensus = jax.nn.softmax(maps, axis=3, where=cells) * jax.nn.softmax(
        maps, axis=2, where=cells
    )
    for axis, count in ((3, sizes.frames), (2, sizes.tokens)):
        middle = _median(jnp.where(cells, consensus, jnp.inf), count, axis)
        consensus = jnp.where(cells, jax.nn.relu(consensus - violence * middle), 0.0)
    consensus = jnp.square(consensus)
    every = (1, 2, 3)
    mean = jnp.mean(consensus, axis=every, where=cells, keepdims=True)
    spread = jnp.std(consensus, axis=every, where=cells, keepdims=True)
    scaled = jnp.where(cells, (consensus - mean) / (spread + 1e-9), 0.0)
    frames = sizes.frames[:, None, None]
    return jnp.mean(median_filter(scaled, frames, medfilt_width), axis=1)


def median_filter(x: Array, frames: Array, width: int) -> Array:
    """Takes the median of `width` neighbours along the last axis, mirrored at its real ends.

    Args:
      x: [..., M].
      frames: how many of the M are real, with the leading axes of `x`, or with ones for them.
      width: odd. Rows of width // 2 frames or fewer stay as they are, as in the release.

    Raises:
      ValueError: if `width` is not odd: the release's filter would then add a frame.
    """
    _check_width(width)
    reach = width // 2
    if not reach or not x.shape[-1]:
        return x
    last = jnp.maximum(frames[..., None] - 1, 0)
    places = jnp.arange(x.shape[-1]).reshape((1,) * frames.ndim + (-1,))
    neighbours = []
    for offset in range(-reach, reach + 1):
        place = jnp.abs(places + offset)
        place = jnp.where(place > last, 2 * last - place, place)
        place = jnp.clip(place, 0, x.shape[-1] - 1)
        neighbours.append(jnp.take_along_axis(x, jnp.broadcast_to(place, x.shape), axis=-1))
    filtered = jnp.sort(jnp.stack(neighbours), axis=0)[reach]
    return jnp.where(frames[..., None] > reach, filtered, x)


def _median(x: Array, count: Array, axis: int) -> Array:
    """Gives the median of the first `count` [B] values in order; padding must be infinite."""
    ordered = jnp.sort(x, axis=axis)
    count = count.reshape((-1,) + (1,) * (x.ndim - 1))
    middle = [jnp.maximum(place, 0) for place in ((count - 1) // 2, count // 2)]
    low, high = (jnp.take_along_axis(ordered, place, axis=axis) for place in middle)
    return jnp.where(jnp.isfinite(low + high), (low + high) / 2, 0.0)


def _not_above(threshold: float) -> np.float32:
    """Rounds a threshold down to float32: x > threshold then holds as it does in float64."""
    nearest = np.float32(threshold)
    return nearest if float(nearest) <= threshold else np.nextafter(nearest, np.float32(-np.inf))
