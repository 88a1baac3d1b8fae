"""Adapters on disk: the official names, exact round trips, several at once, and every refusal."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from acestep_jax import weights
from acestep_jax.nn import lora
from acestep_jax.nn.config import MODELS, TEXT_ENCODERS
from acestep_jax.nn.lora import LoRA
from acestep_jax.weights import adapters, tensorfile
from tests import tiny

SPEC = LoRA(rank=3, alpha=6.0)
# An odd depth: two layers in a stack, and one that stands alone
CONFIG = dataclasses.replace(tiny.CONFIG, num_hidden_layers=3)


def drawn(config=CONFIG, spec=SPEC, seed=0):
    """An adapter whose numbers are all different."""
    tree = weights.convert.shapes(adapters.adapter_entries(config, spec))
    leaves, shape = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    params = shape.unflatten([rng.standard_normal(x.shape).astype(np.float32) for x in leaves])
    return adapters.Adapter(spec, params)


def assert_same(left, right):
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)


def stored(folder, name="adapter_model"):
    problems = []
    found = tensorfile.read_header(folder / f"{name}.safetensors", problems)
    assert not problems
    return found


def official_names(num_layers):
    """What PEFT over the released decoder writes: written out here, not taken from our table."""
    return {
        f"base_model.model.layers.{i}.{attention}.{projection}.lora_{factor}.weight"
        for i in range(num_layers)
        for attention in ("self_attn", "cross_attn")
        for projection in ("q_proj", "k_proj", "v_proj", "o_proj")
        for factor in "AB"
    }


@pytest.mark.parametrize("name, layers, width", [("turbo", 24, 2048), ("xl_turbo", 32, 2560)])
def test_the_release_has_these_adapters(name, layers, width):
    config = MODELS[name]
    entries = adapters.adapter_entries(config, LoRA())
    assert {f"base_model.model.{entry.name}" for entry in entries} == official_names(layers)
    shapes = {entry.name: entry.shape for entry in entries}
    assert shapes["layers.3.self_attn.k_proj.lora_A.weight"] == (8, width)
    assert shapes["layers.3.self_attn.k_proj.lora_B.weight"] == (1024, 8)
    # the tree they make is the one that training starts from
    tree = weights.convert.shapes(weights.names.model_entries(config))["dit"]
    fresh = jax.eval_shape(lambda: lora.init(jax.random.key(0), tree, LoRA()))
    assert jax.tree.map(lambda x: x.shape, fresh) == jax.tree.map(
        lambda x: x.shape, weights.convert.shapes(entries)
    )


@pytest.mark.parametrize("layout", adapters.LAYOUTS)
def test_what_is_saved_is_loaded_bit_for_bit(layout, tmp_path):
    adapter = drawn()
    adapters.save_adapter(tmp_path / "one", adapter, CONFIG, layout=layout)
    again = adapters.load_adapter(tmp_path / "one", CONFIG)
    assert again.spec == adapter.spec
    assert_same(adapter.params, again.params)
    adapters.save_adapter(tmp_path / "two", again, CONFIG, layout=layout)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_the_files_carry_the_names_of_their_layout(tmp_path):
    adapter = drawn()
    for layout in adapters.LAYOUTS:
        adapters.save_adapter(tmp_path / layout, adapter, CONFIG, layout=layout)
    assert set(stored(tmp_path / "official")) == official_names(3)
    theirs = set(stored(tmp_path / "diffusers"))
    assert "base_model.model.layers.2.cross_attn.to_out.0.lora_B.weight" in theirs
    assert len(theirs) == len(official_names(3))
    pipelines = set(stored(tmp_path / "diffusers", "pytorch_lora_weights"))
    assert {name.replace("base_model.model.", "transformer.") for name in theirs} == pipelines
    values = json.loads((tmp_path / "diffusers" / "adapter_config.json").read_text())
    assert values["target_modules"] == ["to_k", "to_out.0", "to_q", "to_v"]
    assert (values["r"], values["lora_alpha"], values["peft_type"]) == (3, 6, "LORA")


def test_a_stored_tensor_is_its_layer_transposed(tmp_path):
    adapter = drawn()
    adapters.save_adapter(tmp_path, adapter, CONFIG)
    found = stored(tmp_path)
    for layer, place in enumerate((("pairs", "sliding"), ("pairs", "full"), ("last",))):
        leaves = adapter.params["layers"]
        for key in (*place, "cross_attn", "v_proj"):
            leaves = leaves[key]
        ours = leaves["lora_a"][0] if place[0] == "pairs" else leaves["lora_a"]
        name = f"base_model.model.layers.{layer}.cross_attn.v_proj.lora_A.weight"
        np.testing.assert_array_equal(tensorfile.read_tensor(found[name]), ours.T)


def test_the_strength_is_read_from_diffusers_header_where_nothing_else_states_it(tmp_path):
    adapter = drawn(spec=LoRA(rank=2, alpha=5.0, dropout=0.0))
    adapters.save_adapter(tmp_path, adapter, CONFIG, layout="diffusers")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).unlink()
    again = adapters.load_adapter(tmp_path, CONFIG)
    assert again.spec == adapter.spec
    assert_same(adapter.params, again.params)


def test_targets_are_found_again_from_the_tensors(tmp_path):
    for targets in (("self_attn.q_proj", "mlp.up_proj"), ("q_proj", "condition_embedder")):
        adapter = drawn(spec=dataclasses.replace(SPEC, targets=targets))
        adapters.save_adapter(tmp_path, adapter, CONFIG)
        again = adapters.load_adapter(tmp_path, CONFIG)
        assert_same(adapter.params, again.params)
        found = set(lora.find_targets(_base(), again.spec.targets))
        assert found == set(lora.find_targets(_base(), targets))


def _base():
    return weights.convert.shapes(weights.names.model_entries(CONFIG))["dit"]


def test_a_language_models_adapter_has_the_names_of_its_own_release(tmp_path):
    config = dataclasses.replace(tiny.TEXT_CONFIG, num_hidden_layers=2)
    adapter = drawn(config)
    adapters.save_adapter(tmp_path, adapter, config)
    assert "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight" in stored(tmp_path)
    assert_same(adapter.params, adapters.load_adapter(tmp_path, config).params)
    assert len(adapters.adapter_entries(TEXT_ENCODERS["qwen3_embedding_0p6b"], LoRA())) == 28 * 8
    with pytest.raises(ValueError, match="no names of its own in diffusers"):
        adapters.save_adapter(tmp_path, adapter, config, layout="diffusers")


def test_rank_stabilised_strength_is_kept(tmp_path):
    adapter = drawn(spec=LoRA(rank=4, alpha=6.0))
    adapters.save_adapter(tmp_path, adapter, CONFIG)
    edit(tmp_path, use_rslora=True)
    assert adapters.load_adapter(tmp_path, CONFIG).spec.scale == pytest.approx(6 / 4**0.5)


def edit(folder, **changes):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_an_adapter_of_another_model_is_refused_tensor_by_tensor(tmp_path):
    adapters.save_adapter(tmp_path, drawn(), CONFIG)
    with pytest.raises(weights.CheckpointError) as refused:
        adapters.load_adapter(tmp_path, dataclasses.replace(CONFIG, hidden_size=32, fsq_dim=32))
    assert "layers.0.self_attn.q_proj.lora_A.weight is [3, 24]" in str(refused.value)
    assert "needs [3, 32]" in str(refused.value)
    with pytest.raises(
        weights.CheckpointError, match=r"layers\.2\.cross_attn\.k_proj is no linear"
    ):
        adapters.load_adapter(tmp_path, dataclasses.replace(CONFIG, num_hidden_layers=2))
    with pytest.raises(ValueError, match="does not fit its configuration"):
        adapters.save_adapter(tmp_path, drawn(), MODELS["nano"])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"r": 0}, "rank=0 must be 1 or more"),
        ({"use_dora": True}, "use_dora is True"),
        ({"peft_type": "LOKR"}, "peft_type is 'LOKR'"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern is"),
        ({"lora_alpha": None}, "TypeError"),
    ],
)
def test_what_is_no_plain_adapter_is_refused(change, message, tmp_path):
    adapters.save_adapter(tmp_path, drawn(), CONFIG)
    edit(tmp_path, **change)
    with pytest.raises(weights.CheckpointError, match=message):
        adapters.load_adapter(tmp_path, CONFIG)


def test_a_folder_without_strength_or_without_weights_is_refused(tmp_path):
    with pytest.raises(weights.CheckpointError, match="missing: adapter_model.safetensors"):
        adapters.load_adapter(tmp_path, CONFIG)
    adapters.save_adapter(tmp_path, drawn(), CONFIG)
    (tmp_path / "adapter_config.json").unlink()
    values = {name: tensorfile.read_tensor(x) for name, x in stored(tmp_path).items()}
    tensors = {
        name: tensorfile.Outgoing("F32", x.shape, lambda x=x: x) for name, x in values.items()
    }
    tensorfile.write_file(tmp_path / "adapter_model.safetensors", tensors)
    with pytest.raises(weights.CheckpointError, match="nobody knows how strong"):
        adapters.load_adapter(tmp_path, CONFIG)


def test_several_adapters_add_up_with_their_weights():
    one, two = drawn(), drawn(spec=LoRA(rank=2, alpha=3.0, targets=("self_attn.q_proj",)), seed=1)
    base = tiny_base()
    together = lora.merge(base, adapters.combine([one, two], [0.5, -2.0])).params
    in_turn = lora.merge(lora.merge(base, one.collection(0.5)).params, two.collection(-2.0)).params
    pairs = zip(jax.tree.leaves(together), jax.tree.leaves(in_turn), strict=True)
    for a, b in pairs:  # float32, sums of five products in another order
        np.testing.assert_allclose(a, b, atol=1e-5)


def tiny_base():
    leaves, tree = jax.tree.flatten(_base())
    rng = np.random.default_rng(3)
    return tree.unflatten([rng.standard_normal(x.shape).astype(np.float32) for x in leaves])
