"""Whatever is wrong with a checkpoint is named, all of it in one error."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from acestep_jax import weights
from acestep_jax.weights import tensorfile

TURBO = "acestep-v15-turbo"
PROBE = "decoder.layers.0.mlp.up_proj.weight"


def rewrite(folder, change, file="model.safetensors"):
    tensors = safetensors.numpy.load_file(folder / file)
    change(tensors)
    safetensors.numpy.save_file(tensors, folder / file, {"format": "pt"})


def rewrite_header(file, change):
    """Edits a header in place, keeping the bytes of the tensors."""
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def problems_of(folder, load=weights.load_model, **options):
    with pytest.raises(weights.CheckpointError) as caught:
        load(folder, **options)
    assert str(folder) in str(caught.value)
    for problem in caught.value.problems:
        assert problem in str(caught.value)
    return caught.value.problems


def test_missing_extra_misshaped_and_non_finite_tensors_are_named_together(copy_of):
    folder = copy_of(TURBO)

    def change(tensors):
        del tensors["encoder.text_projector.weight"]
        tensors["decoder.surprise"] = np.zeros(3, np.float32)
        tensors[PROBE] = tensors[PROBE][:-1]
        tensors["null_condition_emb"][0, 0, 1] = np.nan
        tensors["detokenizer.norm.weight"][0] = -np.inf

    rewrite(folder, change)
    (folder / "silence_latent.pt").unlink()
    assert sorted(problems_of(folder)) == [
        "corrupt: detokenizer.norm.weight holds NaN or infinite values",
        "corrupt: null_condition_emb holds NaN or infinite values",
        "missing: encoder.text_projector.weight [48, 24]",
        "missing: silence_latent.pt",
        f"shape: {PROBE} is [111, 48], the configuration needs [112, 48]",
        "unexpected: decoder.surprise [3] in model.safetensors",
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_single_nan_is_found_in_every_dtype(dtype, copy_of):
    folder = copy_of(TURBO)

    def change(tensors):
        for name in tensors:
            tensors[name] = tensors[name].astype(dtype)
        tensors[PROBE][-1, -1] = np.nan

    rewrite(folder, change)
    assert problems_of(folder) == (f"corrupt: {PROBE} holds NaN or infinite values",)


def test_a_truncated_file_names_what_it_lost(copy_of):
    folder = copy_of(TURBO)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-3000])
    problems = problems_of(folder)
    # the file ends with the tokenizer: 3,000 bytes are its last four tensors, one of them in part
    lost = [problem for problem in problems if problem.startswith("truncated: ")]
    assert lost[-1].startswith("truncated: tokenizer.quantizer.project_out.weight has 0 of 1152")
    assert all("model.safetensors" in problem for problem in lost)
    missing = [problem.split()[1] for problem in problems if problem.startswith("missing: ")]
    assert missing == [problem.split()[1] for problem in lost] or set(missing) == {
        problem.split()[1] for problem in lost
    }


@pytest.mark.parametrize("length", [0, 5, 8, 100, 20_000])
def test_a_file_cut_inside_its_header_is_truncated(length, copy_of):
    folder = copy_of(TURBO)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    assert any("truncated: model.safetensors" in problem for problem in problems_of(folder))


@pytest.mark.parametrize(
    "change, expected",
    [
        (
            lambda entry: entry.update(data_offsets=[4, 0]),
            "corrupt: {} in model.safetensors has -4",
        ),
        (lambda entry: entry.update(shape=[-1, 48]), "corrupt: {} in model.safetensors has the"),
        (lambda entry: entry.update(shape=[1, 48]), "takes 192"),
        (lambda entry: entry.update(shape="wide"), "corrupt: {} in model.safetensors has the"),
        (lambda entry: entry.pop("dtype"), "corrupt: {} in model.safetensors has the"),
        (lambda entry: entry.update(dtype="F64"), "dtype: {} in model.safetensors is F64"),
        (lambda entry: entry.update(dtype=[1]), "corrupt: {} in model.safetensors has the"),
        (lambda entry: entry.update(data_offsets=[0, 21_504]), "overlaps the tensor before it"),
    ],
)
def test_a_header_that_lies_is_corrupt(change, expected, copy_of):
    folder = copy_of(TURBO)
    rewrite_header(folder / "model.safetensors", lambda header: change(header[PROBE]))
    problems = problems_of(folder)
    assert any(expected.format(PROBE) in problem for problem in problems), problems


@pytest.mark.parametrize(
    "content",
    [b"[]", b"{", b'{"a": 1, "a": 2}', b"\xff\xfe{}"],
)
def test_a_header_that_is_no_json_object_is_corrupt(content, copy_of):
    folder = copy_of(TURBO)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(content)) + content)
    assert any("the header of model.safetensors" in problem for problem in problems_of(folder))


def test_bytes_that_no_tensor_claims_are_corrupt(copy_of):
    folder = copy_of(TURBO)
    with open(folder / "model.safetensors", "ab") as stream:
        stream.write(b"abc")
    assert problems_of(folder) == ("corrupt: model.safetensors has 3 bytes no tensor claims",)


def test_a_missing_shard_and_its_tensors_are_named(copy_of):
    folder = copy_of("acestep-5Hz-lm-4B")
    (folder / "model-00002-of-00002.safetensors").unlink()
    problems = problems_of(folder, weights.load_qwen3)
    assert problems[0] == "missing: shard model-00002-of-00002.safetensors"
    assert "missing: norm.weight [40]" in problems


def test_a_tensor_in_two_shards_is_corrupt(copy_of):
    folder = copy_of("acestep-5Hz-lm-4B")

    def change(tensors):
        tensors["model.norm.weight"] = np.ones(40, np.float32)

    rewrite(folder, change, "model-00001-of-00002.safetensors")
    assert problems_of(folder, weights.load_qwen3) == (
        "corrupt: model.norm.weight is in model-00001-of-00002.safetensors and "
        "model-00002-of-00002.safetensors",
    )


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": {"a": "../outside"}}'])
def test_an_index_that_cannot_be_followed_is_corrupt(content, copy_of):
    folder = copy_of("acestep-5Hz-lm-4B")
    (folder / "model.safetensors.index.json").write_text(content)
    problems = problems_of(folder, weights.load_qwen3)
    assert problems[0].startswith("corrupt: model.safetensors.index.json")


def test_an_empty_folder_lacks_configuration_weights_and_silence(tmp_path):
    problems = problems_of(tmp_path)
    assert [problem.split(":")[0] for problem in problems] == ["missing"] * 3
    assert all(word in " ".join(problems) for word in ("config.json", "model", "silence_latent"))


def test_a_missing_component_of_the_diffusers_layout_is_named(checkpoints, tmp_path):
    weights.save_model(tmp_path, weights.load_model(checkpoints / TURBO), layout="diffusers")
    file = tmp_path / "audio_tokenizer" / "diffusion_pytorch_model.safetensors"
    rewrite(file.parent, lambda tensors: tensors.pop("quantizer.project_in.bias"), file.name)
    condition = tmp_path / "condition_encoder"
    rewrite(condition, lambda tensors: tensors.pop("silence_latent"), file.name)
    assert problems_of(tmp_path) == (
        "missing: silence_latent",
        "missing: audio_tokenizer/quantizer.project_in.bias [6]",
    )
    (condition / "config.json").unlink()
    assert f"missing: config.json in {condition}" in problems_of(tmp_path)


def test_a_configuration_that_is_not_of_the_family_is_a_problem(copy_of):
    folder = copy_of(TURBO)
    values = json.loads((folder / "config.json").read_text()) | {"patch_size": 4}
    (folder / "config.json").write_text(json.dumps(values))
    assert problems_of(folder)[0].startswith("configuration: patch_size=4")
    (folder / "config.json").write_text("{]")
    assert problems_of(folder)[0].startswith("corrupt: config.json cannot be read")


def test_a_head_that_contradicts_its_table_is_a_problem(copy_of):
    folder = copy_of("Qwen3-Embedding-0.6B")

    def change(tensors):
        tensors["lm_head.weight"] = tensors["embed_tokens.weight"] + 1

    rewrite(folder, change)
    assert problems_of(folder, weights.load_qwen3) == (
        "unexpected: lm_head.weight differs from embed_tokens.weight, though "
        "tie_word_embeddings is true",
    )


def test_a_silence_of_the_wrong_shape_is_a_problem(copy_of):
    folder = copy_of("acestep-v15-base")
    weights.torchfile.save_tensor(folder / "silence_latent.pt", np.zeros((1, 5, 10), np.float32))
    assert problems_of(folder) == ("shape: silence_latent is [1, 10, 5], not [1, frames, 6]",)


def test_an_autoencoder_reports_in_the_same_way(copy_of):
    folder = copy_of("vae-tiny")
    file = "diffusion_pytorch_model.safetensors"
    rewrite(folder, lambda tensors: tensors.pop("decoder.conv2.weight_g"), file)
    assert problems_of(folder, weights.load_vae) == ("missing: decoder.conv2.weight_g [1, 1, 1]",)


def test_a_file_that_shrinks_while_it_is_read_is_an_error(copy_of):
    file = copy_of("vae-tiny") / "diffusion_pytorch_model.safetensors"
    stored = tensorfile.read_header(file, [])["decoder.conv1.bias"]
    file.write_bytes(file.read_bytes()[: stored.start + 4])
    with pytest.raises(EOFError, match="ended 68 bytes early"):
        tensorfile.read_tensor(stored)


def test_an_unknown_layout_is_refused_with_the_known_ones(checkpoints, tmp_path):
    with pytest.raises(ValueError, match="official, diffusers, native or auto"):
        weights.load_model(checkpoints / TURBO, layout="torch")
    with pytest.raises(ValueError, match="official, diffusers, native"):
        weights.save_model(tmp_path, weights.load_model(checkpoints / TURBO), layout="torch")
