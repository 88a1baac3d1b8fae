"""What codes can hold: the gradient of their rounding, Shannon's bound, and notes of any sign."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.nn import model as model_lib
from acestep_jax.ops import fsq
from acestep_jax.training import codec as codec_lib
from acestep_jax.training import hints as hints_lib
from acestep_jax.training.codec import Codec
from acestep_jax.training.config import Optimizer
from acestep_jax.training.recipes.tokenizer import TrainTokenizer
from tests import tiny
from tests.train import toys
from train import tokenizer

draw_codec = jax.jit(codec_lib.draw_params, static_argnums=0)

# Rounding and its rate ---------------------------------------------------------------------------


def test_the_gradient_of_rounding_is_one_inside_the_clamp_and_zero_outside():
    """E1, against the slope of c tanh(z / c), which comes before the clamp; zero is exact."""
    z = jnp.linspace(-6, 6, 2001)[:, None]
    for levels in (8, 5):
        limit = np.float32(1 + 1 / np.float32(levels - 1))  # rounded as in `fsq.bound`
        slope = jax.jit(jax.grad(lambda z, n=levels: fsq.quantize(z, (n,))[0].sum()))(z)
        soft = jax.jit(jax.grad(lambda z, c=limit: (c * jnp.tanh(z / c)).sum()))(z)
        inside = np.abs(limit * np.tanh(z / limit)) < 1
        np.testing.assert_allclose(slope[inside], soft[inside], rtol=1e-5)  # one and the same c
        assert not np.asarray(slope[~inside]).any()


LIMIT_NETWORKS = model_lib.build_networks(
    dataclasses.replace(
        tiny.CONFIG,
        hidden_size=32,
        intermediate_size=64,
        fsq_dim=32,
        audio_acoustic_hidden_dim=64,
        timbre_hidden_dim=64,
        in_channels=192,
        fsq_input_levels=(8, 8, 8, 5, 5, 5),
    ),
    tiny.TEXT_CONFIG,
)
BITS = np.log2(64_000)


def _windows(key, rank):
    """Unit-variance windows [96, 5, 64]: white, or the same `rank` directions in every frame."""
    if rank == 320:
        return jax.random.normal(key, (96, 5, 64))
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(64, rank)))[0].T
    values = jax.random.normal(key, (96, rank)) * np.sqrt(64 / rank)
    return jnp.repeat((values @ basis.astype(np.float32))[:, None], 5, axis=1)


@functools.cache
def _unexplained(rank, num_steps):
    """Trains by reconstruction on fresh data; returns the error on more of it over its variance."""
    config = TrainTokenizer(
        name="limit",
        codec=Optimizer(peak_lr=6e-3, schedule="cosine", weight_decay=0.0, b2=0.99),
        num_steps=num_steps,
        reconstruct_steps=num_steps,
        code_noise=0.0,
        cosine_weight=0.0,
    )
    codec = Codec(LIMIT_NETWORKS, np.zeros((5, 64), np.float32))
    draw = jax.jit(functools.partial(_windows, rank=rank))
    params = draw_codec(LIMIT_NETWORKS, jax.random.key(0))
    params = {"codec": codec.start_on(params, draw(jax.random.key(1)))}
    step = tokenizer.make_step(hints_lib.Setting(config, codec), "reconstruct", params)
    state = tokenizer.make_state(config, params)
    batch = dataclasses.replace(toys.batch(size=96, frames=5), frame_mask=np.ones((96, 5), bool))
    for i in range(num_steps):
        state, _ = step(state, {}, dataclasses.replace(batch, latents=draw(jax.random.key(2 + i))))

    @jax.jit
    def error(params, data):
        hints = codec.decode(params, codec.encode(params, data)[0], 5)
        return jnp.mean((hints - data) ** 2) / jnp.mean(data**2)

    fresh = [draw(jax.random.key(10_000 + i)) for i in range(10)]
    return float(np.mean([error(state.params["codec"], data) for data in fresh]))


def test_white_latents_cannot_be_told_by_their_codes():
    """E2: 15.97 bits leave at least 2^(-2 · 15.97 / 320) = 93.3 % of white noise unexplained."""
    bound = 2 ** (-2 * BITS / 320)
    assert bound == pytest.approx(0.933, abs=5e-4)
    assert bound <= _unexplained(320, 100) < 1.02


def test_latents_of_six_dimensions_can():
    """E2: the bound is 2^(-2 · 15.97 / 6) = 2.5 %; scalar levels and training cost the rest."""
    assert 2 ** (-2 * BITS / 6) <= _unexplained(6, 200) < 0.2  # measured 0.115


# Levels -------------------------------------------------------------------------------------------


def _notes(seed):
    """Windows [96, 5, 64] in which one of eight groups of channels sounds, with random signs."""
    rng = np.random.default_rng(seed)
    notes = rng.integers(8, size=96)
    sounds = np.repeat(np.eye(8)[notes], 8, axis=1)[:, None]
    signs = rng.choice([-1.0, 1.0], size=(96, 5, 64))
    return (signs * (0.1 + 2.7 * sounds)).astype(np.float32), notes


def _purity(level_weight, num_steps=100):
    """Trains by reconstruction; returns how well fresh codes tell the notes, 1/8 by chance."""
    rule = Optimizer(peak_lr=2e-3, schedule="cosine", weight_decay=0.0, b2=0.99)
    config = TrainTokenizer(
        name="notes",
        codec=rule,
        num_steps=num_steps,
        reconstruct_steps=num_steps,
        code_noise=0.0,
        level_weight=level_weight,
        level_directions=0,
    )
    codec = Codec(LIMIT_NETWORKS, np.zeros((5, 64), np.float32))
    setting = hints_lib.Setting(config, codec)
    params = codec.start_on(draw_codec(LIMIT_NETWORKS, jax.random.key(0)), _notes(0)[0])
    if level_weight:
        setting, params = tokenizer.with_levels(setting, params, _notes(0)[0])
    step = tokenizer.make_step(setting, "reconstruct", {"codec": params})
    state = tokenizer.make_state(config, {"codec": params})
    batch = dataclasses.replace(toys.batch(size=96, frames=5), frame_mask=np.ones((96, 5), bool))
    for i in range(num_steps):
        latents = _notes(i)[0]
        state, metrics = step(state, {}, dataclasses.replace(batch, latents=latents))
    assert ("loss/levels" in metrics) == bool(level_weight)
    told, heard = (_notes(seed) for seed in (10_000, 10_001))
    read = jax.jit(lambda latents: codec.encode(state.params["codec"], latents)[1][:, 0])
    votes = np.zeros((64_000, 8))
    np.add.at(votes, (np.asarray(read(told[0])), told[1]), 1)
    return float(np.mean(np.argmax(votes[np.asarray(read(heard[0]))], axis=1) == heard[1]))


def test_codes_tell_notes_of_any_sign_where_levels_are_asked_for():
    assert _purity(0.0) < 0.25  # measured 0.10
    assert _purity(5.0) > 0.35  # measured 0.52
