"""The tokenizer's trainer: stages, hidden and wrong hints, and the reader of levels."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.data.batch import Batch
from acestep_jax.ops import fsq
from acestep_jax.training import cli, models
from acestep_jax.training import codec as codec_lib
from acestep_jax.training import hints as hints_lib
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training.codec import Codec
from acestep_jax.training.config import Data, Mesh, Optimizer
from acestep_jax.training.recipes.tokenizer import TrainTokenizer
from acestep_jax.training.scene import Scene
from tests import tiny
from tests.train import toys
from train import tokenizer

ROOT = pathlib.Path(__file__).parents[2]
RULE = Optimizer(peak_lr=1e-2, ema_decay=0.9, weight_decay=0.1)
CONFIG = TrainTokenizer(
    name="toy",
    codec=RULE,
    decoder=RULE,
    num_steps=10,
    reconstruct_steps=4,
    settle_steps=2,
    reconstruct_weight=0.0,
    final_reconstruct_weight=0.0,
    eval_code_noise=0.5,
)
SILENCE = np.repeat(np.arange(9.0, 5.0, -1.0, np.float32)[:, None], 4, axis=1)
draw_codec = jax.jit(codec_lib.draw_params, static_argnums=0)
SETTING = hints_lib.Setting(CONFIG, Codec(tiny.networks(), SILENCE))


@pytest.fixture(scope="module")
def start():
    codec, others = models.split(tiny.params(), ("tokenizer",))
    decoder, frozen = models.split(others, CONFIG.trained)
    return {"codec": codec, "decoder": decoder}, frozen


@functools.cache
def step_of(stage):
    codec, others = models.split(tiny.params(), ("tokenizer",))
    decoder, _ = models.split(others, CONFIG.trained)
    return tokenizer.make_step(SETTING, stage, {"codec": codec, "decoder": decoder})


def covers(share):
    return dataclasses.replace(toys.batch(), is_cover=np.arange(8) < 8 * share)


@functools.cache
def joint_step_on(share):
    """Takes a joint step without the reconstruction, on a batch with this share of covers."""
    codec, others = models.split(tiny.params(), ("tokenizer",))
    decoder, frozen = models.split(others, CONFIG.trained)
    state = tokenizer.make_state(CONFIG, {"codec": codec, "decoder": decoder})
    state, metrics = step_of("joint")(state, frozen, covers(share))
    return jax.device_get((state.params, metrics))


# Stages -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stage,trained",
    [("reconstruct", {"codec"}), ("joint", {"codec", "decoder"}), ("settle", {"decoder"})],
)
def test_a_stage_moves_what_it_trains_and_nothing_else(stage, trained, start):
    """Read from the program: what a stage leaves alone leaves it as the variable that came in."""
    params, frozen = start
    state = tokenizer.make_state(CONFIG, params)
    traced = step_of(stage).trace(state, frozen, covers(0.5))
    program = traced.jaxpr.jaxpr
    came_in = set(program.invars)
    leaves = program.outvars[: len(jax.tree.leaves(state))]
    after = jax.tree.unflatten(jax.tree.structure(state), leaves)
    for name in params:
        kept = [
            all(leaf in came_in for leaf in jax.tree.leaves(part[name]))
            for part in (after.params, after.average, after.optimizer)
        ]
        assert kept == [name not in trained] * 3, name
    assert after.step not in came_in


def test_stages_follow_one_another():
    stages = [CONFIG.stage_at(step) for step in range(10)]
    assert stages == ["reconstruct"] * 4 + ["joint"] * 4 + ["settle"] * 2


def test_reconstruction_fades_from_one_to_a_tenth_over_the_joint_stage():
    plan = dataclasses.replace(CONFIG, reconstruct_weight=1.0, final_reconstruct_weight=0.1)
    weights = [float(tokenizer.reconstruct_weight(plan, jnp.int32(s))) for s in (0, 4, 6, 8, 9)]
    np.testing.assert_allclose(weights, [1, 1, 0.55, 0.1, 0.1], rtol=1e-6)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"settle_steps": 7}, "take 11 of num_steps=10"),
        ({"trained": ()}, "names no part"),
        ({"data": Data()}, "has no covers"),
        ({"code_noise": 1.5}, r"code_noise=1.5 must lie in \[0, 1\]"),
    ],
)
def test_impossible_plans_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_the_parts_of_the_codec_cannot_be_trained_as_its_decoder():
    _, others = models.split(tiny.params(), ("tokenizer",))
    with pytest.raises(ValueError, match="matches no part"):
        models.split(others, ("^detokenizer$",))


# Hints --------------------------------------------------------------------------------------------


def test_silenced_windows_read_silence_and_the_rest_their_hints():
    kept = jnp.asarray([[True, True], [False, True]])
    heard = np.asarray(SETTING.codec.silence_windows(jnp.ones((2, 8, 4)), kept))[..., 0]
    # a window is five frames; the last one is cut; silence is taken from its own start
    np.testing.assert_array_equal(heard, [[1] * 8, [9, 8, 7, 6, 9] + [1] * 3])


def test_covers_read_hints_and_other_tasks_keep_their_source():
    batch = toys.batch()
    scene = Scene(None, None, None, None, None, None)
    hints = jnp.full(batch.latents.shape, 7.0)
    for is_cover, source in ((True, hints), (False, batch.source_latents)):
        asked = dataclasses.replace(batch, is_cover=np.full(8, is_cover))
        context = hints_lib.with_hints(scene, hints, asked).context
        np.testing.assert_array_equal(context[..., :4], source)
        np.testing.assert_array_equal(context[..., 4:], 1)  # all of it is to be generated


def test_the_velocity_error_teaches_the_codec_through_the_hints_of_covers():
    _, metrics = joint_step_on(0.5)
    assert metrics["codec/grad_norm"] > 0
    _, metrics = joint_step_on(0.0)
    assert metrics["codec/grad_norm"] == 0
    assert metrics["decoder/grad_norm"] > 0


def test_a_wrong_code_is_read_as_its_neighbour_and_learned_as_itself(start):
    codec, params = SETTING.codec, start[0]["codec"]
    latents = toys.batch().latents

    def read(params, share):
        vectors, codes = codec.encode(params, latents)
        key = jax.random.key(0)
        return codec.misread(key, params, vectors, codes, share), vectors, codes

    wrong, right, codes = jax.jit(lambda p: read(p, 1.0))(params)
    table = jax.jit(functools.partial(codec.networks.tokenizer.apply, method="decode_codes"))
    everything = table({"params": params["tokenizer"]}, jnp.arange(125)[None])[0]
    distances = jnp.linalg.norm(everything[None] - wrong.reshape(-1, 1, 24), axis=-1)
    nearest = np.asarray(distances.argmin(1)).reshape(codes.shape)
    steps = fsq.digits_from_codes(jnp.asarray(nearest), (5, 5, 5)) - fsq.digits_from_codes(
        codes, (5, 5, 5)
    )
    np.testing.assert_array_equal(np.abs(np.asarray(steps)).sum(-1), 1)
    assert float(distances.min(1).max()) < 1e-4 * float(jnp.linalg.norm(right, axis=-1).max())

    @jax.jit
    def pull(params):  # towards the pooler, whose parameters see straight through
        return [jax.grad(lambda p, s=s: read(p, s)[0].sum())(params) for s in (0.0, 1.0)]

    pools = [gradient["tokenizer"]["attention_pooler"] for gradient in pull(params)]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), *pools)


def test_a_fresh_codec_starts_at_unit_scale_and_hints_at_the_mean():
    codec = SETTING.codec
    params = draw_codec(codec.networks, jax.random.key(0))
    latents = 3 + 0.5 * jax.random.normal(jax.random.key(1), (16, 40, 4))
    params = codec.start_on(params, latents)
    tokenizer_params = {"params": params["tokenizer"]}

    @jax.jit
    def channels(latents):
        summary = codec.networks.tokenizer.apply(
            tokenizer_params, latents, codec.silence_latent[None], method="pool"
        )
        project = params["tokenizer"]["quantizer"]["project_in"]
        return (summary @ project["kernel"] + project["bias"].reshape(1, 1, -1)).reshape(-1, 3)

    z = channels(latents)
    np.testing.assert_allclose(z.mean(0), 0, atol=2e-3)  # float32 over directions of small variance
    np.testing.assert_allclose(np.cov(np.asarray(z).T), np.eye(3), atol=5e-3)
    spread = np.asarray(fsq.bound(z, (5, 5, 5))).std(0)
    assert ((spread > 0.4) & (spread < 0.7)).all()  # the range recommended for a start
    hints = jax.jit(lambda x: codec.decode(params, codec.encode(params, x)[0], 40))(latents)
    want = jnp.broadcast_to(latents.mean((0, 1), keepdims=True), hints.shape)
    np.testing.assert_allclose(hints, want, atol=1e-5)


# Evaluation ---------------------------------------------------------------------------------------


def test_held_out_covers_and_text2music_are_the_same_clips():
    data = dataclasses.replace(CONFIG.data, shards="synthetic", batch_size=3, num_frames=16)
    configs = [dataclasses.replace(CONFIG, data=data, seed=seed) for seed in (0, 1)]
    (asked, plain), (again, _) = (next(hints_lib.held_out_pairs(config)) for config in configs)
    np.testing.assert_array_equal(asked.latents, plain.latents)
    np.testing.assert_array_equal(asked.latents, again.latents)
    assert asked.is_cover.all()
    assert not plain.is_cover.any()
    assert (asked.text_tokens != plain.text_tokens).any()  # their instructions differ


def test_evaluations_tell_kinds_of_hints_apart_and_agree_with_themselves(start):
    params, frozen = start
    spread = SETTING.codec.start_on(params["codec"], toys.batch().latents)["tokenizer"]
    # else every window may have the same code
    parts = frozen | params["decoder"] | params["codec"] | {"tokenizer": spread}
    evaluate = hints_lib.make_evaluate(SETTING)

    def numbers():
        plain = [toys.batch(seed=seed) for seed in (0, 1)]
        asked = [dataclasses.replace(batch, is_cover=np.ones(8, bool)) for batch in plain]
        pairs = zip(asked, plain, strict=True)
        return hints_lib.held_out_numbers(SETTING, evaluate, parts, pairs, 2)

    first = numbers()
    assert first == numbers()
    kinds = [first[f"eval/error_{kind}"] for kind in ("true", "wrong", "shuffled", "none")]
    assert len(set(kinds)) == 4
    times = [first[f"eval/error_true_t{t}"] for t in hints_lib.EVAL_TIMES]
    assert first["eval/error_true"] == pytest.approx(np.mean(times))
    # random hints have nothing to do with the song: |hint - data|^2 exceeds the variance
    assert first["eval/unexplained"] > 1
    assert 1 <= first["codes/perplexity"] <= 125 * first["codes/used"]


# Devices ------------------------------------------------------------------------------------------


def test_eight_devices_train_as_one(start, devices):
    params, frozen = start
    expected, numbers = joint_step_on(0.5)
    mesh = mesh_lib.make_mesh(Mesh(data=2, fsdp=4), devices)
    with jax.set_mesh(mesh):
        state = tokenizer.make_state(CONFIG, params)
        places = mesh_lib.state_shardings(state, mesh)
        step = tokenizer.make_step(SETTING, "joint", params, places)
        state, metrics = step(
            jax.device_put(state, places),
            jax.device_put(frozen, mesh_lib.parameter_shardings(frozen, mesh)),
            mesh_lib.place_batch(covers(0.5), mesh),
        )
    for name, value in numbers.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
    pairs = zip(jax.tree.leaves(state.params), jax.tree.leaves(expected), strict=True)
    # Adam's first step is 1e-2 whatever the gradient: one that is all rounding may turn its sign
    off = np.concatenate([(np.abs(np.asarray(a) - b) > 1e-4).ravel() for a, b in pairs])
    assert off.mean() < 1e-3


def test_the_joint_step_lowers_for_other_hardware(start):
    shapes = functools.partial(jax.tree.map, lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype))
    params, frozen = shapes(start[0]), shapes(start[1])
    state = jax.eval_shape(functools.partial(tokenizer.make_state, CONFIG), params)
    exported = jax.export.export(step_of("joint"), platforms=["cuda", "tpu"])(
        state, frozen, shapes(covers(0.5))
    )
    assert exported.platforms == ("cuda", "tpu")


def test_the_two_billion_recipe_traces_at_full_size():
    config = cli.load_config(ROOT / "configs" / "base" / "tokenizer.py")
    networks = models.build(config.model)
    sizes, data = networks.config, dataclasses.replace(config.data, num_frames=300)
    parts = models.shapes(networks)
    codec, others = models.split(parts, ("tokenizer",))
    decoder, frozen = models.split(others, config.trained)
    params = {"codec": codec, "decoder": decoder}
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert 1.75e9 < count < 1.82e9  # tokenizer, detokenizer and the decoder of the 2B package
    rows = {
        "latents": (data.num_frames, 64),
        "frame_mask": (data.num_frames,),
        "source_latents": (data.num_frames, 64),
        "edit_mask": (data.num_frames,),
        "text_tokens": (data.text_tokens,),
        "text_mask": (data.text_tokens,),
        "lyric_tokens": (data.lyric_tokens,),
        "lyric_mask": (data.lyric_tokens,),
        "timbre_latents": (data.timbre_frames, 64),
        "is_cover": (),
    }
    example = toys.batch()
    batch = Batch(
        **{
            name: jax.ShapeDtypeStruct((4, *shape), getattr(example, name).dtype)
            for name, shape in rows.items()
        }
    )
    setting = hints_lib.Setting(config, Codec(networks, np.zeros((750, 64), np.float32)))
    state = jax.eval_shape(functools.partial(tokenizer.make_state, config), params)
    for stage in ("reconstruct", "joint"):
        step = tokenizer.make_step(setting, stage, params)
        new, metrics = jax.eval_shape(step, state, frozen, batch)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(
            lambda x: (x.shape, x.dtype), state
        )
        assert all(value.shape == () for value in metrics.values())
    assert sizes.num_codes == 64_000


# The reader of levels -----------------------------------------------------------------------------


def test_more_levels_than_channels_are_refused():
    config = dataclasses.replace(CONFIG, level_weight=1.0, level_channels=65)
    setting = SETTING._replace(config=config)
    with pytest.raises(ValueError, match="level_channels=65; these latents have 64"):
        tokenizer.with_levels(setting, {}, np.zeros((2, 5, 64), np.float32))


@pytest.mark.slow
def test_the_reader_of_levels_is_thrown_away(tmp_path):
    """A whole run, whose export is that of any tokenizer."""
    config = cli.load_config("configs/nano/tokenizer.py", quick=True)
    config = dataclasses.replace(config, workdir=str(tmp_path), level_weight=1.0, num_steps=3)
    trained = tokenizer.train(config)
    assert "reader" not in trained.parts
    assert {"tokenizer", "detokenizer", "dit"} <= set(trained.parts)
