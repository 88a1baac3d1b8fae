"""What generated songs are worth, computed where they are: planned codes by their listener.

A reward is a pure function on the device: nothing crosses to the host but its mean.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import logging

from acestep_jax.ops import pmi
from acestep_jax.sampling.decode import Span, Written
from acestep_jax.tasks.planning.listener import Listener, Sheet
from acestep_jax.training.recipes.grpo_planner import PmiReward
from acestep_jax.typing import Array, Params

Metrics = dict[str, Array]


class Worth(NamedTuple):
    """What answers are worth: [B], and the numbers to log."""

    rewards: Array
    metrics: Metrics


def is_code(written: Written, span: Span) -> Array:
    """Tells which of the written tokens [B, M] are audio codes."""
    inside = jnp.arange(written.tokens.shape[1])[None] < written.lengths[:, None]
    return inside & (written.tokens >= span.first) & (written.tokens < span.last)


def listen(
    config: PmiReward,
    listener: Listener,
    params: Params,
    written: Written,
    span: Span,
    sheet: Sheet,
) -> Worth:
    """Scores written codes by what they tell a listener.

    Answers without codes are worth 0, as in the release.

    Args:
      config: scale, weights, squashing.
      listener: the scorer.
      params: of it.
      written: B answers, those to one prompt side by side.
      span: of the codes.
      sheet: N rows, one a prompt; what is said without codes is asked once for all its answers.
    """
    copies = written.tokens.shape[0] // sheet.tokens.shape[0]
    sung = is_code(written, span)
    heard = listener.hear(
        params, written.tokens, sung, jax.tree.map(lambda x: jnp.repeat(x, copies, axis=0), sheet)
    )
    unheard = jax.tree.map(lambda x: jnp.repeat(x, copies, axis=0), listener.guess(params, sheet))
    scale = config.scale if config.squash == "sigmoid" else None
    scores = pmi.score(heard, unheard, scale=scale, weights=config.weights)
    blank = ~jnp.any(sung, axis=1)
    information = pmi.information(heard, unheard)[..., -2:]
    flat = pmi.saturation(pmi.squash(information, config.scale), heard.present[..., -2:])
    there = [jnp.maximum(jnp.sum(scores.present[:, i]), 1) for i in range(3)]
    metrics = {
        "reward/caption": jnp.sum(scores.caption) / there[0],
        "reward/lyrics": jnp.sum(scores.lyrics) / there[1],
        "reward/metadata": jnp.sum(scores.metadata) / there[2],
        "reward/caption_nats": jnp.sum(information[:, 0]) / there[0],
        "reward/lyrics_nats": jnp.sum(information[:, 1]) / there[1],
        "reward/saturated": flat,
        "reward/blank": jnp.mean(blank),
    }
    return Worth(jnp.where(blank, 0.0, scores.total), metrics)


def listen_all(
    config: PmiReward,
    listeners: Sequence[Listener],
    params: Sequence[Params],
    written: Written,
    span: Span,
    sheet: Sheet,
) -> Worth:
    """Averages what several listeners find, and tells how far apart they are.

    What only one of them hears counts that much less: a policy has to please them all.

    Args:
      config, written, span, sheet: as in `listen`.
      listeners: the scorers.
      params: of each.
    """
    found = [
        listen(config, listener, own, written, span, sheet)
        for listener, own in zip(listeners, params, strict=True)
    ]
    if len(found) == 1:
        return found[0]
    mean = jax.tree.map(lambda *x: jnp.mean(jnp.stack(x), axis=0), *found)
    apart = jnp.std(jnp.stack([worth.rewards for worth in found]), axis=0)
    return mean._replace(metrics={**mean.metrics, "reward/apart": jnp.mean(apart)})


def warn_saturated(config: PmiReward, share: float) -> None:
    """Says so where too many scores lie where the sigmoid is flat: their groups have no spread."""
    if config.squash == "sigmoid" and share > config.saturation_limit:
        logging.warning(
            "%.0f %% of PMI scores lie where the sigmoid is flat (beyond %g of either end); raise "
            "reward.scale, now %g nats, or set reward.squash=raw.",
            100 * share,
            1 - pmi.SATURATED,
            config.scale,
        )
