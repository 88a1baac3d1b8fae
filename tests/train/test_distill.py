"""The distillation trainer: gradients, phases, meshes, other hardware, and the full size."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from acestep_jax.nn import model as model_lib
from acestep_jax.nn.lora import LoRA
from acestep_jax.training import cli, rehearsal, rollout
from acestep_jax.training import game as game_lib
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training.config import Mesh
from acestep_jax.training.mesh import BATCH
from acestep_jax.training.recipes.distill import Gan
from tests import tiny
from tests.train import toys
from train import distill

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
FEATURES = Gan(discriminator="features", layers=(0, 1), features_of="fake", widths=(8,), blocks=1)

SMALL = LoRA(rank=2, alpha=2.0, dropout=0.0)
LORA = {"form": "lora", "adapter": SMALL, "fake_adapter": SMALL}


@pytest.fixture(scope="module")
def game():
    return game_lib.make_game(toys.DISTILL, tiny.networks())


@pytest.fixture(scope="module")
def frozen(game):
    return game_lib.separate(toys.DISTILL, tiny.params())


@pytest.fixture(scope="module")
def scene(game, frozen):
    return jax.jit(functools.partial(game_lib.encode, game))(frozen, toys.batch())


def _run(game, frozen, state, steps, first, last):
    for step in range(first, last):
        batch = toys.batch(seed=step)
        state, metrics = distill.iterate(game.config, steps, state, frozen, batch, step)
    return state, metrics


@pytest.fixture(scope="module")
def finished(game, frozen):
    """Three iterations: a regression, critics alone, and a whole one."""
    state = game_lib.make_state(game, frozen["teacher"])
    steps = distill.make_steps(game)
    start = jax.device_get(state.params)
    state, metrics = _run(game, frozen, state, steps, 0, 3)
    return start, jax.device_get(state), metrics, steps


def _moved(left, right):
    return any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (left, right)), strict=True))


def test_an_iteration_trains_all_three_networks_and_reports_every_part(finished):
    start, state, metrics, _ = finished
    assert state.step == 3
    for name in ("student", "fake", "discriminator"):
        assert _moved(start[name], state.params[name])
    assert _moved(state.average["student"], state.params["student"])
    parts = {name for name in metrics if name.startswith("loss/")}
    wanted = ("fake", "discriminator", "contrastive", "r1", "matching", "guidance", "adversarial")
    assert parts == {f"loss/{name}" for name in wanted}
    assert all(np.isfinite(value) for value in metrics.values())


def test_critics_alone_leave_the_student_where_it_is(game, frozen, finished):
    *_, steps = finished
    state = game_lib.make_state(game, frozen["teacher"])
    before = jax.device_get(state.params)
    state, _ = _run(game, frozen, state, steps, 1, 2)  # iteration 1 is the critics' own
    assert not _moved(before["student"], jax.device_get(state.params["student"]))
    assert _moved(before["fake"], jax.device_get(state.params["fake"]))


def test_the_students_optimizer_starts_afresh_after_the_warmup(game, frozen, finished):
    *_, state, _, _ = finished
    counts = [
        leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(state.optimizer["student"])[0]
        if "count" in jax.tree_util.keystr(path)
    ]
    assert {int(count) for count in counts} == {1}  # not the 2 of the regression, nor 3


@pytest.mark.parametrize("backward", ["ode", "renoise"])
def test_a_rollout_is_the_sampler_that_ships(game, frozen, scene, backward):
    config = dataclasses.replace(toys.DISTILL, backward=backward, step_law="3", shift_law="2")
    rolled = jax.jit(functools.partial(rollout.simulate, config, game.networks))(
        frozen["teacher"], scene, jax.random.key(0)
    )
    np.testing.assert_allclose(rolled.times[:, 0], [1, 0.8, 0.5], atol=1e-6)
    if backward == "ode":  # x' = (t'/t) x + (1 - t'/t) data
        for i in range(2):
            share = (rolled.times[i + 1] / rolled.times[i])[:, None, None]
            expected = share * rolled.states[i] + (1 - share) * rolled.data[i]
            np.testing.assert_allclose(rolled.states[i + 1], expected, atol=1e-5)
    else:  # x' - (1 - t') data is fresh noise of deviation t'
        noise = rolled.states[1] - (1 - 0.8) * rolled.data[0]
        np.testing.assert_allclose(noise.std(), 0.8, rtol=0.15)  # 256 draws, 3 standard errors


def test_drawn_states_belong_together_and_to_the_grid(game, frozen, scene):
    rolled = jax.jit(functools.partial(rollout.simulate, toys.DISTILL, game.networks))(
        frozen["teacher"], scene, jax.random.key(1)
    )
    x_k, t_k, data = rolled.draw(jax.random.key(2))
    for item in range(8):
        step = int(np.argmin(np.abs(np.asarray(rolled.times[:, item]) - t_k[item])))
        assert step < rolled.num_steps
        np.testing.assert_array_equal(x_k[item], rolled.states[step, item])
        np.testing.assert_array_equal(data[item], rolled.data[step, item])


def test_eight_devices_train_as_one(game, frozen, scene, devices, finished):
    """Critics and student once each, on a mesh and on one device, from the same rollout."""
    *_, single = finished
    mesh = mesh_lib.make_mesh(Mesh(data=2, fsdp=2, tensor=2), devices)
    rolled = single.simulate(game_lib.make_state(game, frozen["teacher"]), frozen, scene)

    def train(steps, state, frozen, scene, rolled):
        state, _ = steps.discriminator(state, frozen, scene, rolled, 0)
        state, _ = steps.fake(state, frozen, scene, rolled, 0)
        state, metrics = steps.student(state, frozen, scene, rolled)
        return jax.device_get((state.params, metrics)), state

    state = game_lib.make_state(game, frozen["teacher"])
    (expected, numbers), _ = train(single, state, frozen, scene, rolled)
    with jax.set_mesh(mesh):
        state = game_lib.make_state(game, frozen["teacher"])
        places = mesh_lib.state_shardings(state, mesh)
        steps = distill.make_steps(game, places)
        arguments = (
            jax.device_put(state, places),
            jax.device_put(frozen, mesh_lib.parameter_shardings(frozen, mesh)),
            jax.device_put(scene, _shared(scene, mesh, 0)),
            jax.device_put(rolled, _shared(rolled, mesh, 1)),
        )
        (params, metrics), state = train(steps, *arguments)
        kernel = state.params["student"]["condition_embedder"]["kernel"]
        assert kernel.sharding.shard_shape(kernel.shape) == (12, 24)  # 24 inputs over fsdp = 2

    assert {"loss/matching", "loss/guidance", "loss/adversarial"} <= set(numbers)
    for name, value in numbers.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-3, err_msg=name)
    for name in ("student", "fake", "discriminator"):
        pairs = zip(jax.tree.leaves(params[name]), jax.tree.leaves(expected[name]), strict=True)
        # Adam's first step is 1e-2 whatever the gradient: mere rounding may turn its sign.
        off = np.concatenate([(np.abs(a - b) > 1e-4).ravel() for a, b in pairs])
        assert off.mean() < 1e-3, name


def _shared(tree, mesh, axis):
    """Places the batch, which stands at `axis`, on the mesh; what has no batch is everywhere."""

    def place(x):
        if x.ndim <= axis or x.shape[axis] != 8:
            return mesh_lib.replicated(mesh)
        return mesh_lib.batch_sharding(mesh) if axis == 0 else NamedSharding(mesh, P(None, BATCH))

    return jax.tree.map(place, tree)


@pytest.fixture
def precise(monkeypatch):
    """A game in float64, and everything `student_loss` takes."""
    with jax.enable_x64(True):
        # The networks name float32 where they compute precisely; here precise means float64.
        monkeypatch.setattr(jnp, "float32", jnp.float64)
        nets = model_lib.build_networks(tiny.CONFIG, tiny.TEXT_CONFIG, dtype=jnp.float64)
        game = game_lib.make_game(toys.DISTILL, nets)

        def widen(tree):
            def wide(x):
                return x.astype(np.float64) if x.dtype == np.float32 else x

            return jax.tree.map(lambda x: jnp.asarray(wide(np.asarray(x))), tree)

        frozen = widen(game_lib.separate(toys.DISTILL, tiny.params()))
        players = game_lib.make_state(game, frozen["teacher"]).params
        players |= {"teacher": frozen["teacher"]}
        scene = jax.jit(functools.partial(game_lib.encode, game))(frozen, widen(toys.batch(size=2)))
        x_k = jax.random.normal(jax.random.key(0), scene.real.shape, jnp.float64)
        state = (x_k, jnp.array([0.9, 0.4], jnp.float64))
        yield game, players, scene, state, jax.random.key(3)


def test_the_students_gradient_is_that_of_walking_to_the_target(precise):
    """Central differences of the distance to x_g - gradient, at 20 parameters of a tiny DiT."""
    game, players, scene, (x_k, t_k), key = precise
    student = players["student"]

    @jax.jit
    def sample(student):
        velocity = distill.scene_lib.field(game.networks, student, scene)
        return x_k - t_k[:, None, None] * velocity(x_k, t_k)

    still = sample(student)
    pull = jax.jit(functools.partial(distill.distilled_gradient, game))
    target = still - pull(players, scene, still, t_k, key)[0]
    weight = scene.frame_mask[..., None] / scene.frame_mask.sum(1)[:, None, None] / 4

    @jax.jit
    def distance(student):
        return 0.5 * jnp.mean(jnp.sum(weight * (sample(student) - target) ** 2, (1, 2)))

    loss = functools.partial(
        distill.student_loss,
        game=game,
        players=players,
        scene=scene,
        state=(x_k, t_k),
        key=key,
    )
    gradient = jax.jit(jax.grad(lambda student: loss(student)[0]))(student)
    paths, tree = jax.tree_util.tree_flatten_with_path(student)
    leaves = [leaf for _, leaf in paths]
    # The time embedding computes in float32 whatever the rest does: too coarse for differences.
    fine = [
        i for i, (path, _) in enumerate(paths) if "time_embed" not in jax.tree_util.keystr(path)
    ]
    rng = np.random.default_rng(0)
    for _ in range(20):
        which = rng.choice(fine)
        index = tuple(rng.integers(size) for size in leaves[which].shape)

        def at(step, which=which, index=index):
            moved = list(leaves)
            moved[which] = moved[which].at[index].add(step)
            return float(distance(jax.tree.unflatten(tree, moved)))

        slope = float(jax.tree.leaves(gradient)[which][index])
        numeric = (at(1e-5) - at(-1e-5)) / 2e-5
        np.testing.assert_allclose(slope, numeric, rtol=1e-5, atol=1e-9)  # atol: rounding of `at`


def test_no_gradient_reaches_teacher_fake_score_or_discriminator(precise):
    game, players, scene, state, key = precise

    def loss(players):
        return distill.student_loss(players["student"], game, players, scene, state, key)[0]

    slopes = jax.jit(jax.grad(loss))(players)
    assert _moved(slopes.pop("student"), jax.tree.map(jnp.zeros_like, players["student"]))
    assert set(slopes) == {"teacher", "fake", "discriminator"}
    for leaf in jax.tree.leaves(slopes):
        np.testing.assert_array_equal(leaf, 0.0)


def test_adapters_learn_and_the_base_stays(frozen, scene):
    """Critics once and the student twice: in the first update the gradient of A is still zero."""
    config = dataclasses.replace(toys.DISTILL, **LORA, gan=Gan(discriminator="none"))
    game = game_lib.make_game(config, tiny.networks())
    steps = distill.make_steps(game)
    state = game_lib.make_state(game, frozen["teacher"])
    start, base = jax.device_get((state.params, frozen["teacher"]))
    states, data = jax.random.normal(jax.random.key(0), (2, 1, *scene.real.shape))
    rolled = rollout.Rollout(states, data, jnp.full((1, 8), 0.7), jnp.array(1))
    state, none = steps.discriminator(state, frozen, scene, rolled, 0)
    assert not none
    state, _ = steps.fake(state, frozen, scene, rolled, 0)
    for _ in range(2):
        state, metrics = steps.student(state, frozen, scene, rolled)
    for name, moving in (("fake", {"lora_b"}), ("student", {"lora_a", "lora_b"})):
        before, after = (_named(tree[name]) for tree in (start, jax.device_get(state.params)))
        for (leaf, left), (_, right) in zip(before, after, strict=True):
            assert (left != right).any() or leaf not in moving, (name, leaf)
    assert not _moved(base, jax.device_get(frozen["teacher"]))
    assert all(np.isfinite(value) for value in metrics.values())


def _named(tree):
    return [(path[-1].key, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _abstract(config):
    """Networks, frozen parameters and a batch of a run, as shapes."""
    run = rehearsal.shapes(config)
    return run.game, run.frozen, run.batch


def _trace(game, frozen, batch, warm=True):
    """Traces every part of an iteration; returns {part: (function, arguments)} and the state.

    `warm` includes the parts of the warm-up.
    """
    state = jax.eval_shape(functools.partial(game_lib.make_state, game), frozen["teacher"])
    steps = distill.make_steps(game)
    scene = jax.eval_shape(steps.encode, frozen, batch)
    rolled = jax.eval_shape(steps.simulate, state, frozen, scene)
    index = jax.ShapeDtypeStruct((), np.int32)
    parts = {
        "simulate": (steps.simulate, (state, frozen, scene)),
        "discriminator": (steps.discriminator, (state, frozen, scene, rolled, index)),
        "fake": (steps.fake, (state, frozen, scene, rolled, index)),
        "student": (steps.student, (state, frozen, scene, rolled)),
    }
    if warm:
        pair = jax.eval_shape(steps.end_points, state, frozen, scene)
        parts |= {
            "end_points": (steps.end_points, (state, frozen, scene)),
            "regress": (steps.regress, (state, frozen, scene, pair, index)),
        }
    return parts, state


@pytest.mark.parametrize("recipe", ["distill", "distill_lora"])
def test_the_two_billion_recipes_trace_at_full_size(recipe):
    config = cli.load_config(CONFIGS / "turbo" / f"{recipe}.py")
    game, frozen, batch = _abstract(config)
    count = sum(leaf.size for leaf in jax.tree.leaves(frozen["teacher"]))
    assert 1.5e9 < count < 1.65e9  # the decoder's share of the 2B package
    parts, state = _trace(game, frozen, batch)
    for name in ("regress", "discriminator", "fake", "student"):
        step, arguments = parts[name]
        new, metrics = jax.eval_shape(step, *arguments)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(
            lambda x: (x.shape, x.dtype), state
        )
        assert all(value.shape == () for value in metrics.values())


def test_every_part_of_an_iteration_lowers_for_other_hardware(game):
    frozen = jax.eval_shape(functools.partial(game_lib.separate, toys.DISTILL), tiny.params())
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), toys.batch())
    parts, _ = _trace(game, frozen, batch)
    for name, (step, arguments) in parts.items():
        exported = jax.export.export(step, platforms=["cuda", "tpu"])(*arguments)
        assert exported.platforms == ("cuda", "tpu"), name


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"gan": Gan(discriminator="none")}, {"loss/matching", "loss/guidance", "dm_gap"}),
        ({"decoupled": False, "guidance_scale": 1.0}, {"ca_over_dm", "dm_ca_cosine"}),
        ({"gan": Gan(r1="exact", widths=(8,), blocks=1)}, {"loss/adversarial"}),
        ({"guidance_rule": "apg", "shift_law": "continuous", "step_law": "2,3"}, {"loss/guidance"}),
        (LORA | {"gan": FEATURES}, {"loss/adversarial", "gan_over_dm"}),
    ],
    ids=["no_adversary", "coupled", "exact_r1", "laws", "adapters_and_features"],
)
def test_every_switch_of_the_game_traces(changes, expected):
    config = dataclasses.replace(toys.DISTILL, **changes)
    game = game_lib.make_game(config, tiny.networks())
    frozen = jax.eval_shape(functools.partial(game_lib.separate, config), tiny.params())
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), toys.batch())
    parts, state = _trace(game, frozen, batch, warm=False)
    trained = {"student", "fake"} | ({"discriminator"} if game.adversary else set())
    assert set(state.params) == trained
    step, arguments = parts["discriminator"]
    _, metrics = jax.eval_shape(step, *arguments)
    assert ("loss/discriminator" in metrics) == ("discriminator" in trained)
    step, arguments = parts["student"]
    _, metrics = jax.eval_shape(step, *arguments)
    assert expected <= set(metrics)
    assert ("loss/adversarial" in metrics) == ("discriminator" in trained)
