"""Within a bucket of lengths, nothing compiles a second time: counted in JAX's own log."""

import logging

import jax
import numpy as np

from acestep_jax.ops import timesteps
from acestep_jax.sampling import buckets, flow, sampler
from tests import tiny


def _sample(num_frames, *, seed, shift):
    """Samples one song of `num_frames`, padded to its bucket."""
    length = buckets.frame_bucket(num_frames)
    tokens, _ = tiny.conditions(batch=1, frames=2)
    channels = tiny.CONFIG.audio_acoustic_hidden_dim
    latents = sampler.make_sampler(tiny.networks().dit)(
        tiny.params()["dit"],
        flow.initial_noise(flow.item_keys(np.asarray([seed])), length, channels),
        tokens,
        None,
        np.zeros((1, length, 2 * channels), np.float32),
        np.arange(length)[None] < num_frames,
        timesteps.time_grid(2, shift),
    )
    return np.asarray(latents)[:, :num_frames]


def _compiled(caplog, *args, **kwargs):
    """Names what JAX compiles, from memory or anew, while a song is sampled."""
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        _sample(*args, **kwargs)
    messages = [record.getMessage() for record in caplog.records]
    return [text.split()[1] for text in messages if text.startswith("Compiling ")]


def test_songs_of_one_bucket_share_one_program(caplog):
    first = _compiled(caplog, 130, seed=1, shift=3.0)
    assert first.count("jit(sample)") == 1  # 256 frames: the log does show compilations
    assert _compiled(caplog, 200, seed=2, shift=1.0) == []
    assert _compiled(caplog, 256, seed=3, shift=2.0) == []
    assert _compiled(caplog, 257, seed=4, shift=3.0).count("jit(sample)") == 1  # the next bucket
