"""The spectral discriminator: shapes, features, and what it can see."""

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.nn.audio_discriminator import AudioDiscriminator

MODEL = AudioDiscriminator(windows=(128, 64), filters=3)


def _judge(audio: jax.Array) -> tuple:
    params = MODEL.init(jax.random.key(0), audio)
    return MODEL.apply(params, audio)


def test_every_scale_gives_a_map_of_logits_and_five_features():
    logits, features = _judge(0.1 * jax.random.normal(jax.random.key(1), (2, 512, 2)))
    assert [x.shape[:2] for x in logits] == [(2, 17), (2, 33)]  # frames of hop 32 and 16
    assert [len(scale) for scale in features] == [5, 5]
    # three layers halve the 65 and 33 bins, upwards
    assert [scale[-1].shape[2] for scale in features] == [9, 5]


def test_phase_is_seen():
    audio = 0.1 * jax.random.normal(jax.random.key(1), (1, 512, 2))
    plain, flipped = (_judge(x)[0][0] for x in (audio, -audio))
    assert float(jnp.max(jnp.abs(plain - flipped))) > 1e-4


def test_kernels_are_weight_normalised():
    audio = 0.1 * jax.random.normal(jax.random.key(1), (1, 512, 2))
    params = MODEL.init(jax.random.key(0), audio)["params"]
    longer = jax.tree_util.tree_map_with_path(
        lambda path, x: 7 * x if path[-1].key == "weight_v" else x, params
    )
    ours, theirs = (MODEL.apply({"params": p}, audio)[0][1] for p in (params, longer))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)  # only directions count
