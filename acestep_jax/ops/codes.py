"""How a codebook is used, and how a code may go wrong.

Use is counted in histograms, which add up over batches and devices:

    perplexity = exp(-sum_k p_k log p_k)        the number of codes that would be used as evenly

A wrong code is a neighbour: one digit of it off by one, which moves the value of one FSQ channel by
one step. Where a planner's code is wrong, it is often wrong like that.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.ops import fsq

Array = jax.Array
Key = jax.Array


def histogram(codes: Array, num_codes: int) -> Array:
    """Counts codes of any shape: int32 [num_codes]."""
    return jnp.zeros(num_codes, jnp.int32).at[codes.reshape(-1)].add(1)


def perplexity(counts: Array) -> Array:
    """Computes exp(entropy) of counts [K] in nats: 1 if one code is used, K if all are, evenly."""
    shares = counts / jnp.maximum(jnp.sum(counts), 1)
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(shares, shares)))


def digit_counts(counts: np.ndarray, levels: Sequence[int]) -> list[np.ndarray]:
    """Sums the counts of codes [prod(levels)] by the digit of each channel: one [L] a channel."""
    grid = np.asarray(counts).reshape(tuple(reversed(levels)))  # the first digit varies fastest
    last = len(levels) - 1
    axes = range(len(levels))
    return [grid.sum(axis=tuple(a for a in axes if a != last - d)) for d in axes]


def usage(counts: np.ndarray, levels: Sequence[int]) -> dict[str, float]:
    """Describes the use of a codebook.

    Args:
      counts: how often each code was seen, [prod(levels)].
      levels: of each channel.

    Returns:
      "perplexity" and "used" (the share of the codes seen at all) of the codes together, and of
      each channel d alone "channel<d>/perplexity", "/used" and "/rarest", the share of all windows
      that the level seen least often has.
    """
    counts = np.asarray(counts)
    numbers = {"perplexity": float(perplexity(counts)), "used": float(np.mean(counts > 0))}
    for d, own in enumerate(digit_counts(counts, levels)):
        numbers[f"channel{d}/perplexity"] = float(perplexity(own))
        numbers[f"channel{d}/used"] = float(np.mean(own > 0))
        numbers[f"channel{d}/rarest"] = float(own.min() / max(1, own.sum()))
    return numbers


def step_aside(key: Key, codes: Array, levels: Sequence[int], probability: float) -> Array:
    """Replaces each code, with some probability, by a random neighbour along one channel.

    Args:
      key: of which codes, which channel, and up or down.
      codes: int32, any shape.
      levels: of each channel; a digit at the end of its range steps inwards.
      probability: of each code to be wrong.
    """
    wrong_key, channel_key, side_key = jax.random.split(key, 3)
    digits = fsq.digits_from_codes(codes, levels)
    wrong = jax.random.bernoulli(wrong_key, probability, codes.shape)
    channel = jax.random.randint(channel_key, codes.shape, 0, len(levels))
    side = 2 * jax.random.bernoulli(side_key, 0.5, codes.shape).astype(jnp.int32) - 1
    step = jnp.where(wrong, side, 0)[..., None] * jax.nn.one_hot(channel, len(levels), dtype=int)
    highest = jnp.asarray(levels, jnp.int32).reshape((1,) * codes.ndim + (-1,)) - 1
    moved = digits + step
    moved = jnp.where((moved < 0) | (moved > highest), digits - step, moved)
    return fsq.codes_from_digits(moved, levels)
