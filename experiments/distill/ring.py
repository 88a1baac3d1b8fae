"""Does distribution matching find all modes? Eight Gaussians on a ring, where everything is known.

    python -m experiments.distill.ring [--quick] [--seeds 0 1 2]

The teacher is the exact velocity of the mixture, the student an MLP of four steps that begins as a
fit to it, the fake score another; they play by the rules of train/distill.py (backward simulation,
shift drawn from {1, 2, 3}, several critic updates a student update), without guidance or adversary.
Printed while it goes on: the Kullback-Leibler divergence of the student's samples from the mixture,
by quadrature on a grid; at the end how many modes are found, and how far their masses are from an
eighth each (total variation). Wanted: 8 of 8, below 0.05, and a divergence that falls. The picture
is `results/ring.svg`; the last line is one JSON object.
"""

import argparse
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from acestep_jax.nn.layers import time_features
from acestep_jax.ops import distill, flow, losses, timesteps
from acestep_jax.ops.solvers import VelocityFn
from acestep_jax.training import files
from acestep_jax.typing import Array, Key, Params

MODES, RADIUS, STD = 8, 1.0, 0.08
STEPS = 4
BATCH = 512
EDGE, CELLS = 1.6, 48
"""Half the width of the grid, and its cells a side."""
RESULTS = pathlib.Path(__file__).parent / "results"


def centres() -> np.ndarray:
    """Gives the means of the modes, [8, 2]."""
    angle = 2 * np.pi * np.arange(MODES) / MODES
    return RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def teacher(x: Array, t: Array) -> Array:
    """Evaluates the mixture's exact velocity (x - E[x_0 | x]) / t at x [B, 1, 2], t [B]."""
    t = t[:, None, None]
    means = jnp.asarray(centres(), x.dtype)[None]  # [1, 8, 2]
    variance = (1 - t) ** 2 * STD**2 + t**2
    offset = x - (1 - t) * means  # [B, 8, 2]
    weight = jax.nn.softmax(-0.5 * jnp.sum(offset**2, -1) / variance[..., 0], axis=-1)
    expected = means + (1 - t) * STD**2 / variance * offset
    return (x - jnp.sum(weight[..., None] * expected, axis=1, keepdims=True)) / t


class Velocity(nn.Module):
    """An MLP of point and time."""

    width: int = 128

    @nn.compact
    def __call__(self, x: Array, t: Array) -> Array:
        """Evaluates the velocity at x [B, 1, 2], t [B]."""
        h = jnp.concatenate([x, time_features(t, 32)[:, None].astype(x.dtype)], axis=-1)
        for i in range(3):
            h = nn.silu(nn.Dense(self.width, name=f"hidden_{i}")(h))
        return nn.Dense(2, name="out")(h)


class State(NamedTuple):
    """Parameters and optimizer states of both networks."""

    student: Params
    fake: Params
    student_rule: Any
    fake_rule: Any


NETWORK = Velocity()
ROUNDS, ITERATIONS, CRITICS = 8, 500, 5
"""Of a run, by default; an iteration has so many critic updates."""
FIT_STEPS = 4000
"""Of the first fit. After 1,000 the fake score begins as a poor guess and does not catch up in
time: masses end up to 0.1 off, where they are within 0.02 from a good start."""


def falling_adam(rate: float, updates: int) -> optax.GradientTransformation:
    """Makes Adam with a rate that falls over a whole run."""
    return optax.adam(optax.cosine_decay_schedule(rate, updates, alpha=0.05))


STUDENT = falling_adam(6e-4, ROUNDS * ITERATIONS)
FAKE = falling_adam(1.8e-3, ROUNDS * ITERATIONS * CRITICS)


def field(params: Params) -> VelocityFn:
    """Closes the MLP over its parameters."""
    return lambda x, t: NETWORK.apply({"params": params}, x, t)


def roll(student: Params, key: Key, size: int) -> tuple[Array, Array, Array]:
    """Rolls the student's ODE from noise: states and data estimates [4, B, 1, 2], times [4, B]."""
    shift_key, noise_key = jax.random.split(key)
    shift = distill.draw_shift(shift_key, (size,), "joint")
    times = timesteps.padded_time_grid(jnp.array(STEPS), STEPS, shift)
    x, states, data = jax.random.normal(noise_key, (size, 1, 2)), [], []
    for i in range(STEPS):
        v = field(student)(x, times[i])
        states.append(x)
        data.append(flow.data_from_velocity(x, v, times[i]))
        x = x - flow.broadcast_time(times[i] - times[i + 1], x) * v
    return jnp.stack(states), jnp.stack(data), times[:-1]


def flow_loss(params: Params, data: Array, key: Key) -> Array:
    """Fits a velocity to data at uniform levels."""
    level_key, noise_key = jax.random.split(key)
    t = distill.draw_level(level_key, data.shape[:1], 0.0, 1.0)
    noise = jax.random.normal(noise_key, data.shape)
    predicted = field(params)(flow.interpolate(data, noise, t), t)
    return jnp.mean(losses.velocity_loss(predicted, flow.velocity_target(data, noise)))


def student_loss(student: Params, fake: Params, x_k: Array, t_k: Array, key: Key) -> Array:
    """Moves the student's samples along the matching direction."""
    level_key, noise_key = jax.random.split(key)
    generated = flow.data_from_velocity(x_k, field(student)(x_k, t_k), t_k)
    still = jax.lax.stop_gradient(generated)
    levels = distill.draw_term_levels(level_key, t_k)
    noises = jax.random.normal(noise_key, (2, *still.shape))
    terms = distill.coupled_directions(still, noises, levels, field(fake), teacher, teacher, 1.0)
    weight = flow.broadcast_time(distill.normalizer(still, terms.teacher_data), still)
    return jnp.mean(distill.surrogate_loss(generated, weight * terms.matching))


def descend(rule: Any, loss: Any, params: Params, memory: Any) -> tuple[Params, Any]:
    """Takes one optimizer step."""
    changes, memory = rule.update(jax.grad(loss)(params), memory, params)
    return optax.apply_updates(params, changes), memory


def iterate(state: State, key: Key, critics: int) -> State:
    """Runs one iteration: a roll, the fake score several times, the student once."""
    roll_key, pick_key, move_key, *keys = jax.random.split(key, 3 + critics)
    states, data, times = roll(state.student, roll_key, BATCH)
    items = jnp.arange(BATCH)

    def pick(key: Key) -> tuple[Array, Array, Array]:
        k = jax.random.randint(key, (BATCH,), 0, STEPS)
        return states[k, items], times[k, items], data[k, items]

    fake, memory = state.fake, state.fake_rule
    for own in keys:
        draw_key, loss_key = jax.random.split(own)
        loss = functools.partial(flow_loss, data=pick(draw_key)[2], key=loss_key)
        fake, memory = descend(FAKE, loss, fake, memory)
    x_k, t_k, _ = pick(pick_key)
    loss = functools.partial(student_loss, fake=fake, x_k=x_k, t_k=t_k, key=move_key)
    student, rule = descend(STUDENT, loss, state.student, state.student_rule)
    return State(student, fake, rule, memory)


@functools.partial(jax.jit, static_argnums=(2, 3))
def several(state: State, key: Key, count: int, critics: int) -> State:
    """Runs `count` iterations."""
    keys = jax.random.split(key, count)
    return jax.lax.scan(lambda s, k: (iterate(s, k, critics), None), state, keys)[0]


@functools.partial(jax.jit, static_argnums=1)
def begin(key: Key, count: int) -> State:
    """Fits an MLP to the mixture; student and fake score begin as it."""
    init_key, fit_key = jax.random.split(key)
    params = NETWORK.init(init_key, jnp.zeros((1, 1, 2)), jnp.ones(1))["params"]
    rule = optax.adam(optax.cosine_decay_schedule(2e-3, count))

    def fit(carry: tuple, key: Key) -> tuple:
        data_key, loss_key = jax.random.split(key)
        loss = functools.partial(flow_loss, data=mixture(data_key, BATCH), key=loss_key)
        return descend(rule, loss, *carry), None

    (params, _), _ = jax.lax.scan(
        fit, (params, rule.init(params)), jax.random.split(fit_key, count)
    )
    return State(params, params, STUDENT.init(params), FAKE.init(params))


def mixture(key: Key, count: int) -> Array:
    """Draws from the mixture, [N, 1, 2]."""
    mode_key, noise_key = jax.random.split(key)
    modes = jax.random.randint(mode_key, (count,), 0, MODES)
    return (jnp.asarray(centres())[modes] + STD * jax.random.normal(noise_key, (count, 2)))[:, None]


@functools.partial(jax.jit, static_argnums=2)
def sample(student: Params, key: Key, count: int) -> Array:
    """Samples the student: where its ODE ends, [N, 2]."""
    return roll(student, key, count)[1][-1][:, 0]


# What is measured ---------------------------------------------------------------------------------


def masses(points: np.ndarray) -> np.ndarray:
    """Gives the share of points nearest to each mode, [8]."""
    nearest = np.argmin(np.linalg.norm(points[:, None] - centres()[None], axis=-1), axis=1)
    return np.bincount(nearest, minlength=MODES) / len(points)


def divergence(points: np.ndarray) -> float:
    """Estimates KL(points || mixture) from counts in the cells of a grid.

    The outermost cells take what lies beyond. The expectation of the estimate is above zero by
    about (occupied cells - 1) / 2N even for the mixture itself, which is taken off.
    """
    edges = np.linspace(-EDGE, EDGE, CELLS + 1)
    inside = np.clip(points, -EDGE + 1e-6, EDGE - 1e-6)
    counts, *_ = np.histogram2d(*inside.T, bins=(edges, edges))
    ours = counts / counts.sum()
    theirs = np.zeros_like(ours)
    for x, y in centres():
        theirs += np.outer(_cell_masses(edges, x), _cell_masses(edges, y)) / MODES
    taken = ours > 0
    excess = (taken.sum() - 1) / (2 * len(points))
    return float(np.sum(ours[taken] * np.log(ours[taken] / (theirs[taken] + 1e-12)))) - excess


def _cell_masses(edges: np.ndarray, mean: float) -> np.ndarray:
    from math import erf

    below = np.array([0.5 * (1 + erf((edge - mean) / (STD * 2**0.5))) for edge in edges])
    below[0], below[-1] = 0.0, 1.0
    return np.diff(below)


def run(
    seed: int, rounds: int, iterations: int, critics: int, points: int, fit: int = FIT_STEPS
) -> dict[str, Any]:
    """Distils once; gives the divergence after every round, and the final points."""
    key = jax.random.key(seed)
    state, curve = begin(key, fit), []
    for i in range(rounds + 1):
        drawn = np.asarray(sample(state.student, jax.random.key(1000 + seed), points))
        curve.append(divergence(drawn))
        print(f"seed {seed}, {i * iterations} iterations: KL {curve[-1]:.4f}", flush=True)
        if i < rounds:
            state = several(state, jax.random.fold_in(key, i + 1), iterations, critics)
    share = masses(drawn)
    return {
        "seed": seed,
        "kl": [round(value, 4) for value in curve],
        "recall": int(np.sum(share > 0.5 / MODES)),
        "total_variation": round(float(0.5 * np.abs(share - 1 / MODES).sum()), 4),
        "points": drawn[:1500],
    }


def picture(found: Sequence[dict[str, Any]], iterations: int) -> str:
    """Draws the first seed's points beside the modes, and the divergence of every seed."""
    side, drawn = 260, []

    def place(point: Sequence[float]) -> tuple[float, float]:
        return side * (0.5 + point[0] / (2 * EDGE)), side * (0.5 - point[1] / (2 * EDGE))

    for point in found[0]["points"]:
        x, y = place(point)
        drawn.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1" fill="#26c" fill-opacity="0.5"/>')
    for centre in centres():
        x, y = place(centre)
        radius = 2 * STD * side / (2 * EDGE)
        drawn.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="none" stroke="#c22"/>'
        )
    highest = max(max(row["kl"]) for row in found)
    for row in found:
        count = max(1, len(row["kl"]) - 1)
        path = " ".join(
            f"{side + 40 + 280 * i / count:.1f},{side - 30 - 200 * max(v, 0.0) / highest:.1f}"
            for i, v in enumerate(row["kl"])
        )
        drawn.append(f'<polyline points="{path}" fill="none" stroke="#26c"/>')
    total = iterations * (len(found[0]["kl"]) - 1)
    words = f"KL from {highest:.2f} to {found[0]['kl'][-1]:.3f} in {total} iterations"
    drawn.append(f'<text x="{side + 40}" y="{side - 8}">{words}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{side + 340}" height="{side}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(drawn)
        + "\n</svg>\n"
    )


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Runs every seed, draws the picture, and prints the numbers as JSON last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, a few iterations")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--iterations", type=int, default=ITERATIONS, help="in a round")
    parser.add_argument("--critics", type=int, default=CRITICS)
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args(arguments)
    seeds, rounds, iterations = options.seeds, options.rounds, options.iterations
    points, fit = 40_000, FIT_STEPS
    if options.quick:
        seeds, rounds, iterations, points, fit = seeds[:1], 2, 50, 4000, 100
    found = [run(seed, rounds, iterations, options.critics, points, fit) for seed in seeds]
    options.results.mkdir(parents=True, exist_ok=True)
    files.write_atomically(options.results / "ring.svg", picture(found, iterations))
    for row in found:
        del row["points"]
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
