"""The table of names against lists made from the original modules, and against our own networks."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.nn import config as nn_config
from acestep_jax.nn import model as nn_model
from acestep_jax.nn.qwen3 import Qwen3
from acestep_jax.nn.vae import VAE
from acestep_jax.weights import convert, names

RELEASED = Path(__file__).parent / "released"  # made by tests/torch/make_released_lists.py
QWEN3 = nn_config.TEXT_ENCODERS | nn_config.PLANNERS
# (preset, tensors, parameters): counts that the original modules report at full size
COUNTS = [
    ("turbo", 677, 2_393_872_518),
    ("xl_turbo", 829, 4_987_310_726),
    ("vae", 365, 168_695_426),
    ("qwen3_embedding_0p6b", 310, 595_776_512),
]


def released(name):
    return {key: tuple(shape) for key, shape in json.loads((RELEASED / name).read_text()).items()}


def entries_of(preset):
    if preset in nn_config.MODELS:
        return names.model_entries(nn_config.MODELS[preset])
    if preset in QWEN3:
        return names.qwen3_entries(QWEN3[preset])
    return names.vae_entries(nn_config.VAES[preset])


def shapes_by_path(tree):
    return {
        jax.tree_util.keystr(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.parametrize("preset, num_tensors, num_parameters", COUNTS)
def test_the_release_is_listed_name_by_name_and_shape_by_shape(preset, num_tensors, num_parameters):
    entries = entries_of(preset)
    assert {entry.name: entry.shape for entry in entries} == released(f"{preset}.json")
    assert len(entries) == num_tensors
    assert sum(entry.size for entry in entries) == num_parameters


@pytest.mark.parametrize("preset", ["planner_0p6b", "planner_1p7b", "planner_4b"])
def test_the_planners_are_listed_name_by_name_and_shape_by_shape(preset):
    listed = {entry.name: entry.shape for entry in entries_of(preset)}
    assert listed == released(f"{preset}.json")


@pytest.mark.parametrize("preset", ["turbo", "xl_turbo", "nano"])  # the others have these sizes
def test_the_networks_have_exactly_the_listed_parameters(preset):
    config = nn_config.MODELS[preset]
    nano = preset.startswith("nano")
    text = nn_config.TEXT_ENCODERS["nano" if nano else "qwen3_embedding_0p6b"]
    networks = nn_model.build_networks(config, text)
    tree = dict(jax.eval_shape(lambda key: nn_model.init_params(networks, key), jax.random.key(0)))
    encoder = tree.pop("text_encoder")
    assert shapes_by_path(tree) == shapes_by_path(convert.shapes(entries_of(preset)))
    assert shapes_by_path(encoder) == shapes_by_path(convert.shapes(names.qwen3_entries(text)))


@pytest.mark.parametrize("preset", sorted(nn_config.PLANNERS))
def test_the_planners_have_exactly_the_listed_parameters(preset):
    module = Qwen3(nn_config.PLANNERS[preset])
    tokens = jnp.zeros((1, 2), jnp.int32)
    tree = jax.eval_shape(module.init, jax.random.key(0), tokens)["params"]
    assert shapes_by_path(tree) == shapes_by_path(convert.shapes(entries_of(preset)))


@pytest.mark.parametrize("preset", sorted(nn_config.VAES))
def test_the_autoencoder_has_exactly_the_listed_parameters(preset):
    config = nn_config.VAES[preset]
    audio = jnp.zeros((1, config.hop, config.audio_channels))
    key = jax.random.key(0)
    tree = jax.eval_shape(VAE(config).init, key, audio, key)["params"]
    assert shapes_by_path(tree) == shapes_by_path(convert.shapes(names.vae_entries(config)))


def test_an_untied_qwen3_stores_its_head():
    config = nn_config.Qwen3Config(vocab_size=10, tie_word_embeddings=False)
    head = names.qwen3_entries(config)[-1]
    assert (head.name, head.path, head.leaf_shape) == (
        "lm_head.weight",
        ("lm_head", "kernel"),
        (config.hidden_size, 10),
    )


@pytest.mark.parametrize("preset", ["turbo", "xl_turbo", "nano"])
def test_every_row_of_every_leaf_is_filled_once(preset):
    filled = {}
    for entry in entries_of(preset):
        rows = filled.setdefault(entry.path, [])
        rows.append(entry.row)
        assert math.prod(entry.leaf_shape) == entry.size * (
            entry.num_rows if rows[0] is not None else 1
        )
    for path, rows in filled.items():
        assert rows == [None] or sorted(rows) == list(range(len(rows))), path


@pytest.mark.parametrize(
    "official, component, key",
    [
        ("null_condition_emb", "condition_encoder", "null_condition_emb"),
        ("decoder.proj_in.1.weight", "transformer", "proj_in_conv.weight"),
        ("decoder.proj_out.1.bias", "transformer", "proj_out_conv.bias"),
        ("detokenizer.proj_out.bias", "audio_token_detokenizer", "proj_out.bias"),
        (
            "decoder.layers.3.cross_attn.o_proj.weight",
            "transformer",
            "layers.3.cross_attn.to_out.0.weight",
        ),
        (
            "encoder.lyric_encoder.layers.0.self_attn.q_norm.weight",
            "condition_encoder",
            "lyric_encoder.layers.0.self_attn.norm_q.weight",
        ),
        (
            "tokenizer.quantizer.project_in.weight",
            "audio_tokenizer",
            "quantizer.project_in.weight",
        ),
    ],
)
def test_diffusers_names(official, component, key):
    assert names.diffusers_location(official) == (component, key)


def test_diffusers_names_stay_distinct():
    listed = [names.diffusers_location(entry.name) for entry in entries_of("turbo")]
    assert len(set(listed)) == len(listed)


def test_a_transposition_is_the_one_that_the_networks_expect():
    # x @ kernel must equal torch's x @ weight.T; convolutions are checked by tests/parity
    entry = next(
        entry for entry in entries_of("nano") if entry.name.endswith("text_projector.weight")
    )
    weight = np.arange(math.prod(entry.shape)).reshape(entry.shape)
    assert entry.leaf_shape == weight.transpose(entry.axes).shape == weight.T.shape
