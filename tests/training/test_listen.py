"""Samples to hear: the same prompts and noise every time, kept when the configuration says so."""

import dataclasses

import jax
import numpy as np

from acestep_jax import weights
from acestep_jax.nn.config import VAEConfig
from acestep_jax.nn.vae import VAE
from acestep_jax.training import listen, loop
from acestep_jax.training.config import Model, Samples
from tests import tiny
from tests.train import toys
from tests.training import toy_run

SMALL = VAEConfig(
    encoder_hidden_size=4,
    downsampling_ratios=(32,),
    channel_multiples=(2,),
    decoder_channels=4,
    decoder_input_channels=4,
)


def test_the_same_parameters_sing_the_same_songs_and_others_do_not(tmp_path):
    key, vae = jax.random.key(0), VAE(SMALL)
    params = jax.jit(vae.init)(key, np.zeros((1, 64, 2), np.float32), key)["params"]
    weights.save_vae(tmp_path, weights.Network(SMALL, params))
    plan = Samples(num_items=2, num_steps=2)
    model = Model(vae_weights=str(tmp_path))
    listener = listen.Listener(model, plan, tiny.networks(), toys.batch(size=4))
    songs = listener(tiny.params())
    assert set(songs) == {"song_0", "song_1"}
    assert songs["song_0"].shape == (8 * 32, 2)  # 8 frames of 32 samples
    again = listener(tiny.params())
    np.testing.assert_array_equal(songs["song_1"], again["song_1"])

    def covers(silence):
        batch = dataclasses.replace(toys.batch(size=4), is_cover=np.ones(4, bool))
        return listen.Listener(model, plan, tiny.networks(), batch, silence)(tiny.params())

    coded = covers(np.zeros((1, 8, 4), np.float32))  # the source is heard through its codes
    assert np.abs(coded["song_0"] - covers(None)["song_0"]).max() > 1e-6
    other = listener(tiny.params() | {"dit": jax.tree.map(lambda x: -x, tiny.params()["dit"])})
    assert np.abs(songs["song_0"] - other["song_0"]).max() > 1e-6


def test_a_run_is_heard_every_so_many_steps_and_at_its_end(tmp_path):
    config = toy_run.Toy(num_steps=5, listen_every=2, workdir=str(tmp_path))
    init, _ = toy_run.make_init(config)

    def listener(parts):
        return {"song": np.full((10, 2), parts["level"], np.float32)}

    with loop.Loop(config) as run:
        run.restore_or_init(init)
        for done in range(1, 6):
            run.listen(done, listener, {"level": 0.1 * done})
            run.listen(done, lambda parts: {"early": np.zeros((1, 2))}, {}, at_end=False)
    heard = sorted(str(path.relative_to(tmp_path / "samples")) for path in tmp_path.rglob("*.wav"))
    assert heard == [
        "000002/early.wav",
        "000002/song.wav",
        "000004/early.wav",
        "000004/song.wav",
        "000005/song.wav",
    ]
