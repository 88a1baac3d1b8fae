"""Policy gradients from groups: advantages, clipped ratios, divergences, and what each is worth.

N prompts are answered M times each. With rewards r and a policy p, the gradient of E[r] is that of
E[A log p] for any advantage A = r - (what does not depend on the answer):

    A_i   = r_i - mean r               (M - 1) / M of the gradient: the mean holds r_i itself    (1)
    A_i   = r_i - mean of the others   the gradient (RLOO)                                       (2)
    A_i   = (r_i - mean r) / std r     another direction: prompts count by their difficulty      (3)
    rho   = exp(log p - log p_old)                                                               (4)
    loss  = - min(rho A, clip(rho, 1 - low, 1 + high) A)                                         (5)

A sum over tokens gives the gradient; a mean within each answer does not where lengths differ. Of a
divergence to a reference q, with d = log q - log p, there are three estimators, which have their
value in common but not their gradient at answers of p itself (tests/ops/test_policy.py):

    k1 = -d               mean KL(p || q), gradient zero: differentiated, it does nothing        (6)
    k2 = d^2 / 2          gradient of KL(p || q)                                                 (7)
    k3 = exp(d) - d - 1   mean KL(p || q), never negative, gradient of KL(q || p)                (8)

(6) belongs into the reward, where it has the gradient of KL(p || q) again.

Sources: GRPO arXiv:2402.03300, Dr. GRPO arXiv:2503.20783, DAPO arXiv:2503.14476, RLOO
arXiv:2402.14740, GSPO arXiv:2507.18071, (6)-(8) Schulman's note on approximating KL divergence.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from acestep_jax.typing import Array

MAX_LOG_RATIO = 20.0
"""Log-ratios are cut there before they are exponentiated: beyond it float32 would say nothing."""
_SPREAD = 1e-6
"""A group whose rewards differ by less has nothing to say."""


class Variant(NamedTuple):
    """One of the field's algorithms, as data.

    Attributes:
      baseline: what is subtracted: the group's mean (1), or that of the others (2).
      scale: what advantages are divided by: the spread of the group (3), of the batch, or nothing.
      ratio: of each token, or of the whole answer, by its mean log-ratio.
      average: within answers and then over them, over all tokens, or by a constant length.
      clip: (low, high) of (5).
    """

    baseline: Literal["mean", "others"] = "mean"
    scale: Literal["group", "batch", "none"] = "group"
    ratio: Literal["token", "sequence"] = "token"
    average: Literal["sequence", "token", "constant"] = "sequence"
    clip: tuple[float, float] = (0.2, 0.2)


VARIANTS: dict[str, Variant] = {
    "grpo": Variant(),
    "dr_grpo": Variant(scale="none", average="constant"),
    "dapo": Variant(average="token", clip=(0.2, 0.28)),
    "rloo": Variant(baseline="others", scale="none", average="constant"),
    # A mean of log-ratios hardly moves; the paper clips it at 3e-4 and 4e-4
    "gspo": Variant(ratio="sequence", clip=(3e-4, 4e-4)),
}
"""Algorithms by name, with the clips of their papers."""


# Advantages ---------------------------------------------------------------------------------------


def spread(rewards: Array) -> Array:
    """Gives the standard deviation within each group: [N, M] -> [N]."""
    return jnp.std(rewards, axis=1)


def varied(rewards: Array, valid: Array | None = None) -> Array:
    """Tells which groups [N] have something to learn from: rewards that differ, all of them valid.

    Args:
      rewards: [N, M].
      valid: [N], or None for all.
    """
    kept = spread(rewards) > _SPREAD
    return kept if valid is None else kept & valid


def advantages(
    rewards: Array, variant: Variant, valid: Array | None = None, limit: float | None = None
) -> tuple[Array, Array]:
    """Centres and scales rewards within their groups.

    Args:
      rewards: [N, M], one row a prompt.
      variant: its baseline and scale.
      valid: prompts that count [N].
      limit: largest size of an advantage.

    Returns:
      Advantages [N, M], 0 in groups that are dropped, and which are kept [N].
    """
    members, kept = rewards.shape[1], varied(rewards, valid)
    centred = rewards - jnp.mean(rewards, axis=1, keepdims=True)
    if variant.baseline == "others":  # r - (sum - r) / (M - 1)
        centred = centred * members / (members - 1)
    if variant.scale == "group":
        centred = centred / (spread(rewards)[:, None] + 1e-6)
    elif variant.scale == "batch":
        inside = jnp.where(kept[:, None], centred, 0.0)
        count = jnp.maximum(jnp.sum(kept), 1) * members
        centred = centred / (jnp.sqrt(jnp.sum(inside**2) / count) + 1e-6)
    if limit is not None:
        centred = jnp.clip(centred, -limit, limit)
    return jnp.where(kept[:, None], centred, 0.0), kept


# Ratios -------------------------------------------------------------------------------------------


def log_ratio(log_probs: Array, old: Array) -> Array:
    """Evaluates log p - log p_old, cut at +-20."""
    return jnp.clip(log_probs - old, -MAX_LOG_RATIO, MAX_LOG_RATIO)


def sequence_log_ratio(ratio: Array, mask: Array) -> Array:
    """Gives every token [B, M] the mean log-ratio of its answer, gradients to all its tokens."""
    mean = jnp.sum(ratio * mask, axis=1, keepdims=True) / _count(mask, axis=1, keepdims=True)
    return jnp.broadcast_to(mean, ratio.shape)


def clipped(
    log_ratios: Array, advantage: Array, clip: tuple[float, float], dual: float = 0.0
) -> Array:
    """Evaluates (5), the loss of each decision.

    Args:
      log_ratios: of any shape.
      advantage: of that shape.
      clip: (low, high).
      dual: the most that a negative advantage may count, times; 0 for no such bound (Ye et al.
        2020, arXiv:1912.09729).
    """
    ratio = jnp.exp(log_ratios)
    gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip[0], 1 + clip[1]) * advantage)
    if dual:
        gain = jnp.where(advantage < 0, jnp.maximum(gain, dual * advantage), gain)
    return -gain


def is_clipped(log_ratios: Array, advantage: Array, clip: tuple[float, float]) -> Array:
    """Tells where (5) has no gradient: the ratio has gone far enough the way it was pushed."""
    ratio = jnp.exp(log_ratios)
    return ((advantage > 0) & (ratio > 1 + clip[1])) | ((advantage < 0) & (ratio < 1 - clip[0]))


def importance(old: Array, sampled: Array, cap: float) -> Array:
    """Weighs tokens that were drawn from slightly other numbers: min(p_old / p_sampler, cap).

    Without gradient. Source: truncated importance sampling (Yao et al. 2025), as trainers use it
    whose sampler computes in other kernels.
    """
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(log_ratio(old, sampled)), cap))


# Divergences --------------------------------------------------------------------------------------


def k1(log_probs: Array, reference: Array) -> Array:
    """Evaluates (6). Differentiated it does nothing: put it into the reward."""
    return -log_ratio(reference, log_probs)


def k2(log_probs: Array, reference: Array) -> Array:
    """Evaluates (7), whose gradient is that of KL(p || q)."""
    return 0.5 * log_ratio(reference, log_probs) ** 2


def k3(log_probs: Array, reference: Array) -> Array:
    """Evaluates (8), whose gradient is that of KL(q || p)."""
    d = log_ratio(reference, log_probs)
    return jnp.exp(d) - d - 1


KL = {"k1": k1, "k2": k2, "k3": k3}
"""Estimators by name."""


# Means --------------------------------------------------------------------------------------------


def _count(mask: Array, axis: int | None = None, *, keepdims: bool = False) -> Array:
    return jnp.maximum(jnp.sum(mask, axis=axis, keepdims=keepdims), 1)


def average(values: Array, mask: Array, kind: str, longest: int = 0) -> Array:
    """Averages decisions [B, M] over answers of different lengths.

    Answers that count for nothing have an empty mask; nothing at all gives 0.

    Args:
      values: of each decision.
      mask: decisions that count.
      kind: see `Variant.average`.
      longest: the constant length; by default M.

    Raises:
      ValueError: for an unknown kind.
    """
    mask = mask.astype(values.dtype)
    answers = _count(jnp.any(mask > 0, axis=1))
    if kind == "sequence":
        return jnp.sum(jnp.sum(values * mask, axis=1) / _count(mask, axis=1)) / answers
    if kind == "token":
        return jnp.sum(values * mask) / _count(mask)
    if kind == "constant":
        return jnp.sum(values * mask) / (answers * (longest or values.shape[1]))
    raise ValueError(f"unknown average {kind!r}; use sequence, token or constant.")


def policy_loss(
    log_probs: Array,
    old: Array,
    advantage: Array,
    mask: Array,
    variant: Variant,
    *,
    weights: Array | None = None,
    dual: float = 0.0,
) -> tuple[Array, dict[str, Array]]:
    """Evaluates a variant's loss over answers.

    Args:
      log_probs, old: of every decision [B, M], under the policy as it is and as it wrote.
      advantage: [B].
      mask: decisions that count [B, M]; none of answers from dropped groups.
      variant: ratio, clip and average.
      weights: see `importance`.
      dual: see `clipped`.

    Returns:
      The loss, and the mean of the log-ratio, the share of decisions clipped, and the largest
      ratio.
    """
    plain = jnp.where(mask, log_ratio(log_probs, old), 0.0)
    ratios = sequence_log_ratio(plain, mask) if variant.ratio == "sequence" else plain
    own = jnp.broadcast_to(advantage[:, None], ratios.shape)
    each = clipped(ratios, own, variant.clip, dual)
    if weights is not None:
        each = each * weights
    metrics = {
        "policy/log_ratio": average(plain, mask, "token"),
        "policy/clipped": average(is_clipped(ratios, own, variant.clip) * 1.0, mask, "token"),
        "policy/highest_ratio": jnp.exp(jnp.max(jnp.where(mask, ratios, -MAX_LOG_RATIO))),
    }
    return average(each, mask, variant.average), metrics


# What it leads to ---------------------------------------------------------------------------------


def tilted(log_reference: Array, rewards: Array, weight: float) -> Array:
    """Gives the log of the law that E[r] - weight KL(p || q) is highest at: q exp(r / weight) / Z.

    Args:
      log_reference: log q over all answers [..., V].
      rewards: of them [..., V].
      weight: of the divergence, positive.
    """
    return jax.nn.log_softmax(log_reference + rewards / weight, axis=-1)
