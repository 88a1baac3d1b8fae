"""What is loaded and saved again is the same, byte for byte, in every layout."""

import dataclasses
import hashlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from acestep_jax import weights
from acestep_jax.nn import config as nn_config
from acestep_jax.weights import configs, convert, names, tensorfile, torchfile

DATA = Path(__file__).parents[1] / "parity" / "data"
PACKAGES = ["acestep-v15-turbo", "acestep-v15-base", "acestep-v15-xl-turbo"]
QWEN3S = ["Qwen3-Embedding-0.6B", "acestep-5Hz-lm-1.7B", "acestep-5Hz-lm-4B"]


def same_bytes(first, second, *files):
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file


def same_json(first, second, file="config.json"):
    assert json.loads((first / file).read_text()) == json.loads((second / file).read_text())


def assert_equal_trees(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("name", PACKAGES)
def test_an_official_package_comes_back_to_the_byte(name, checkpoints, tmp_path):
    weights.save_model(tmp_path, weights.load_model(checkpoints / name))
    same_bytes(checkpoints / name, tmp_path, "model.safetensors")
    same_json(checkpoints / name, tmp_path)
    silence = [
        torchfile.load_tensor(folder / "silence_latent.pt")
        for folder in (checkpoints / name, tmp_path)
    ]
    np.testing.assert_array_equal(*silence)


@pytest.mark.parametrize("name", PACKAGES)
def test_the_diffusers_layout_is_what_diffusers_writes(name, checkpoints, tmp_path):
    # SHA-256 of the files that diffusers 0.42.1 saved for the same weights
    expected = json.loads((DATA / "diffusers.sha256.json").read_text())
    weights.save_model(tmp_path, weights.load_model(checkpoints / name), layout="diffusers")
    for component in names.DIFFUSERS_COMPONENTS:
        file = f"{component}/diffusion_pytorch_model.safetensors"
        digest = hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()
        assert digest == expected[f"diffusers/{name}/{file}"]
        written = json.loads((tmp_path / component / "config.json").read_text())
        theirs = json.loads((DATA / "diffusers" / name / component / "config.json").read_text())
        assert written == theirs


@pytest.mark.parametrize("layout", weights.LAYOUTS)
@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_may_travel_through_any_layout(name, layout, checkpoints, tmp_path):
    original = weights.load_model(checkpoints / name)
    weights.save_model(tmp_path / "there", original, layout=layout)
    there = weights.load_model(tmp_path / "there")
    assert (there.config, there.source.layout) == (original.config, layout)
    assert_equal_trees(there.params, original.params)
    weights.save_model(tmp_path / "back", there)
    same_bytes(checkpoints / name, tmp_path / "back", "model.safetensors")


@pytest.mark.parametrize("name", ["vae", "vae-tiny"])
def test_an_autoencoder_comes_back_to_the_byte(name, checkpoints, tmp_path):
    weights.save_vae(tmp_path, weights.load_vae(checkpoints / name))
    same_bytes(checkpoints / name, tmp_path, "diffusion_pytorch_model.safetensors", "config.json")


@pytest.mark.parametrize("name", QWEN3S)
def test_a_qwen3_comes_back_to_the_byte_with_its_prefix_and_shards(name, checkpoints, tmp_path):
    limit = 208_448 if name.endswith("4B") else weights.save.MAX_SHARD_BYTES
    weights.save_qwen3(tmp_path, weights.load_qwen3(checkpoints / name), max_shard_bytes=limit)
    files = sorted(file.name for file in (checkpoints / name).glob("*.safetensors"))
    assert sorted(file.name for file in tmp_path.glob("*.safetensors")) == files
    same_bytes(checkpoints / name, tmp_path, *files)
    same_json(checkpoints / name, tmp_path)
    if name.endswith("4B"):
        same_json(checkpoints / name, tmp_path, "model.safetensors.index.json")


def half_precision_copy(source, target):
    """Rewrites a package with some tensors in bfloat16, some in float16, some as they are."""
    tensors = safetensors.numpy.load_file(source / "model.safetensors")
    kinds = [ml_dtypes.bfloat16, np.float16, np.float32]
    tensors = {name: tensors[name].astype(kinds[i % 3]) for i, name in enumerate(sorted(tensors))}
    target.mkdir()
    safetensors.numpy.save_file(tensors, target / "model.safetensors", {"format": "pt"})
    for name in ("config.json", "silence_latent.pt"):
        (target / name).write_bytes((source / name).read_bytes())
    return target


@pytest.mark.parametrize("dtype", [jnp.float32, None])
def test_mixed_dtypes_survive_in_float32_and_as_they_are(dtype, checkpoints, tmp_path):
    mixed = half_precision_copy(checkpoints / PACKAGES[0], tmp_path / "mixed")
    model = weights.load_model(mixed, dtype=dtype)
    if dtype is not None:
        assert {leaf.dtype for leaf in jax.tree.leaves(model.params)} == {jnp.dtype(dtype)}
    weights.save_model(tmp_path / "again", model)
    same_bytes(mixed, tmp_path / "again", "model.safetensors")


def test_files_are_those_the_safetensors_library_writes(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "b": rng.standard_normal((3, 4)).astype(np.float32),
        "a.é": rng.standard_normal(5).astype(ml_dtypes.bfloat16),
        "c": np.zeros((0, 2), np.float32),
        "d": rng.standard_normal((2, 1, 2)).astype(np.float16),
    }
    safetensors.numpy.save_file(tensors, tmp_path / "theirs", {"format": "pt"})
    outgoing = {
        name: tensorfile.Outgoing(
            tensorfile.dtype_name(values.dtype), values.shape, lambda v=values: v
        )
        for name, values in tensors.items()
    }
    tensorfile.write_file(tmp_path / "ours", outgoing)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_half_precision_bits_survive_float32_nan_payloads_included():
    every = np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    wide = convert.cast(every, np.dtype(np.float32))
    np.testing.assert_array_equal(
        convert.cast(wide, every.dtype).view(np.uint16), every.view(np.uint16)
    )
    finite = (every.view(np.uint16) & 0x7F80) != 0x7F80
    np.testing.assert_array_equal(wide[finite], every[finite].astype(np.float32))


def test_trained_weights_are_not_rounded_silently(checkpoints, tmp_path):
    mixed = half_precision_copy(checkpoints / PACKAGES[0], tmp_path / "mixed")
    model = weights.load_model(mixed)
    trained = dataclasses.replace(
        model, params=jax.tree.map(lambda leaf: leaf * 1.0001, model.params)
    )
    with pytest.raises(ValueError, match="no longer fit; pass dtype=bfloat16 to round them"):
        weights.save_model(tmp_path / "new", trained)
    weights.save_model(tmp_path / "new", trained, dtype=jnp.bfloat16)
    rounded = weights.load_model(tmp_path / "new")
    assert set(rounded.source.dtypes.values()) == {"BF16", "F32"}  # the silence is not a weight
    kernel = rounded.params["dit"]["proj_in"]["kernel"]
    expected = trained.params["dit"]["proj_in"]["kernel"].astype(jnp.bfloat16)
    np.testing.assert_array_equal(kernel, expected.astype(jnp.float32))
    assert json.loads((tmp_path / "new" / "config.json").read_text())["dtype"] == "bfloat16"


def test_unknown_configuration_keys_are_kept(copy_of, tmp_path):
    folder = copy_of(PACKAGES[0])
    values = json.loads((folder / "config.json").read_text()) | {"lyric_alignment": {"5": [1, 2]}}
    (folder / "config.json").write_text(json.dumps(values))
    weights.save_model(tmp_path / "again", weights.load_model(folder))
    same_json(folder, tmp_path / "again")


def test_a_model_that_was_never_stored_can_be_saved_and_loaded(tmp_path):
    config = nn_config.ModelConfig(
        **configs_of_nano(), num_hidden_layers=1, num_lyric_encoder_hidden_layers=1
    )
    shapes = convert.shapes(names.model_entries(config))
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(1)
    params = tree.unflatten([rng.standard_normal(leaf.shape).astype(np.float32) for leaf in leaves])
    silence = rng.standard_normal((1, 15_000, 64)).astype(np.float32)
    model = weights.Model(config, params, jnp.asarray(silence))
    for layout in weights.LAYOUTS:
        weights.save_model(tmp_path / layout, model, layout=layout, max_shard_bytes=10**6)
        again = weights.load_model(tmp_path / layout)
        assert again.config == config, layout
        assert_equal_trees(again.params, params)
        np.testing.assert_array_equal(again.silence_latent, silence)


def test_diffusers_gets_a_silence_of_the_length_it_insists_on(checkpoints, tmp_path):
    model = weights.load_model(checkpoints / PACKAGES[0])
    short = dataclasses.replace(model, silence_latent=model.silence_latent[:, :100])
    with pytest.raises(ValueError, match="has 100 frames, but diffusers reads exactly 15000"):
        weights.save_model(tmp_path, short, layout="diffusers")


@pytest.mark.parametrize("kind, refused", [("default", False), ("yarn", True)])
def test_rope_is_read_as_transformers_five_writes_it(kind, refused, copy_of):
    folder = copy_of("Qwen3-Embedding-0.6B")
    values = json.loads((folder / "config.json").read_text())
    del values["rope_theta"], values["rope_scaling"]
    values["rope_parameters"] = {"rope_theta": 5000.0, "rope_type": kind}
    (folder / "config.json").write_text(json.dumps(values))
    if refused:
        with pytest.raises(weights.CheckpointError, match="rope_scaling is not supported"):
            weights.load_qwen3(folder)
    else:
        assert weights.load_qwen3(folder).config.rope_theta == 5000.0


def configs_of_nano():
    small = dict(
        hidden_size=32, intermediate_size=48, num_attention_heads=2, num_key_value_heads=1,
        head_dim=16, fsq_dim=32, text_hidden_dim=24, timbre_fix_frame=11,
    )  # fmt: skip
    return small | dict(
        tasks=("text2music", "lego"), prepend_timbre_token=True, sliding_window=None
    )


@pytest.mark.parametrize("preset", sorted(nn_config.MODELS))
def test_every_preset_survives_its_configuration_files(preset):
    config = nn_config.MODELS[preset]
    assert nn_config.model_config_from_json(configs.model_config_to_json(config)) == config
    assert configs.model_config_from_diffusers(configs.diffusers_configs(config)) == config


@pytest.mark.parametrize("causal", [True, False])
def test_qwen3_and_autoencoder_presets_survive_their_configuration_files(causal):
    for qwen3 in (nn_config.TEXT_ENCODERS | nn_config.PLANNERS).values():
        values = configs.qwen3_config_to_json(qwen3, causal=causal)
        assert nn_config.qwen3_config_from_json(values) == qwen3
    for vae in nn_config.VAES.values():
        assert nn_config.vae_config_from_json(configs.vae_config_to_json(vae)) == vae


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_tied_head_stored_beside_its_table_is_accepted_and_written_again(
    prefix, copy_of, tmp_path
):
    folder = copy_of("Qwen3-Embedding-0.6B")
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors = {prefix + name: values for name, values in tensors.items()}
    tensors["lm_head.weight"] = tensors[prefix + "embed_tokens.weight"]
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    loaded = weights.load_qwen3(folder)
    assert "lm_head" not in loaded.params
    weights.save_qwen3(tmp_path / "again", loaded)
    same_bytes(folder, tmp_path / "again", "model.safetensors")


def test_an_untied_head_is_loaded(copy_of):
    folder = copy_of("Qwen3-Embedding-0.6B")
    values = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(values))
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = 2 * tensors["embed_tokens.weight"]
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    params = weights.load_qwen3(folder).params
    np.testing.assert_array_equal(params["lm_head"]["kernel"], 2 * params["embed_tokens"].T)


def test_each_device_receives_its_own_shard(checkpoints, devices):
    mesh = Mesh(np.array(devices[:4]).reshape(2, 2), ("data", "model"))
    seen = {}

    def shardings(path, shape):
        spec = (
            PartitionSpec(*[None] * (len(shape) - 1), "model")
            if shape[-1] % 2 == 0
            else PartitionSpec()
        )
        seen[path] = shape
        return NamedSharding(mesh, spec)

    folder = checkpoints / PACKAGES[0]
    sharded, whole = weights.load_model(folder, shardings=shardings), weights.load_model(folder)
    assert_equal_trees(sharded.params, whole.params)
    path = "dit/layers/pairs/sliding/mlp/gate_proj/kernel"
    leaf = sharded.params["dit"]["layers"]["pairs"]["sliding"]["mlp"]["gate_proj"]["kernel"]
    assert seen[path] == leaf.shape
    assert {shard.data.shape for shard in leaf.addressable_shards} == {
        (*leaf.shape[:-1], leaf.shape[-1] // 2)
    }


def test_sharded_parameters_can_be_saved(checkpoints, devices, tmp_path):
    sharding = NamedSharding(Mesh(np.array(devices[:2]), ("model",)), PartitionSpec())
    model = weights.load_model(checkpoints / PACKAGES[1], shardings=lambda path, shape: sharding)
    weights.save_model(tmp_path, model)
    same_bytes(checkpoints / PACKAGES[1], tmp_path, "model.safetensors")


def test_saving_over_shards_leaves_no_stale_file(checkpoints, tmp_path):
    model = weights.load_model(checkpoints / PACKAGES[0])
    weights.save_model(tmp_path, model, max_shard_bytes=200_000)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    assert_equal_trees(weights.load_model(tmp_path).params, model.params)
    weights.save_model(tmp_path, model)
    assert [file.name for file in sorted(tmp_path.glob("model*"))] == ["model.safetensors"]


def test_a_tree_that_does_not_fit_its_configuration_is_refused(checkpoints, tmp_path):
    model = weights.load_model(checkpoints / PACKAGES[0])
    params = dict(model.params) | {"extra": np.zeros(2)}
    del params["null_condition"]
    with pytest.raises(ValueError) as caught:
        weights.save_model(tmp_path, dataclasses.replace(model, params=params))
    assert "extra: the configuration needs nothing, there is (2,)" in str(caught.value)
    assert "null_condition: the configuration needs (1, 1, 48), there is nothing" in str(
        caught.value
    )
