"""Distribution-matching distillation in velocity form, its adversarial terms, and their laws.

A student G maps its own state x_k at time t_k to clean latents in one call,

    x_g = x_k - t_k G(x_k, t_k).                                                             (1)

Its law is pulled towards the guided teacher's by re-noising, x_tau = tau n + (1 - tau) x_g, and
comparing two velocities there: the teacher's v_c (with its null-condition twin v_u) and v_F of the
*fake score*, a flow model kept fitted to the student's samples. The descent direction on x_g is

    g = tau (v_c - v_F)  +  (scale - 1) tau (v_c - v_u),                                     (2)
        distribution matching    guidance

which is data_F - data_R of the guided teacher v_u + scale (v_c - v_u). At scale 1 it is the
gradient of KL(p_F,tau || p_R,tau) with weight tau^2 / (1 - tau)^2. Decoupled, the first term takes
tau from the full range and the second from levels *cleaner than the student's step*, tau < t_k:
guidance drives, matching restrains. Both are scaled by one normaliser an example,

    w = 1 / max(mean |x_g - data_R|, 1e-5),                                                  (3)

which makes the step blind to the scale of the latents, and enter autodiff through

    L = 1/2 mean (x_g - sg[x_g - w g])^2,     dL/dx_g = w g / size.                          (4)

Nothing but x_g carries a gradient. Where the first papers write nan_to_num(w g), nothing is
replaced here: a non-finite gradient should stop the run, not hide in it.

Sources: Yin et al., arXiv:2311.18828 (DMD) and arXiv:2405.14867 (DMD2); arXiv:2511.22677
(decoupling; its time axis runs the other way: its "tau > t" is our tau < t); Novack et al.,
arXiv:2505.08175 (ARC: relativistic and contrastive losses, approximate R1).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from acestep_jax.ops import flow, guidance, losses
from acestep_jax.ops.solvers import VelocityFn
from acestep_jax.typing import Array, Key

MIN_LEVEL, MAX_LEVEL = 0.02, 0.98
"""Range of re-noising levels, as DMD2 clips its time steps to 2-98 %."""
SHIFT_LAWS = ("1", "2", "3", "joint", "continuous")
"""Laws that `draw_shift` knows."""


class Directions(NamedTuple):
    """The two terms of (2), each [B, T, C], and the teacher's data estimate they are scaled by."""

    matching: Array
    guidance: Array
    teacher_data: Array


def matching_direction(conditional: Array, fake: Array, level: Array) -> Array:
    """Points from the teacher's data estimate to the fake score's: tau (v_c - v_F)."""
    return flow.broadcast_time(level, fake) * (conditional - fake)


def plain_excess(
    conditional: Array,
    unconditional: Array,
    scale: Array | float,
    frame_mask: Array | None = None,
) -> Array:
    """Gives what classifier-free guidance adds to v_c: (scale - 1) (v_c - v_u)."""
    del frame_mask
    return (scale - 1) * (conditional - unconditional)


def projected_excess(
    conditional: Array,
    unconditional: Array,
    scale: Array | float,
    frame_mask: Array | None = None,
) -> Array:
    """Gives what projected guidance adds to v_c (`guidance.projected`).

    Without its momentum: a level drawn at random has no step before it.
    """
    still = jnp.zeros_like(conditional)
    branches = (conditional, unconditional)
    guided = guidance.projected(still, *branches, scale, decay=0.0, frame_mask=frame_mask)[1]
    return guided - conditional


EXCESSES: Mapping[str, Callable[..., Array]] = {"cfg": plain_excess, "apg": projected_excess}
"""What guidance adds to the conditional velocity, by the rule's name in `sampling.steering`."""


def guidance_direction(
    conditional: Array,
    unconditional: Array,
    level: Array,
    scale: Array | float,
    rule: str = "cfg",
    frame_mask: Array | None = None,
) -> Array:
    """Points away from what guidance adds: (scale - 1) tau (v_c - v_u), or that projected."""
    excess = EXCESSES[rule](conditional, unconditional, scale, frame_mask)
    return flow.broadcast_time(level, conditional) * excess


def coupled_directions(
    generated: Array,
    noise: tuple[Array, ...],
    level: tuple[Array, ...],
    fake: VelocityFn,
    conditional: VelocityFn,
    unconditional: VelocityFn,
    scale: Array | float,
    rule: str = "cfg",
    frame_mask: Array | None = None,
) -> Directions:
    """Evaluates both terms of (2) at one noise level: three network calls.

    Args:
      generated: x_g, [B, T, C].
      noise: n, of the same shape; of several the first is taken.
      level: tau, [B]; of several the first is taken.
      fake: the fake score's velocity field (x, t) -> v; never guided.
      conditional: the teacher's field under the condition.
      unconditional: the teacher's field under the null condition.
      scale: guidance the student is to absorb; 1 removes the second term.
      rule: how it is guided, a name in `EXCESSES`.
      frame_mask: an item's own frames [B, T], over which projected guidance takes lengths.
    """
    tau = level[0]
    x = jax.lax.stop_gradient(flow.interpolate(generated, noise[0], tau))
    v_c, v_u, v_f = conditional(x, tau), unconditional(x, tau), fake(x, tau)
    directions = Directions(
        matching=matching_direction(v_c, v_f, tau),
        guidance=guidance_direction(v_c, v_u, tau, scale, rule, frame_mask),
        teacher_data=flow.data_from_velocity(x, v_c, tau),
    )
    return jax.lax.stop_gradient(directions)


def decoupled_directions(
    generated: Array,
    noise: tuple[Array, ...],
    level: tuple[Array, ...],
    fake: VelocityFn,
    conditional: VelocityFn,
    unconditional: VelocityFn,
    scale: Array | float,
    rule: str = "cfg",
    frame_mask: Array | None = None,
) -> Directions:
    """Evaluates the terms of (2) at a noise level each: four network calls.

    `noise` and `level` are pairs, for the matching and the guidance term; the rest is as in
    `coupled_directions`. The data estimate is the one at the matching level, so that one
    normaliser serves both terms and their ratio stays as designed.
    """
    tau_m, tau_g = level
    x_m = jax.lax.stop_gradient(flow.interpolate(generated, noise[0], tau_m))
    x_g = jax.lax.stop_gradient(flow.interpolate(generated, noise[1], tau_g))
    v_c = conditional(x_m, tau_m)
    directions = Directions(
        matching=matching_direction(v_c, fake(x_m, tau_m), tau_m),
        guidance=guidance_direction(
            conditional(x_g, tau_g), unconditional(x_g, tau_g), tau_g, scale, rule, frame_mask
        ),
        teacher_data=flow.data_from_velocity(x_m, v_c, tau_m),
    )
    return jax.lax.stop_gradient(directions)


DIRECTIONS: Mapping[bool, Callable[..., Directions]] = {
    True: decoupled_directions,
    False: coupled_directions,
}
"""The directions by whether the terms are decoupled: one set of arguments, three calls or four."""


def normalizer(generated: Array, teacher_data: Array, frame_mask: Array | None = None) -> Array:
    """Scales a direction to the teacher's distance: w = 1 / max(mean |x_g - data_R|, 1e-5), [B]."""
    distance = jnp.mean(jnp.abs(generated - teacher_data), axis=-1)
    mean = losses.masked_mean(distance, frame_mask, axis=-1)
    return jax.lax.stop_gradient(1.0 / jnp.maximum(mean, 1e-5))


def surrogate_loss(generated: Array, gradient: Array, frame_mask: Array | None = None) -> Array:
    """Makes autodiff see `gradient`: L = 1/2 mean (x_g - sg[x_g - gradient])^2 an example, [B].

    The mean of L over the batch has the derivative gradient / size with respect to `generated`.
    """
    target = jax.lax.stop_gradient(generated - gradient)
    return 0.5 * losses.velocity_loss(generated, target, frame_mask)


def diagnostics(directions: Directions, generated: Array) -> dict[str, Array]:
    """Measures the health of a distillation in four numbers, means over the batch.

    Returns:
      dm_gap: |data_F - data_c| / |x_g - data_c|, which falls and then levels off;
      fake_over_teacher: |x_g - data_F| / |x_g - data_c|, below 1 where the fake score knows the
      student's songs better than the teacher does; ca_over_dm: |guidance| / |matching|;
      dm_ca_cosine: the cosine of the two terms.
    """
    axes, tiny = tuple(range(1, generated.ndim)), 1e-12

    def norm(x: Array) -> Array:
        return jnp.sqrt(jnp.sum(x**2, axis=axes)) + tiny

    matching, guidance = norm(directions.matching), norm(directions.guidance)
    inner = jnp.sum(directions.matching * directions.guidance, axis=axes)
    distance = generated - directions.teacher_data
    return {
        "dm_gap": jnp.mean(matching / norm(distance)),
        "fake_over_teacher": jnp.mean(norm(distance - directions.matching) / norm(distance)),
        "ca_over_dm": jnp.mean(guidance / matching),
        "dm_ca_cosine": jnp.mean(inner / (matching * guidance)),
    }


def channel_std_ratio(generated: Array, real: Array, frame_mask: Array | None = None) -> Array:
    """Averages std(x_g) / std(real) over channels: 1 where songs are as varied as real ones."""

    def std(x: Array) -> Array:
        mask = None if frame_mask is None else jnp.broadcast_to(frame_mask[..., None], x.shape)
        mean = losses.masked_mean(x, mask, axis=(0, 1))
        return jnp.sqrt(losses.masked_mean((x - mean[None, None]) ** 2, mask, axis=(0, 1)))

    return jnp.mean(std(generated) / jnp.maximum(std(real), 1e-6))


# --- adversarial terms: one value a logit, [B, S]; the mean over segments is the caller's ---

GanLoss: TypeAlias = Callable[[Array, Array], Array]
"""(real logits [B, S], fake logits [B, S]) -> loss of each segment, [B, S]."""


def nonsaturating_discriminator(real: Array, fake: Array) -> Array:
    """Separates real from fake: softplus(-l_r) + softplus(l_f); best at log p_R - log p_F."""
    return jax.nn.softplus(-real) + jax.nn.softplus(fake)


def nonsaturating_generator(real: Array, fake: Array) -> Array:
    """Raises the fake logits: softplus(-l_f)."""
    del real
    return jax.nn.softplus(-fake)


def hinge_discriminator(real: Array, fake: Array) -> Array:
    """Separates real from fake up to a margin: relu(1 - l_r) + relu(1 + l_f)."""
    return jax.nn.relu(1 - real) + jax.nn.relu(1 + fake)


def hinge_generator(real: Array, fake: Array) -> Array:
    """Raises the fake logits: -l_f."""
    del real
    return -fake


def relativistic_discriminator(real: Array, fake: Array) -> Array:
    """Puts each real member above its fake one: softplus(-(l_r - l_f)).

    Pairs share prompt, noise and level (ARC).
    """
    return jax.nn.softplus(fake - real)


def relativistic_generator(real: Array, fake: Array) -> Array:
    """Puts each fake member above its real one: softplus(l_r - l_f)."""
    return jax.nn.softplus(real - fake)


GAN_LOSSES: Mapping[str, tuple[GanLoss, GanLoss]] = {
    "nonsaturating": (nonsaturating_discriminator, nonsaturating_generator),
    "hinge": (hinge_discriminator, hinge_generator),
    "relativistic": (relativistic_discriminator, relativistic_generator),
}
"""Discriminator and generator loss by name."""


def contrastive(matched: Array, mismatched: Array) -> Array:
    """Teaches the discriminator the condition: softplus(-(D(x, c) - D(x, c'))), [B, S].

    `mismatched` are logits of the same real latents under another item's condition (ARC).
    """
    return jax.nn.softplus(mismatched - matched)


def approximate_r1(logits: Array, perturbed: Array) -> Array:
    """Penalises slope by finite differences: (D(x) - D(x + sigma n))^2, [B, S].

    For small sigma its mean is sigma^2 |grad D|^2, so a weight must grow with 1 / sigma^2 (ARC).
    """
    return (logits - perturbed) ** 2


def exact_r1(slope: Array) -> Array:
    """Penalises the slope of an item's summed logits: |d sum_s D_s / dx|^2, [B, T, C] -> [B].

    Divided by the number of segments it is what `approximate_r1` tends to over sigma^2, where no
    two segments see the same frames. Source: Mescheder et al. 2018, arXiv:1801.04406.
    """
    return jnp.sum(slope**2, axis=(1, 2))


# --- laws: what is drawn afresh every iteration ---


def draw_shift(key: Key, shape: tuple[int, ...], law: str = "joint") -> Array:
    """Draws the shift of each item's grid.

    Args:
      key: a random key.
      shape: usually [B].
      law: "1", "2", "3" fix it; "joint" draws from {1, 2, 3}, as the released turbo model was
        distilled; "continuous" draws from U(1, 5), as its experimental sibling was.

    Raises:
      ValueError: if `law` is unknown.
    """
    if law == "joint":
        return jax.random.randint(key, shape, 1, 4).astype(jnp.float32)
    if law == "continuous":
        return jax.random.uniform(key, shape, jnp.float32, 1.0, 5.0)
    if law in SHIFT_LAWS:
        return jnp.full(shape, float(law), jnp.float32)
    raise ValueError(f"unknown shift law {law!r}; choose one of {', '.join(SHIFT_LAWS)}.")


def step_counts(law: str) -> tuple[int, ...]:
    """Reads a law of step counts: "8" -> (8,), "4,8" -> (4, 8), "4-8" -> (4, 5, 6, 7, 8).

    Raises:
      ValueError: if the law is none of the three forms or a count is below 1.
    """
    try:
        first, dash, last = law.partition("-")
        counts = range(int(first), int(last) + 1) if dash else map(int, law.split(","))
        counts = tuple(counts)
    except ValueError:
        counts = ()
    if not counts or min(counts) < 1:
        raise ValueError(f'step law {law!r} is none of "8", "4,8" or "4-8" with counts above 0.')
    return counts


def draw_step(key: Key, law: str = "8") -> tuple[Array, Array]:
    """Draws a step count N from `law` and the student's step k, uniform over 0 .. N - 1.

    Both are integer scalars shared by the batch and by all devices, so that every device runs the
    same number of forward passes.
    """
    count_key, step_key = jax.random.split(key)
    num_steps = jax.random.choice(count_key, jnp.array(step_counts(law), jnp.int32))
    return num_steps, jax.random.randint(step_key, (), 0, num_steps)


def draw_level(
    key: Key,
    shape: tuple[int, ...],
    low: Array | float = MIN_LEVEL,
    high: Array | float = MAX_LEVEL,
) -> Array:
    """Draws re-noising levels from U(low, high); an empty range (high < low) gives `low`."""
    high = jnp.maximum(low, high)
    return low + (high - low) * jax.random.uniform(key, shape, jnp.float32)


def draw_term_levels(
    key: Key, t_k: Array, low: float = MIN_LEVEL, high: float = MAX_LEVEL
) -> tuple[Array, Array]:
    """Draws the levels of the two terms of (2): from U(low, high), and from U(low, min(t_k, high)).

    Guidance looks at levels cleaner than the step t_k [B] that the student just took.
    """
    matching_key, guidance_key = jax.random.split(key)
    matching = draw_level(matching_key, t_k.shape, low, high)
    return matching, draw_level(guidance_key, t_k.shape, low, jnp.minimum(t_k, high))


def draw_log_snr_level(
    key: Key, shape: tuple[int, ...], low: float = -6.0, high: float = 2.0
) -> Array:
    """Draws levels whose log signal-to-noise ratio 2 log((1 - t) / t) is U(low, high) (ARC)."""
    return jax.nn.sigmoid(-0.5 * jax.random.uniform(key, shape, jnp.float32, low, high))
