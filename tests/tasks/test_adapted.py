"""Adapters in the pipeline: heard, added up, merged or not, and gone without a trace."""

import dataclasses

import jax
import numpy as np
import pytest

from acestep_jax import generate, songfiles, weights
from acestep_jax.nn.lora import LoRA
from acestep_jax.weights import adapters, tensorfile
from tests import tiny

SONG = {"duration": 10.0, "seed": 2}


def drawn(spec, seed, config=tiny.CONFIG):
    tree = weights.convert.shapes(adapters.adapter_entries(config, spec))
    leaves, shape = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    return adapters.Adapter(
        spec, shape.unflatten([0.3 * rng.standard_normal(x.shape, np.float32) for x in leaves])
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A LoRA in each naming, and a LoKr."""
    root = tmp_path_factory.mktemp("adapters")
    for seed, layout in enumerate(adapters.LAYOUTS):
        adapter = drawn(LoRA(rank=2 + seed, alpha=4.0), seed)
        adapters.save_adapter(root / layout, adapter, tiny.CONFIG, layout=layout)
    rng = np.random.default_rng(5)
    stem = "lycoris_layers_0_cross_attn_o_proj"
    values = {f"{stem}.lokr_w1": rng.normal(size=(4, 4)), f"{stem}.alpha": np.array(1.0)}
    values[f"{stem}.lokr_w2"] = rng.normal(size=(6, 8))
    (root / "lokr").mkdir()
    stored = {
        name: tensorfile.Outgoing("F32", value.shape, lambda value=value: value.astype(np.float32))
        for name, value in values.items()
    }
    tensorfile.write_file(root / "lokr" / "lokr_weights.safetensors", stored)
    return root


def distance(one, other):
    return np.linalg.norm(one - other) / np.linalg.norm(other)


def test_adapters_are_heard_add_up_and_leave_no_trace(pipe, folders):
    plain = pipe("a waltz", **SONG)
    wanted = [(folders / "official", 0.5), (folders / "diffusers", -1.0), folders / "lokr"]
    beside = pipe.with_adapters(*wanted)
    heard = beside("a waltz", **SONG)
    assert distance(heard.latents, plain.latents) > 0.01
    merged = pipe.with_adapters(*wanted[::-1], merge=True)("a waltz", **SONG)
    # float32 sums in another order, through three steps; measured 3e-7
    assert distance(merged.latents, heard.latents) < 1e-5
    one = pipe.with_adapters(wanted[0])("a waltz", **SONG)
    assert distance(one.latents, heard.latents) > 0.01
    for again in (beside.without_adapters(), pipe):
        np.testing.assert_array_equal(again("a waltz", **SONG).audio, plain.audio)


def test_the_adapters_put_on_last_replace_those_before(pipe, folders):
    first = pipe.with_adapters(folders / "official")
    assert first.with_adapters(folders / "diffusers").without_adapters() is pipe
    silent = first.with_adapters((folders / "official", 0.0))
    np.testing.assert_array_equal(
        silent("a waltz", **SONG).latents, pipe("a waltz", **SONG).latents
    )


def test_an_adapter_of_another_model_is_refused(pipe, tmp_path):
    other = dataclasses.replace(tiny.CONFIG, num_hidden_layers=4)
    spec = LoRA(rank=2)
    adapters.save_adapter(tmp_path, drawn(spec, 0, other), other)
    with pytest.raises(weights.CheckpointError, match="is no linear layer here"):
        pipe.with_adapters(tmp_path)


@pytest.mark.parametrize(
    "text, pair",
    [
        ("a/b", ("a/b", 1.0)),
        ("a/b:0.5", ("a/b", 0.5)),
        ("c:/a:-1", ("c:/a", -1.0)),
        ("c:/a", ("c:/a", 1.0)),
    ],
)
def test_the_command_reads_a_path_with_a_weight(text, pair):
    assert generate.read_adapter(text) == pair


def test_the_command_refuses_a_weight_that_is_no_number_to_multiply_by():
    with pytest.raises(songfiles.BadCall, match="use a finite number"):
        generate.read_adapter("a:nan")
