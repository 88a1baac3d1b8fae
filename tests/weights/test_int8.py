"""Eight-bit kernels: rounding within half a scale, only where meant, and what multiplies them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.nn import lora
from acestep_jax.nn.dit import DiT
from acestep_jax.nn.layers import Linear
from acestep_jax.nn.lora import LoRA
from acestep_jax.tasks import loading
from acestep_jax.weights import int8
from tests import tiny

RNG = np.random.default_rng(0)


def test_rounding_stays_within_half_a_scale():
    kernel = jnp.asarray(RNG.standard_normal((3, 40, 7)), jnp.float32).at[1, :, 2].set(0)
    leaves = int8.quantize_kernel(kernel)
    assert leaves["codes"].dtype == jnp.int8 and leaves["scale"].shape == (3, 7)
    assert (
        int(jnp.abs(leaves["codes"]).max(axis=1).min(initial=127, where=leaves["scale"] > 0)) == 127
    )
    error = jnp.abs(int8.dequantize_kernel(leaves) - kernel)
    assert (error <= 0.5001 * leaves["scale"][:, None]).all()  # float32 division
    assert not int8.dequantize_kernel(leaves)[1, :, 2].any()


def test_normal_kernels_lose_less_than_one_percent():
    kernel = jnp.asarray(RNG.standard_normal((2048, 16)), jnp.float32)
    error = int8.dequantize_kernel(int8.quantize_kernel(kernel)) - kernel
    # a scale is about 3.5 / 127 deviations, a uniform error scale / sqrt(12): 0.008
    assert 0.005 < jnp.linalg.norm(error) / jnp.linalg.norm(kernel) < 0.01


def test_a_linear_layer_multiplies_codes_as_it_would_their_kernel():
    kernel = jnp.asarray(RNG.standard_normal((8, 5)), jnp.float32)
    leaves, bias = int8.quantize_kernel(kernel), jnp.arange(5.0)
    x = jnp.asarray(RNG.standard_normal((3, 8)), jnp.float32)
    layer = Linear(5, use_bias=True)
    small = layer.apply({"params": leaves | {"bias": bias}}, x)
    whole = layer.apply({"params": {"kernel": int8.dequantize_kernel(leaves), "bias": bias}}, x)
    np.testing.assert_allclose(small, whole, rtol=1e-5, atol=1e-6)


def test_only_the_stacks_of_layers_are_quantised():
    params = tiny.params()
    small = int8.quantize(params)
    leaves = small["dit"]["layers"]["pairs"]["full"]["self_attn"]
    assert set(leaves["q_proj"]) == {"codes", "scale"} and leaves["q_norm"] is not None
    assert "codes" in small["text_encoder"]["layers"]["mlp"]["up_proj"]
    for name in ("proj_in", "time_embed", "scale_shift_table"):
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b),
                     small["dit"][name], params["dit"][name])  # fmt: skip
    assert small["text_encoder"]["embed_tokens"] is params["text_encoder"]["embed_tokens"]
    # measured 0.58: so small a network is half tables and norms
    assert int8.num_bytes(small) < 0.6 * int8.num_bytes(params)


def test_a_network_of_codes_is_the_network_of_their_kernels():
    small = int8.quantize(tiny.params()["dit"])
    tokens, context = tiny.conditions(1, 6)
    x_t, t = jnp.ones((1, 6, 4)), jnp.array([0.5])
    dit = jax.jit(DiT(tiny.CONFIG).apply)
    ours = dit({"params": small}, x_t, t, context, tokens)
    theirs = dit({"params": int8.dequantize(small)}, x_t, t, context, tokens)
    whole = dit({"params": tiny.params()["dit"]}, x_t, t, context, tokens)
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * float(jnp.abs(theirs).max()))
    assert 0 < jnp.linalg.norm(ours - whole) < 0.05 * jnp.linalg.norm(whole)


def test_adapters_go_beside_codes_and_not_into_them():
    params = tiny.params()["dit"]
    collection = lora.collection(lora.init(jax.random.key(0), params, LoRA(rank=2)), 1.0)
    small = int8.quantize(params)
    lora.check(small, collection)
    with pytest.raises(ValueError, match=r"8-bit; .* apply LoRA without merging"):
        lora.merge(small, collection)


def test_shapes_are_those_of_what_is_loaded():
    params = tiny.params()
    for stored in ("float32", "bfloat16", "int8"):
        shapes = loading.param_shapes(jax.eval_shape(lambda: params), stored)
        kept = {leaf.dtype for leaf in jax.tree.leaves(shapes)}
        wanted = {"float32": {"float32"}, "bfloat16": {"bfloat16"}}
        assert {str(x) for x in kept} == wanted.get(stored, {"bfloat16", "int8", "float32"})


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="use float32, bfloat16 or int8"):
        loading.load_parts("nano", stored="int4")
