"""The planner's trainer: packing, what the loss counts, adapters, extension, export."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from acestep_jax import weights
from acestep_jax.data import chat
from acestep_jax.data.chat import ChatBatch
from acestep_jax.data.loader import NANO_TOKENIZER
from acestep_jax.nn import lora
from acestep_jax.nn.config import PLANNERS, Qwen3Config
from acestep_jax.nn.qwen3 import Qwen3
from acestep_jax.ops import packing
from acestep_jax.tasks.planning.planner import Planner
from acestep_jax.tasks.planning.vocabulary import Vocabulary
from acestep_jax.training import cli, extend
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training.config import Mesh, Optimizer
from acestep_jax.training.recipes.planner import Chats, PlannerModel, TrainPlanner, toy_planner
from train import planner

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
CONFIG = toy_planner(TrainPlanner(name="toy", lora=False))
CONFIG = dataclasses.replace(
    CONFIG, num_steps=10, loss_chunk=100, optimizer=Optimizer(peak_lr=1e-2)
)
SIZES = Qwen3Config(
    vocab_size=60,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
)
SETTING = planner.Setting(CONFIG, Qwen3(SIZES))


@functools.cache
def params():
    shapes = jax.eval_shape(Qwen3(SIZES).init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    leaves, tree = jax.tree.flatten(shapes["params"])
    keys = jax.random.split(jax.random.key(0), len(leaves))
    drawn = [0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return tree.unflatten(drawn)


def conversations(seed=0, count=5):
    rng = np.random.default_rng(seed)
    made = []
    for size in rng.integers(4, 12, count):
        kinds = np.sort(rng.integers(0, 4, size))
        kinds[0] = 0
        tokens = rng.integers(0, 60, size)
        made.append(chat.Conversation(tokens.tolist(), kinds.tolist()))
    return made


def rows(groups, length):
    packed = [chat.pack(group, length, 59) for group in groups]
    return ChatBatch(**{name: np.stack([row[name] for row in packed]) for name in packed[0]})


def test_packed_rows_have_the_losses_of_their_parts():
    made = conversations()
    together, apart = rows([made], 64), rows([[one] for one in made], 16)
    losses = [
        np.asarray(jax.jit(functools.partial(planner.token_losses, SETTING))(params(), batch))
        for batch in (together, apart)
    ]
    ends = np.cumsum([len(one.tokens) for one in made])
    for number, (one, end) in enumerate(zip(made, ends, strict=True)):
        size = len(one.tokens)
        packed = losses[0][0, end - size : end - 1]  # all but the first token of each
        np.testing.assert_allclose(packed, losses[1][number, : size - 1], atol=2e-5)
    loss = functools.partial(planner.planner_loss, setting=SETTING, frozen={}, key=None)
    values = [float(jax.jit(loss)(params(), batch=batch)[0]) for batch in (together, apart)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_segments_count_from_zero_and_see_themselves():
    segments = jnp.array([[1, 1, 2, 2, 2, 0]])
    assert packing.segment_positions(segments).tolist() == [[0, 1, 0, 1, 2, 0]]
    mask = packing.segment_mask(segments)[0]
    assert mask[1].tolist() == [True, True, False, False, False, False]
    assert mask[3].tolist() == [False, False, True, True, True, False]
    assert not mask[:, 5].any()


def test_only_the_assistants_turn_counts_and_codes_have_their_own_mean():
    batch = rows([conversations()], 64)
    each = np.asarray(planner.token_losses(SETTING, params(), batch))
    kinds = batch.kinds[:, 1:]
    loss, metrics = planner.planner_loss(params(), SETTING, {}, batch, None)
    words = each[(kinds == chat.THOUGHT) | (kinds == chat.LYRICS)].mean()
    codes = each[kinds == chat.CODES].mean()
    assert float(loss) == pytest.approx(words + codes, rel=1e-5)
    assert float(metrics["loss/codes"]) == pytest.approx(codes, rel=1e-5)
    other = dataclasses.replace(batch, kinds=np.where(batch.kinds == 0, 0, batch.kinds))
    assert float(planner.planner_loss(params(), SETTING, {}, other, None)[0]) == float(loss)


def test_chunks_of_logits_change_no_loss():
    batch = rows([conversations()], 64)
    whole = SETTING._replace(config=dataclasses.replace(CONFIG, loss_chunk=4096))
    each = [planner.token_losses(setting, params(), batch) for setting in (SETTING, whole)]
    small = SETTING._replace(config=dataclasses.replace(CONFIG, loss_chunk=10))
    each.append(planner.token_losses(small, params(), batch))
    for other in each[1:]:
        np.testing.assert_allclose(each[0], other, atol=1e-5)


def test_training_learns_and_adapters_leave_the_base_alone():
    batch = rows([conversations(), conversations(1)], 64)
    for adapted in (False, True):
        config = dataclasses.replace(
            CONFIG, lora=adapted, adapter=lora.LoRA(rank=2, alpha=4.0, dropout=0.0)
        )
        setting = planner.Setting(config, planner.build(config, SIZES))
        trained, frozen = params(), {}
        if adapted:
            trained, frozen = lora.init(jax.random.key(0), params(), config.adapter), params()
        state = planner.make_state(config, trained)
        step, seen = planner.make_train_step(setting, trained), []
        for _ in range(6):
            state, metrics = step(state, frozen, batch)
            seen.append(float(metrics["loss"]))
        assert seen[-1] < seen[0] - 0.05, seen
        if adapted:
            names = {p[-1].key for p, _ in jax.tree_util.tree_leaves_with_path(state.params)}
            assert names == {"lora_a", "lora_b"}


@pytest.mark.slow
def test_eight_devices_train_as_one(devices):
    batch = rows([conversations(seed) for seed in range(4)], 64)
    numbers = []
    for mesh in (mesh_lib.make_mesh(Mesh()), mesh_lib.make_mesh(Mesh(fsdp=4, tensor=2), devices)):
        with jax.set_mesh(mesh):
            state = planner.make_state(CONFIG, params())
            places = mesh_lib.state_shardings(state, mesh)
            step = planner.make_train_step(SETTING, params(), places)
            placed = mesh_lib.place_batch(batch, mesh)
            numbers.append(float(step(mesh_lib.place(state, places), {}, placed)[1]["loss"]))
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-5)


def test_a_plain_model_grows_audio_tokens_that_begin_as_average_words():
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{i}": i for i in range(50)}))
    names = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>"]
    tokenizer.add_tokens([tokenizers.AddedToken(name) for name in names])
    extended = extend.extend_tokenizer(tokenizer, 7)
    network = extend.extend_model(jax.random.key(0), SIZES, params(), 55, 7)
    assert network.config.vocab_size == 62  # five spare rows of 60 are dropped
    table, old = np.asarray(network.params["embed_tokens"]), params()["embed_tokens"]
    np.testing.assert_array_equal(table[:55], old[:55])
    np.testing.assert_allclose(table[55:].mean(0), old[:55].mean(0), atol=0.1)
    assert 0 < table[55:].std(0).mean() < 0.2 * np.std(old[:55])
    vocabulary = Vocabulary.of(extended, 62)
    assert (vocabulary.first_code, vocabulary.num_codes) == (55, 7)
    assert tokenizer.token_to_id("<|audio_code_0|>") is None  # the plain one stays as it was
    with pytest.raises(ValueError, match="has audio tokens already"):
        extend.extend_tokenizer(extended, 7)
    with pytest.raises(ValueError, match="cannot grow"):
        extend.extend_table(jax.random.key(0), old, 70, 80)


def test_merged_adapters_are_exported_as_a_planner(tmp_path):
    config = dataclasses.replace(
        CONFIG, lora=True, adapter=lora.LoRA(rank=2, alpha=4.0, dropout=0.0)
    )
    begin = planner.open_planner(config)
    assert begin.network.config == PLANNERS["planner_toy"]
    adapters = lora.init(jax.random.key(1), begin.network.params, config.adapter)
    adapters = jax.tree.map(lambda x: x + 0.1, adapters)
    config = dataclasses.replace(
        config, model=dataclasses.replace(config.model, export_dtype="float32")
    )
    folder = planner.export(config, begin, adapters, begin.network.params, tmp_path / "export")
    loaded = Planner.load(str(folder))
    assert loaded.vocabulary.num_codes == 1000
    tokens = jnp.arange(10)[None]
    adapted = planner.planner_params(config, adapters, begin.network.params)
    module = planner.build(config, begin.network.config)
    expected = module.apply({"params": adapted}, tokens)
    got = loaded.module.apply({"params": loaded.params}, tokens)
    np.testing.assert_allclose(got, expected, atol=1e-4)  # sums in another order


def test_the_released_recipe_traces_at_full_size():
    config = cli.load_config(CONFIGS / "planner_1p7b" / "sft.py")
    sizes = PLANNERS[config.model.preset]
    setting = planner.Setting(config, planner.build(config, sizes))
    one = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    frozen = jax.eval_shape(Qwen3(sizes).init, jax.random.key(0), one)["params"]
    make = functools.partial(lora.init, spec=config.adapter)
    trained = jax.eval_shape(make, jax.random.key(0), frozen)
    row = jax.ShapeDtypeStruct((2, config.chats.length), jnp.int32)
    state = jax.eval_shape(functools.partial(planner.make_state, config), trained)
    step = planner.make_train_step(setting, trained)
    new, metrics = jax.eval_shape(step, state, frozen, ChatBatch(row, row, row))
    assert sum(x.size for x in jax.tree.leaves(frozen)) == 1_854_243_840
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert metrics["loss"].shape == ()


def test_two_starts_and_unknown_tasks_are_refused():
    with pytest.raises(ValueError, match="both given; start from one"):
        PlannerModel(weights="a", plain="b")
    with pytest.raises(ValueError, match="the planners are planner_0p6b"):
        PlannerModel(preset="micro")
    with pytest.raises(ValueError, match="names 'sing'"):
        Chats(mixture=(("sing", 1.0),))


def test_the_nano_tokenizer_serves_the_nano_planner():
    tokenizer = tokenizers.Tokenizer.from_file(f"{NANO_TOKENIZER}/tokenizer.json")
    assert Vocabulary.of(tokenizer, PLANNERS["planner_nano"].vocab_size).num_codes == 1000
    assert weights.resolve(NANO_TOKENIZER).is_dir()
