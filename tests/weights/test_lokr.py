"""LoKr files: both namings, whole and thin factors, and every refusal."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from acestep_jax import weights
from acestep_jax.nn import lora
from acestep_jax.weights import adapters, convert, names, tensorfile
from tests import tiny

CONFIG = dataclasses.replace(tiny.CONFIG, num_hidden_layers=3)
RNG = np.random.default_rng(0)
# q_proj is [32, 24] as released: 32 = 4 · 8 outputs, 24 = 4 · 6 inputs
WHOLE = {"lokr_w1": RNG.normal(size=(4, 4)), "lokr_w2": RNG.normal(size=(8, 6))}
THIN = {
    "lokr_w1_a": RNG.normal(size=(4, 2)),
    "lokr_w1_b": RNG.normal(size=(2, 4)),
    "lokr_w2_a": RNG.normal(size=(8, 2)),
    "lokr_w2_b": RNG.normal(size=(2, 6)),
}


def write(folder, tensors, stem="lokr_weights"):
    values = {name: np.asarray(value, np.float32) for name, value in tensors.items()}
    stored = {
        name: tensorfile.Outgoing("F32", value.shape, lambda value=value: value)
        for name, value in values.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    tensorfile.write_file(folder / f"{stem}.safetensors", stored)


def lycoris(layer, factors, alpha=3.0):
    stem = f"lycoris_layers_{layer}_self_attn_q_proj"
    return {f"{stem}.{name}": value for name, value in {**factors, "alpha": alpha}.items()}


def base():
    tree = convert.shapes(names.model_entries(CONFIG))["dit"]
    leaves, shape = jax.tree.flatten(tree)
    rng = np.random.default_rng(3)
    return shape.unflatten([rng.standard_normal(x.shape).astype(np.float32) for x in leaves])


def test_a_product_of_factors_is_added_to_its_layer_alone(tmp_path):
    write(tmp_path, {**lycoris(1, WHOLE), **lycoris(2, THIN)})
    adapter = weights.load_any_adapter(tmp_path, CONFIG)
    params = base()
    merged = lora.add_deltas(params, adapter.deltas(0.5))
    thin = np.kron(THIN["lokr_w1_a"] @ THIN["lokr_w1_b"], THIN["lokr_w2_a"] @ THIN["lokr_w2_b"])
    # of whole factors the alpha does not count; of thin ones it is alpha / r
    wanted = {1: 0.5 * np.kron(WHOLE["lokr_w1"], WHOLE["lokr_w2"]), 2: 0.5 * 3 / 2 * thin}
    places = {0: ("pairs", "sliding"), 1: ("pairs", "full"), 2: ("last",)}
    for layer, place in places.items():
        new, old = merged.params["layers"], params["layers"]
        for key in (*place, "self_attn", "q_proj", "kernel"):
            new, old = new[key], old[key]
        change = (np.asarray(new) - old).reshape(24, 32)
        # float32 sums of numbers of size 10
        np.testing.assert_allclose(change, np.transpose(wanted.get(layer, 0 * thin)), atol=2e-5)
    restored = lora.unmerge(merged)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_pefts_names_and_strength_are_read_and_the_file_itself_too(tmp_path):
    stem = "base_model.model.layers.0.self_attn.q_proj"
    write(tmp_path, {f"{stem}.{k}": v for k, v in WHOLE.items()}, "adapter_model")
    config = {"peft_type": "LOKR", "r": 4, "alpha": 6}
    (tmp_path / adapters.CONFIG).write_text(json.dumps(config))
    for where in (tmp_path, tmp_path / "adapter_model.safetensors"):
        (layer,) = weights.load_any_adapter(where, CONFIG).layers
        assert layer.entry.name == "layers.0.self_attn.q_proj.weight"
        assert layer.scale == 6 / 4  # PEFT counts it for whole factors too


def test_lora_is_told_from_lokr(tmp_path):
    spec = lora.LoRA(rank=2)
    tree = convert.shapes(adapters.adapter_entries(CONFIG, spec))
    params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), tree)
    adapters.save_adapter(tmp_path, adapters.Adapter(spec, params), CONFIG)
    assert weights.load_any_adapter(tmp_path, CONFIG).spec.rank == 2
    with pytest.raises(weights.CheckpointError, match="lora_A"):
        weights.load_kronecker(tmp_path, CONFIG)


@pytest.mark.parametrize(
    "tensors, message",
    [
        (lycoris(7, WHOLE), "lycoris_layers_7_self_attn_q_proj is no linear layer here"),
        (lycoris(0, {**WHOLE, "lokr_w2": np.ones((8, 5))}), r"the configuration needs \[32, 24\]"),
        (lycoris(0, {"lokr_w1": WHOLE["lokr_w1"]}), "has alpha, w1, but not two factors"),
        (lycoris(0, {**WHOLE, "dora_scale": np.ones((1, 24))}), "has dora_scale; only plain"),
        (lycoris(0, {**WHOLE, "lokr_w1": np.full((4, 4), np.nan)}), "w1 holds NaN"),
        ({k: v for k, v in lycoris(0, THIN).items() if "alpha" not in k}, "has no alpha"),
    ],
)
def test_what_is_no_plain_lokr_of_this_model_is_refused(tmp_path, tensors, message):
    write(tmp_path, tensors)
    with pytest.raises(weights.CheckpointError, match=message):
        weights.load_any_adapter(tmp_path, CONFIG)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(weights.CheckpointError, match=r"missing: adapter_model\.safetensors"):
        weights.load_any_adapter(tmp_path, CONFIG)
