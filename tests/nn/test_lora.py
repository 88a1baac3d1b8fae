"""Adapters: nothing at the start, merging is applying, and no trace when they are gone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.nn import lora
from acestep_jax.nn.dit import DiT
from acestep_jax.nn.layers import Linear
from acestep_jax.nn.lora import LoRA
from tests import tiny

# A pair of scanned layers, and one that stands alone
CONFIG = dataclasses.replace(tiny.CONFIG, num_hidden_layers=3)
SPEC = LoRA(rank=2, alpha=6.0, dropout=0.5)
DIT = lora.Adapted(DiT(CONFIG))
TOKENS, CONTEXT = tiny.conditions(2, 9)
X_T = jax.random.normal(jax.random.key(7), (2, 9, 4))
TIMES = jnp.array([0.9, 0.4])


def drawn(shapes, seed=0):
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(seed)
    return tree.unflatten([0.2 * rng.standard_normal(x.shape, np.float32) for x in leaves])


@functools.cache
def base():
    return drawn(
        jax.eval_shape(
            lambda: DiT(CONFIG).init(jax.random.key(0), X_T, TIMES, CONTEXT, TOKENS)["params"]
        )
    )


def fresh(spec=SPEC):
    return jax.jit(lambda: lora.init(jax.random.key(0), base(), spec))()


@functools.cache
def trained(seed=0, targets=SPEC.targets):
    """Adapters of which no number is zero."""
    spec = dataclasses.replace(SPEC, targets=targets)
    return drawn(jax.eval_shape(lambda: lora.init(jax.random.key(0), base(), spec)), seed)


@jax.jit
def velocity(params):
    return DIT.apply({"params": params}, X_T, TIMES, CONTEXT, TOKENS)


def same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def assert_close(left, right):
    # float32 through three layers, products in another order; measured 3e-7
    assert np.linalg.norm(left - right) <= 5e-6 * np.linalg.norm(right)


def test_a_fresh_adapter_changes_no_bit():
    adapted = lora.WithAdapters(base(), lora.collection(fresh(), SPEC.scale))
    plain = velocity(base())
    np.testing.assert_array_equal(velocity(adapted), plain)
    np.testing.assert_array_equal(velocity(lora.WithAdapters(base(), {})), plain)


def test_fresh_adapters_are_drawn_as_peft_draws_them():
    leaves = fresh(LoRA(rank=64))["layers"]["pairs"]["full"]["self_attn"]["o_proj"]
    assert leaves["lora_a"].shape == (1, 32, 64)  # out of 4 heads of 8, stacked over pairs
    assert not leaves["lora_b"].any()
    bound = 1 / np.sqrt(32)  # Kaiming's uniform law with a = sqrt(5)
    assert np.abs(leaves["lora_a"]).max() <= bound
    # 2,048 uniform draws: the deviation is bound / sqrt(3), within 4 standard errors
    assert leaves["lora_a"].std() == pytest.approx(bound / np.sqrt(3), rel=0.04)


def test_merging_is_applying_and_leaves_no_trace():
    collection = lora.collection(trained(), SPEC.scale)
    before = jax.tree.map(np.array, base())
    adapted = velocity(lora.WithAdapters(base(), collection))
    merged = jax.jit(lora.merge)(base(), collection)
    assert_close(velocity(merged.params), adapted)
    assert np.linalg.norm(adapted - velocity(base())) > 0.01 * np.linalg.norm(adapted)
    assert same(lora.unmerge(merged), before)
    assert same(base(), before)
    assert len(jax.tree.leaves(merged.originals)) == 3 * 8  # of two stacks and a layer


def test_bfloat16_kernels_come_back_too():
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), base())
    merged = jax.jit(lora.merge)(half, lora.collection(trained(), 0.01))
    assert {x.dtype for x in jax.tree.leaves(merged.params)} == {jnp.bfloat16.dtype}
    assert same(lora.unmerge(merged), half)


def test_adapters_of_different_targets_and_ranks_add_up():
    one = lora.collection(trained(), 0.7)
    two = lora.collection(trained(1, ("self_attn.q_proj", "condition_embedder")), -1.5)
    both = velocity(lora.WithAdapters(base(), lora.combine([one, two])))
    merge = jax.jit(lambda params, adapters: lora.merge(params, adapters).params)
    in_turn = merge(merge(base(), one), two)
    assert_close(velocity(in_turn), both)


def test_dropout_needs_a_key_and_reaches_the_scanned_layers():
    targets = ("self_attn.q_proj", "self_attn.v_proj")
    scanned = {"layers": {"pairs": trained(0, targets)["layers"]["pairs"]}}
    collection = lora.collection(scanned, SPEC.scale, SPEC.dropout)
    still = velocity(lora.WithAdapters(base(), lora.collection(scanned, SPEC.scale)))
    np.testing.assert_array_equal(velocity(lora.WithAdapters(base(), collection)), still)
    keys = [jax.random.key(0), jax.random.key(1), jax.random.key(0)]
    drawn = [velocity(lora.WithAdapters(base(), collection, key)) for key in keys]
    np.testing.assert_array_equal(drawn[0], drawn[2])
    for left, right in ((drawn[0], still), (drawn[0], drawn[1])):
        assert np.linalg.norm(left - right) > 1e-3 * np.linalg.norm(still)


def test_dropout_keeps_the_mean():
    x = jnp.ones((4000, 8))
    leaves = {
        "lora_a": jnp.eye(8),
        "lora_b": jnp.eye(8),
        "scale": jnp.ones(8),
        "dropout": jnp.float32(0.25),
    }
    variables = {"params": {"kernel": jnp.zeros((8, 8))}, "lora": leaves}
    y = Linear(8).apply(variables, x, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
    assert y.mean() == pytest.approx(1, abs=0.013)  # 4 standard errors of 32,000 draws


@pytest.mark.parametrize("target", ["query", "self_attn.qproj", "proj_in", "q_norm"])
def test_a_target_that_is_no_linear_layer_is_refused_with_those_there_are(target):
    with pytest.raises(ValueError, match=rf"{target}.*names no linear layer.*o_proj, q_proj"):
        lora.init(jax.random.key(0), base(), LoRA(targets=("q_proj", target)))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"rank": 0}, "rank=0 must be 1 or more"),
        ({"alpha": 0.0}, "alpha=0.0 must be positive"),
        ({"dropout": 1.0}, "dropout=1.0 must lie"),
        ({"targets": ()}, "targets is empty; the release adapts q_proj"),
    ],
)
def test_an_adapter_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LoRA(**fields)


def test_adapters_of_another_base_are_refused_all_at_once():
    other = jax.tree.map(lambda x: x, base())
    other["layers"]["last"] = {"mlp": other["layers"]["last"]["mlp"]}
    leaves = other["layers"]["pairs"]["full"]["cross_attn"]["q_proj"]
    leaves["kernel"] = jnp.zeros((1, 20, 32))
    with pytest.raises(ValueError) as refused:
        lora.merge(other, lora.collection(trained(), 1.0))
    text = str(refused.value)
    assert "layers/last/self_attn/q_proj is no linear layer of the base" in text
    assert "full/cross_attn/q_proj fits (1, 24, 32), the base has (1, 20, 32)" in text
