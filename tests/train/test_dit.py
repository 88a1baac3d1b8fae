"""The flow-matching trainer: dropped conditions, masks, what is trained, meshes, other hardware."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.data import labels, shards
from acestep_jax.data.batch import Batch
from acestep_jax.ops import flow, losses
from acestep_jax.training import cli, models
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training.config import Data, Mesh, Optimizer
from acestep_jax.training.overrides import ConfigError
from acestep_jax.training.recipes.dit import DiTPhase, MeanFlow, TrainDiT
from tests import tiny
from tests.train import toys
from train import dit

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
CONFIG = TrainDiT(name="toy", optimizer=Optimizer(peak_lr=1e-2, ema_decay=0.9), num_steps=10)
SETTING = dit.Setting(CONFIG, tiny.networks(), None)


@pytest.fixture(scope="module")
def parts():
    return models.split(tiny.params(), CONFIG.trained)


@pytest.fixture(scope="module")
def one_step(parts):
    trained, frozen = parts
    step = dit.make_train_step(SETTING, trained)
    state, metrics = step(dit.make_state(CONFIG, trained), frozen, toys.batch())
    return jax.device_get((state.params["model"], state.average["model"], metrics))


def test_a_step_trains_the_chosen_parts_and_counts_itself(parts, one_step):
    trained, frozen = parts
    assert set(trained) == {"dit", "condition_encoder", "null_condition"}
    assert set(frozen) == {"text_encoder", "tokenizer", "detokenizer"}
    params, average, metrics = one_step
    for name in trained:
        old, new = jax.tree.leaves(trained[name]), jax.tree.leaves(params[name])
        assert any((a != b).any() for a, b in zip(old, new, strict=True)), name
    assert jax.tree.structure(average) == jax.tree.structure(params)
    assert np.isfinite(metrics["loss/velocity"])


def test_tasks_that_no_held_out_song_allows_are_refused_before_anything_is_trained(tmp_path):
    known = labels.SongLabels(
        name="a", group="a", split="validation", seconds=4.0, captions=("calm",), instrumental=True
    )
    latents = np.random.default_rng(0).standard_normal((100, 64))
    song = shards.Record(known, latents.astype(np.float16))
    silence = np.ones((1, shards.SILENCE_FRAMES, 64), np.float32)
    shards.write_shards(tmp_path, {"validation": [song]}, silence, {})
    data = Data(shards=str(tmp_path), batch_size=2, num_frames=16)
    config = dataclasses.replace(CONFIG, data=data, eval_batches=1)
    dit.check_held_out(config)
    dit.check_held_out(dataclasses.replace(config, eval_tasks=("repaint",)))
    with pytest.raises(ConfigError, match=r"eval/lego cannot be measured .* Leave the task out"):
        dit.check_held_out(dataclasses.replace(config, eval_tasks=("repaint", "lego")))


def test_a_pattern_that_trains_nothing_is_refused():
    with pytest.raises(ValueError, match=r"matches no part; the parts are"):
        models.split(tiny.params(), ("^decoder$",))


def test_dropped_items_read_the_null_condition_and_others_their_own():
    tokens = jax.random.normal(jax.random.key(0), (4000, 2, 3))
    null = jnp.full((1, 1, 3), 7.0)
    scene = dit.Scene(tokens, None, null, None, None, tokens)
    dropped = dit.drop_conditions(jax.random.key(1), scene, 0.15).tokens
    is_null = np.asarray((dropped == 7.0).all((1, 2)))
    assert abs(is_null.mean() - 0.15) < 0.023  # 4 standard errors
    np.testing.assert_array_equal(dropped[~is_null], tokens[~is_null])


def test_the_loss_counts_padding_only_as_the_release_does(parts):
    trained, frozen = parts
    batch = toys.batch()
    loud = dataclasses.replace(
        batch, latents=np.where(batch.frame_mask[..., None], batch.latents, 100.0)
    )
    losses = {}
    for masked in (False, True):
        setting = SETTING._replace(config=dataclasses.replace(CONFIG, masked_loss=masked))
        loss = jax.jit(functools.partial(dit.flow_loss, setting=setting, key=jax.random.key(0)))
        losses[masked] = [float(loss(trained, frozen=frozen, batch=b)[0]) for b in (batch, loud)]
    assert losses[True][0] == pytest.approx(losses[True][1], rel=1e-5)
    assert losses[False][1] > 100 * losses[False][0]


def test_an_emphasis_weighs_the_last_channels_and_keeps_the_mean(parts):
    trained, frozen = parts
    batch, key = toys.batch(), jax.random.key(0)
    channels = batch.latents.shape[-1]

    def loss(*emphasis):
        config = dataclasses.replace(CONFIG, emphasis=emphasis)
        setting = SETTING._replace(config=config)
        return float(dit.flow_loss(trained, setting, frozen, batch, key)[0])

    whole, last = loss(0, 1.0), loss(channels // 2, 1e9)
    first = 2 * whole - last  # the mean of both halves is the whole
    weighted = (first + 3 * last) / 4
    assert loss(channels // 2, 3.0) == pytest.approx(weighted, rel=1e-4)
    assert loss(channels, 5.0) == pytest.approx(whole, rel=1e-5)
    assert abs(last - whole) > 1e-3
    for wrong in ((-1, 2.0), (3, 0.0)):
        with pytest.raises(ValueError, match=r"emphasis=.* a positive weight"):
            dataclasses.replace(CONFIG, emphasis=wrong)


def test_evaluations_of_the_same_weights_agree_and_cover_every_level(parts):
    trained, frozen = parts
    config = dataclasses.replace(CONFIG, eval_prompts=True)
    evaluate = dit.make_evaluate(SETTING._replace(config=config))
    batches = iter([toys.batch(), toys.batch(), toys.batch(), toys.batch()])
    first = dit.held_out_error(evaluate, trained, frozen, batches, 2)
    assert first == dit.held_out_error(evaluate, trained, frozen, batches, 2)
    levels = [value for name, value in first.items() if "_t" in name]
    assert len(levels) == dit.EVAL_LEVELS
    assert first["eval/error"] == pytest.approx(np.mean(levels))
    # toy latents are standard normal: the floor averaged over t is pi / 2 (training reference A2)
    assert first["eval/gaussian"] == pytest.approx(np.pi / 2, rel=0.1)
    assert len({first[f"eval/{name}"] for name in ("error", "null", "other")}) == 3


def test_the_spread_of_channels_leaves_padding_out():
    latents = np.random.default_rng(0).standard_normal((3, 50, 4)).astype(np.float32)
    mask = np.arange(50)[None] < np.array([50, 20, 35])[:, None]
    expected = latents[mask].std(axis=0)
    loud = np.where(mask[..., None], latents, 100.0)
    np.testing.assert_allclose(dit.channel_spread(loud, mask), expected, rtol=1e-5)


@pytest.mark.slow
def test_average_velocities_train_through_the_network(parts):
    """At r = t (2) is (1); elsewhere its derivative is that of finite differences."""
    trained, frozen = parts
    batch, config = toys.batch(), dataclasses.replace(CONFIG, mean_flow=MeanFlow(share=1.0))
    setting = SETTING._replace(config=config)
    scene = dit.encode(setting, frozen | trained, batch)
    noise = jax.random.normal(jax.random.key(0), scene.real.shape)
    t, r = jnp.linspace(0.2, 0.9, 8), jnp.linspace(0.1, 0.5, 8)

    @jax.jit
    def measure(t, r):
        parts = frozen | trained
        average = dit.average_field(setting, parts["dit"], scene)
        errors = dit.average_errors(setting, parts, scene, t, r, noise)
        at = lambda s: average(flow.interpolate(scene.real, noise, s), s, r)  # noqa: E731
        step = 1e-4  # float32: the embedding turns 1000 t, so a tenth of a radian
        slope = (at(t + step) - at(t - step)) / (2 * step)
        target = flow.velocity_target(scene.real, noise) - flow.broadcast_time(t - r, slope) * slope
        return errors, losses.squared_error(at(t), target)

    errors, expected = measure(t, r)
    np.testing.assert_allclose(errors, expected, rtol=0.1)
    equal, _ = measure(t, t)
    plain = jax.jit(functools.partial(dit.velocity_errors, SETTING, frozen | trained, scene))
    np.testing.assert_allclose(equal, plain(t, noise), rtol=1e-4)

    loss = functools.partial(dit.flow_loss, setting=setting, frozen=frozen, batch=batch)
    gradients, metrics = jax.jit(jax.grad(loss, has_aux=True))(trained, key=jax.random.key(0))
    assert all(np.isfinite(g).all() and np.any(g) for g in jax.tree.leaves(gradients["dit"]))
    assert metrics["loss/weighted"] == pytest.approx(1.0, abs=0.01)  # every item weighs alike
    assert metrics["error/interval"] > 0


def test_pairs_of_times_need_the_law_of_pairs():
    with pytest.raises(ValueError, match="time_law='uniform' gives no pairs"):
        dataclasses.replace(CONFIG, time_law="uniform", mean_flow=MeanFlow(share=0.5))


def test_phases_carry_data_of_their_own_and_make_up_the_run():
    short = dataclasses.replace(CONFIG.data, num_frames=16)
    phases = (DiTPhase(num_steps=7), DiTPhase(num_steps=3, data=short))
    config = dataclasses.replace(CONFIG, phases=phases)
    assert config.phase_data() == ((7, CONFIG.data), (3, short))
    assert CONFIG.phase_data() == ((10, CONFIG.data),)
    with pytest.raises(ValueError, match="phases last 7 steps and num_steps=10"):
        dataclasses.replace(CONFIG, phases=phases[:1])


def test_eight_devices_train_as_one(parts, one_step, devices):
    trained, frozen = parts
    expected, _, numbers = one_step
    mesh = mesh_lib.make_mesh(Mesh(fsdp=2, tensor=2, sequence=2), devices)
    with jax.set_mesh(mesh):
        state = dit.make_state(CONFIG, trained)
        places = mesh_lib.state_shardings(state, mesh)
        step = dit.make_train_step(SETTING, trained, places)
        state, metrics = step(
            jax.device_put(state, places),
            jax.device_put(frozen, mesh_lib.parameter_shardings(frozen, mesh)),
            mesh_lib.place_batch(toys.batch(), mesh),
        )
    np.testing.assert_allclose(metrics["loss/velocity"], numbers["loss/velocity"], rtol=1e-5)
    pairs = zip(jax.tree.leaves(state.params["model"]), jax.tree.leaves(expected), strict=True)
    # Adam's first step is 1e-2 whatever the gradient: one that is all rounding may turn its sign.
    off = np.concatenate([(np.abs(np.asarray(a) - b) > 1e-4).ravel() for a, b in pairs])
    assert off.mean() < 1e-3


def test_the_train_step_lowers_for_other_hardware(parts):
    trained, frozen = parts
    shapes = functools.partial(jax.tree.map, lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype))
    state = jax.eval_shape(functools.partial(dit.make_state, CONFIG), shapes(trained))
    step = dit.make_train_step(SETTING, shapes(trained))
    exported = jax.export.export(step, platforms=["cuda", "tpu"])(
        state, shapes(frozen), shapes(toys.batch())
    )
    assert exported.platforms == ("cuda", "tpu")


def test_the_two_billion_recipe_traces_at_full_size():
    config = cli.load_config(CONFIGS / "base" / "dit.py")
    assert sum(steps for steps, _ in config.phase_data()) == config.num_steps
    setting = dit.Setting(config, models.build(config.model), None)
    trained, frozen = models.split(models.shapes(setting.networks), config.trained)
    trained = jax.eval_shape(functools.partial(dit.first_params, config), trained)
    count = sum(leaf.size for leaf in jax.tree.leaves(trained))
    # decoder 1,510 M, times 60 M, lyric and timbre encoders 607 M, text projection 2 M
    assert 2.1e9 < count < 2.25e9
    frames, lyrics, _ = config.data.buckets[0]
    batch = abstract_batch(config.data, frames, lyrics, channels=64)
    state = jax.eval_shape(functools.partial(dit.make_state, config), trained)
    new, metrics = jax.eval_shape(dit.make_train_step(setting, trained), state, frozen, batch)
    shapes = functools.partial(jax.tree.map, lambda x: (x.shape, x.dtype))
    assert shapes(new) == shapes(state)
    assert all(value.shape == () for value in metrics.values())
    table = jax.eval_shape(dit.make_evaluate(setting), trained, frozen, batch)
    assert {name: x.shape for name, x in table.items()} == dict.fromkeys(
        ("error", "null", "other", "gaussian"), (dit.EVAL_LEVELS,)
    )


def abstract_batch(data, frames, lyrics, channels, size=2):
    """The shapes of a batch of one bucket."""

    def of(dtype, *shape):
        return jax.ShapeDtypeStruct((size, *shape), dtype)

    return Batch(
        latents=of(np.float32, frames, channels),
        frame_mask=of(bool, frames),
        source_latents=of(np.float32, frames, channels),
        edit_mask=of(np.float32, frames),
        text_tokens=of(np.int32, data.text_tokens),
        text_mask=of(bool, data.text_tokens),
        lyric_tokens=of(np.int32, lyrics),
        lyric_mask=of(bool, lyrics),
        timbre_latents=of(np.float32, data.timbre_frames, channels),
        is_cover=of(bool),
    )
