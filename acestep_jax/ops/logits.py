"""From logits to a token: penalty, guidance, temperature, filters, choice, log-probability.

The order is that of the release's default backend: the penalty acts on the conditional logits of
tokens already written, then guidance, then the grammar's mask, then temperature, top-k and top-p.
Masked logits are -inf throughout. Everything is float32 and works on rows: [B, V] and one number
for each item.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from acestep_jax.typing import Array, Key


class Rules(NamedTuple):
    """How the tokens of each item are drawn; all [B], None switches a rule off for all items.

    Attributes:
      temperature: divides logits; 0 or less takes the best token, None does so for all items.
      top_k: keep logits of at least the k-th largest, ties included; 0 keeps all.
      top_p: keep the fewest tokens whose mass reaches p, at least one; 1 keeps all.
      penalty: positive logits of tokens already written are divided by it, negative multiplied.
      guidance: s of l_uncond + s (l_cond - l_uncond); 1 or less is the conditional alone.
    """

    temperature: Array | None
    top_k: Array | None = None
    top_p: Array | None = None
    penalty: Array | None = None
    guidance: Array | None = None


def penalise(logits: Array, written: Array, penalty: Array) -> Array:
    """Lowers the logits [B, V] of tokens that were `written` [B, V] (Keskar et al. 2019)."""
    factor = penalty[:, None]
    lowered = jnp.where(logits > 0, logits / factor, logits * factor)
    return jnp.where(written, lowered, logits)


def guide(conditional: Array, unconditional: Array, scale: Array) -> Array:
    """Extrapolates raw logits: l_uncond + s (l_cond - l_uncond) where s > 1, else l_cond."""
    s = scale[:, None]
    guided = unconditional + s * (conditional - unconditional)
    return jnp.where(s > 1, guided, conditional)


def raw(logits: Array, rules: Rules, written: Array | None = None) -> Array:
    """Applies penalty and guidance: what the grammar then masks.

    Args:
      logits: [B, V], or [2B, V] with guidance: conditional rows, then unconditional ones.
      rules: of the items.
      written: [B, V], tokens written so far; needed where there is a penalty.
    """
    if rules.guidance is None:
        return logits if rules.penalty is None else penalise(logits, written, rules.penalty)
    conditional, unconditional = jnp.split(logits, 2)
    if rules.penalty is not None:
        conditional = penalise(conditional, written, rules.penalty)
    return guide(conditional, unconditional, rules.guidance)


def keep_top_k(logits: Array, k: Array) -> Array:
    """Masks logits below the k-th largest of their row; ties with it stay, k = 0 keeps all."""
    ranked = jnp.sort(logits, axis=-1, descending=True)
    last = jnp.clip(k - 1, 0, logits.shape[-1] - 1)[:, None]
    least = jnp.take_along_axis(ranked, last, axis=-1)
    return jnp.where((logits >= least) | (k[:, None] <= 0), logits, -jnp.inf)


def keep_top_p(logits: Array, p: Array) -> Array:
    """Masks all but the most probable tokens whose mass reaches p; ties with the last one stay.

    In rising order a token goes when the mass up to and with it is at most 1 - p; the last always
    stays. At p >= 1 nothing goes.
    """
    ranked = jnp.sort(logits, axis=-1)
    mass = jnp.cumsum(jax.nn.softmax(ranked, axis=-1), axis=-1)
    gone = jnp.sum(mass <= 1 - p[:, None], axis=-1, keepdims=True)
    least = jnp.take_along_axis(ranked, jnp.minimum(gone, logits.shape[-1] - 1), axis=-1)
    return jnp.where((logits >= least) | (p[:, None] >= 1), logits, -jnp.inf)


def shape(logits: Array, rules: Rules) -> Array:
    """Gives the log-probabilities [B, V] that tokens are drawn from; -inf for those ruled out.

    Args:
      logits: masked [B, V].
      rules: temperature, then top-k, then top-p. A temperature of 0 or less leaves logits as they
        are, since the best token is taken.
    """
    logits = logits.astype(jnp.float32)
    if rules.temperature is not None:
        logits = logits / jnp.where(rules.temperature > 0, rules.temperature, 1.0)[:, None]
    if rules.top_k is not None:
        logits = keep_top_k(logits, rules.top_k)
    if rules.top_p is not None:
        logits = keep_top_p(logits, rules.top_p)
    return jax.nn.log_softmax(logits, axis=-1)


def best(scores: Array) -> Array:
    """Finds the first of the largest entries of each row: int32 [B] of [B, V].

    As `argmax`, in two reductions, which a processor vectorises: half the time of a draw.
    """
    places = jnp.arange(scores.shape[-1], dtype=jnp.int32)[None]
    peak = scores.max(axis=-1, keepdims=True)
    first = jnp.where(scores == peak, places, scores.shape[-1]).min(axis=-1)
    return jnp.minimum(first, scores.shape[-1] - 1)  # no entry equals the peak where it is NaN


def choose(log_probs: Array, keys: Key, temperature: Array | None) -> tuple[Array, Array]:
    """Draws a token of each row by argmax(log p + Gumbel noise); the best one at temperature 0.

    Args:
      log_probs: normalised [B, V].
      keys: [B], one an item.
      temperature: [B], or None for the best of all.

    Returns:
      Positions int32 [B] and their log-probabilities [B].
    """
    drawn = log_probs
    if temperature is not None:
        noise = jax.vmap(lambda key: jax.random.gumbel(key, log_probs.shape[1:]))(keys)
        drawn = jnp.where(temperature[:, None] > 0, log_probs + noise, log_probs)
    position = best(drawn)
    return position, jnp.take_along_axis(log_probs, position[:, None], axis=-1)[:, 0]


def token_log_probs(logits: Array, tokens: Array) -> Array:
    """Gives log p of each token under its own row of logits: [..., V] and [...] -> [...]."""
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)
