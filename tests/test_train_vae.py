"""The autoencoder's trainer: phases that do what they say, and batches that can be had again."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax import weights
from acestep_jax.data import labels, segments
from acestep_jax.nn.vae import VAE, Posterior
from acestep_jax.ops import stft
from acestep_jax.training import checkpoint, models, reconstruction
from acestep_jax.training import metrics as metrics_lib
from acestep_jax.training.recipes.vae import TrainVAE, VAEPhase
from configs.base import vae as base
from configs.nano import vae as nano
from train import vae as train_vae


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> pathlib.Path:
    """The folder of a whole quick run."""
    folder = tmp_path_factory.mktemp("quick")
    jax.clear_caches()  # then its programs are those that tests/test_configs.py compiles
    quick = nano.get_config(quick=True)
    train_vae.main(dataclasses.replace(quick, workdir=str(folder), keep=quick.num_steps))
    return folder


def test_players_alternate_in_the_adversarial_phase(workdir):
    series = metrics_lib.read_metrics(workdir)
    steps = {name: [step for step, _ in values] for name, values in series.items()}
    assert steps["loss/convergence"] == [1, 2, 4]  # the generator's; step 3 is the critic's
    assert steps["loss/critic"] == [3]
    assert steps["loss/matching"] == [4]


def test_a_decoder_only_phase_leaves_the_latents_alone(workdir):
    before, after = (checkpoint.load_all(workdir, step=step) for step in (2, 4))
    for kind in ("params", "average"):
        old, new = before[kind]["generator"], after[kind]["generator"]
        jax.tree.map(np.testing.assert_array_equal, new["encoder"], old["encoder"])
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), new["decoder"], old["decoder"])
        assert any(jax.tree.leaves(moved))


def test_the_level_term_asks_the_last_channels_alone_for_what_the_bands_do():
    config = dataclasses.replace(nano.get_config(quick=True), level_channels=2)
    audio = 0.1 * jax.random.normal(jax.random.key(0), (3, 512, 2))
    scale = train_vae.measure_levels(config, audio, 32)
    levels = (stft.band_levels(audio, 32, 2) - scale[0]) / scale[1]
    noise = jax.random.normal(jax.random.key(1), (3, 16, 2))
    mean = jnp.concatenate([noise, levels], axis=-1)

    def error(mean):
        posterior = Posterior(mean, jnp.ones_like(mean))
        return jnp.sum(train_vae.level_error(config, posterior, audio, scale))

    np.testing.assert_allclose(error(mean), 0.0, atol=1e-9)
    np.testing.assert_allclose(error(mean.at[..., 2:].add(0.5)), 3 * 0.25, rtol=1e-5)
    slope = jax.grad(error)(mean.at[..., 2:].add(0.5))
    np.testing.assert_array_equal(slope[..., :2], 0.0)


def spread_state(step, spread, held):
    state = train_vae.TrainState(jnp.array(step), {}, {}, {}, jax.random.key(0), {})
    return state.replace(extra={"spread": jnp.array(spread), "held_spread": jnp.array(held)})


def test_latents_that_outgrow_the_kl_are_noticed_and_stop_the_run():
    config = nano.get_config(quick=True)
    free, held = VAEPhase(num_steps=1, kl_weight=0.0), VAEPhase(num_steps=1, kl_weight=1e-4)
    state, growth = train_vae.follow_spread(
        spread_state(10_000, [1.0, 2.0], [9.0, 9.0]), jnp.array([1.0, 3.0]), held
    )
    np.testing.assert_allclose(state.extra["held_spread"], [1.0, 2.01], rtol=1e-4)
    assert float(growth) == 1.0
    train_vae.check_growth(config, state)
    state, growth = train_vae.follow_spread(state, jnp.array([1.0, 400.0]), free)
    np.testing.assert_allclose(state.extra["held_spread"], [1.0, 2.01], rtol=1e-4)
    np.testing.assert_allclose(growth, (0.99 * 2.01 + 4.0) / 2.01, rtol=1e-4)
    with pytest.raises(train_vae.LatentsGrew, match=r"channel 1 spreads 2\.98 times"):
        train_vae.check_growth(config, state)
    train_vae.check_growth(dataclasses.replace(config, growth_limit=0.0), state)


@pytest.mark.slow
def test_the_full_size_recipe_traces_in_every_phase():
    config = base.get_config()
    networks = train_vae.build_networks(config)
    samples = config.data.num_frames * networks.vae.config.hop
    audio = jax.ShapeDtypeStruct((2, samples, 2), jnp.float32)
    state = jax.eval_shape(lambda a: train_vae.init_state(config, networks, a), audio)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params["generator"]))
    assert 165e6 < count < 172e6  # the released autoencoder has 84.3 and 84.4 million
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
    for phase, player in ((0, "generator"), (2, "generator"), (2, "discriminator")):
        step = train_vae.make_step(
            config, networks, config.phases[phase], player=player, params=state.params
        )
        new, metrics = jax.eval_shape(step, state, audio)
        assert shapes(new) == shapes(state)
        assert all(value.shape == () for value in metrics.values())


def test_the_shipped_autoencoder_keeps_a_bass_line():
    network = weights.load_vae(models.locate("asset:nano/vae"))
    time = jnp.arange(17 * network.config.hop)[:, None] / 48_000
    pitch = jnp.array([[[110.0, 164.8]], [[82.4, 82.4]]])  # two clips, left and right
    audio = 0.2 * jnp.sin(2 * jnp.pi * pitch * time[None])
    measures = reconstruction.measure(VAE(network.config), network.params, audio)
    assert measures["si_sdr_db"].shape == (2,)
    assert float(measures["si_sdr_db"].mean()) > 8  # measured 11.2 by the first autoencoder


def test_the_kl_term_is_twice_the_divergence():
    """Training reference G1: Monte Carlo over 200,000 draws against equation (1) of the trainer."""
    mean, std = jnp.array([[[0.7, -1.2]]]), jnp.array([[[0.3, 1.6]]])
    posterior = Posterior(mean=mean, std=std)
    noise = jax.random.normal(jax.random.key(0), (200_000, 1, 2))
    draws = mean + std * noise
    log_ratio = jnp.sum(-0.5 * noise**2 - jnp.log(std) + 0.5 * draws**2, axis=(1, 2))
    kl = train_vae.kl_divergence(posterior)
    np.testing.assert_allclose(kl, [2 * jnp.mean(log_ratio)], rtol=1e-2)
    np.testing.assert_allclose(kl, [4.0479], rtol=1e-4)  # sum of m^2 + s^2 - 2 log s - 1 by hand


def test_phases_and_steps_must_agree():
    with pytest.raises(ValueError, match="phases last 3 steps and num_steps=4"):
        TrainVAE(name="x", num_steps=4, phases=(VAEPhase(num_steps=3),))


def test_batches_depend_on_seed_and_position_alone():
    tracks = segments.practice_tracks(count=2, seconds=0.1)
    make = lambda: segments.SegmentBatches([tracks], batch_size=2, samples=960, seed=3)  # noqa: E731
    first, second = make(), make()
    skipped = [next(first) for _ in range(3)][2]
    second.set_state({"position": 2})
    np.testing.assert_array_equal(next(second), skipped)
    assert second.get_state() == first.get_state() == {"position": 3}
    assert np.abs(skipped).max() <= 1 and skipped.dtype == np.float32


def test_augmentation_widens_what_is_nearly_mono():
    rng = np.random.default_rng(0)
    mono = np.repeat(0.1 * rng.standard_normal((960, 1)), 2, axis=1).astype(np.float32)
    widths = []
    for _ in range(40):
        stereo = segments.augment(rng, mono)
        widths.append(np.std(stereo[:, 0] - stereo[:, 1]) / np.std(stereo))
        assert 0.14 < np.abs(stereo).max() < 1
    assert np.mean(np.array(widths) > 0.05) > 0.3  # half of them are panned


def test_missing_audio_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="names no audio file; has the data been made"):
        segments.divide(str(tmp_path / "*.flac"), every=10)


def test_no_song_of_the_validation_or_test_split_is_trained_on(tmp_path):
    splits = ["train", "test", "train", "validation", "train", "train"]
    for i, split in enumerate(splits):
        (tmp_path / f"{i}.flac").touch()
        known = labels.SongLabels(
            name=str(i), group=str(i), split=split, seconds=9.0, captions=("calm",)
        )
        labels.save_labels(tmp_path / f"{i}.json", known)
    division = segments.divide(str(tmp_path / "*.flac"), every=2)
    assert [file.stem for file in division.train] == ["0", "2", "4", "5"]
    assert [file.stem for file in division.held_out] == ["3"]

    for name in ("a", "b", "c"):  # nobody has said anything of these
        (tmp_path / f"{name}.flac").touch()
    division = segments.divide(str(tmp_path / "*.flac"), every=2)
    assert [file.stem for file in division.held_out] == ["3", "b"]
    assert [file.stem for file in division.train] == ["0", "2", "4", "5", "a", "c"]
