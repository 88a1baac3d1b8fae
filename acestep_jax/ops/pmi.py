"""How much audio codes tell about a song: pointwise mutual information, as a score and a reward.

A listener, the planner itself, reads codes and is asked for the song's caption Y, token by token.
With the mean log-probability of a text under a prompt, lp = 1/m sum_i log p(y_i | y_<i, prompt),

    PMI    = lp(Y | codes) - lp(Y | no codes)           nats a token                        (1)
    score  = sigmoid(PMI / s)                           s = 0.1                              (2)
    recall = 1/m sum_i max(0, 1 - (r_i - 1) / k)        r_i the rank of y_i, k = 10          (3)
    total  = sum_c w_c score_c / sum_c w_c              caption 0.5, lyrics 0.3, metadata 0.2 (4)

(4) runs over what is present; metadata are the mean of their fields' recalls, each asked for alone.
For exact conditionals (1) is log p(codes | Y) - log p(codes) as well: what is likely of any song
gains nothing, and its mean over songs is the mutual information of codes and text.

Within a group of songs for one prompt the second term of (1) is the same for all: unsquashed, it
changes no group's advantages. It decides where (2) bends.

Source: the scorer that the release chooses among takes with; it computes in the model's dtype,
here everything is float32. Among equal logits the best rank counts, where the release's order is
that of its top-k kernel.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from acestep_jax.typing import Array

RECALLED = ("bpm", "duration", "genres", "keyscale", "language", "timesignature")
"""Fields whose recall is scored."""
CONDITIONS = (*RECALLED, "caption", "lyrics")
"""All K conditions, in the order in which the release scores them; the last two by their PMI."""
TOP_K, SCALE = 10, 0.1
"""The release's k and s; its graphical interface passes s = 0.5."""
WEIGHTS = (0.5, 0.3, 0.2)
"""Of caption, lyrics and metadata."""
SATURATED = 0.95
"""A score from here on, or as near to 0, lies where (2) is flat: at s = 0.1, 0.3 nats."""


class Marks(NamedTuple):
    """What a listener made of the texts, by condition; all [..., K].

    Attributes:
      log_probs: mean log-probability of a token, -inf without a text.
      recall: (3), 0 without a text.
      present: whether there is a text.
    """

    log_probs: Array
    recall: Array
    present: Array


class Scores(NamedTuple):
    """A song's score and its parts; all [...].

    Attributes:
      total: (4); 0 where nothing is present.
      caption, lyrics, metadata: the parts, 0 where absent.
      present: [..., 3], which of the parts there are.
    """

    total: Array
    caption: Array
    lyrics: Array
    metadata: Array
    present: Array


def token_scores(logits: Array, targets: Array) -> tuple[Array, Array]:
    """Gives log p and the rank (1 is the best) of targets [...] under logits [..., V]."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    own = jnp.take_along_axis(logits, targets[..., None], axis=-1)
    better = jnp.sum(logits > own, axis=-1, dtype=jnp.int32)
    return own[..., 0] - jax.nn.logsumexp(logits, axis=-1), 1 + better


def ranked(ranks: Array, k: int = TOP_K) -> Array:
    """Weighs ranks: 1 - (r - 1) / k up to the k-th, 0 behind it; the summand of (3)."""
    return jnp.where(ranks <= k, 1 - (ranks - 1) / k, 0.0)


def within(ranks: Array, k: int = TOP_K) -> Array:
    """Counts ranks up to the k-th as 1: plain top-k recall, the release's `recall_per_k`."""
    return (ranks <= k).astype(jnp.float32)


RECALLS = {"ranked": ranked, "within": within}
"""Weights of ranks, by name."""


def belongs(parts: Array) -> Array:
    """Tells which condition each token belongs to: [..., S] -> [..., S, K]."""
    return parts[..., None] == 1 + jnp.arange(len(CONDITIONS)).reshape((1,) * parts.ndim + (-1,))


def part_means(values: Array, parts: Array, empty: float = 0.0) -> Array:
    """Averages tokens by the condition that they belong to: [..., S] -> [..., K].

    Args:
      values: of the tokens.
      parts: int [..., S], 1 + index into CONDITIONS, 0 for padding.
      empty: where a condition has no token.
    """
    own = belongs(parts)
    counts = jnp.sum(own, axis=-2)
    sums = jnp.sum(jnp.where(own, values[..., None], 0.0), axis=-2)
    return jnp.where(counts > 0, sums / jnp.maximum(counts, 1), empty)


def mark(
    log_probs: Array, ranks: Array, parts: Array, k: int = TOP_K, rule: str = "ranked"
) -> Marks:
    """Sums tokens up by condition: [..., S] each -> [..., K]."""
    present = jnp.any(belongs(parts), axis=-2)
    recall = part_means(RECALLS[rule](ranks, k), parts)
    return Marks(part_means(log_probs, parts, -jnp.inf), recall, present)


def information(heard: Marks, unheard: Marks) -> Array:
    """Evaluates (1) by condition [..., K]; 0 where there is no text."""
    present = heard.present & unheard.present
    difference = jnp.where(present, heard.log_probs, 0.0) - jnp.where(
        present, unheard.log_probs, 0.0
    )
    return jnp.where(present, difference, 0.0)


def squash(pmi: Array, scale: float | Array = SCALE) -> Array:
    """Evaluates (2). It cannot overflow, where the release raises below -709 s nats."""
    return jax.nn.sigmoid(pmi / scale)


def combine(scores: Array, present: Array, weights: tuple[float, float, float] = WEIGHTS) -> Scores:
    """Evaluates (4).

    Args:
      scores: [..., K], of every condition.
      present: [..., K].
      weights: of caption, lyrics and metadata; they need not add up to one.
    """
    fields = len(RECALLED)
    count = jnp.sum(present[..., :fields], axis=-1)
    sums = jnp.sum(jnp.where(present[..., :fields], scores[..., :fields], 0.0), axis=-1)
    parts = jnp.stack(
        [
            jnp.where(present[..., -2], scores[..., -2], 0.0),
            jnp.where(present[..., -1], scores[..., -1], 0.0),
            sums / jnp.maximum(count, 1),
        ],
        axis=-1,
    )
    there = jnp.stack([present[..., -2], present[..., -1], count > 0], axis=-1)
    share = jnp.where(there, jnp.broadcast_to(jnp.asarray(weights, jnp.float32), there.shape), 0.0)
    whole = jnp.sum(share, axis=-1)
    total = jnp.where(whole == 0, 0.0, jnp.sum(share * parts, axis=-1) / jnp.where(whole, whole, 1))
    return Scores(total, parts[..., 0], parts[..., 1], parts[..., 2], there)


def score(
    heard: Marks,
    unheard: Marks,
    *,
    scale: float | Array | None = SCALE,
    weights: tuple[float, float, float] = WEIGHTS,
) -> Scores:
    """Scores songs: PMI of caption and lyrics, recall of the fields, combined.

    Args:
      heard, unheard: marks with the codes and without them, [..., K] or what broadcasts to it.
      scale: s; None leaves the PMI as it is, which keeps a gradient where (2) is flat.
      weights: of the parts.
    """
    pmi = information(heard, unheard)
    squashed = pmi if scale is None else squash(pmi, scale)
    fields = len(RECALLED)
    each = jnp.concatenate([heard.recall[..., :fields], squashed[..., fields:]], axis=-1)
    return combine(each, heard.present, weights)


def saturation(scores: Array, present: Array) -> Array:
    """Gives the share of scores (2) that lie where it is flat, of those present; a scalar.

    Source of the warning sign: with four of five scores beyond 0.95 groups have no spread.
    """
    flat = (scores > SATURATED) | (scores < 1 - SATURATED)
    return jnp.sum(flat & present) / jnp.maximum(jnp.sum(present), 1)
