"""Convolutions as matrix products, against their textbook forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import convolution


def _textbook_conv(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride,), [(padding, padding)], dimension_numbers=("NWC", "WIO", "NWC")
    )


@pytest.mark.parametrize(("samples", "stride", "padding"), [(24, 4, 2), (29, 4, 2), (17, 3, 2)])
def test_a_strided_convolution_is_two_matrix_products(samples, stride, padding):
    x_key, kernel_key = jax.random.split(jax.random.key(0))
    x = jax.random.normal(x_key, (2, samples, 5))
    kernel = jax.random.normal(kernel_key, (2 * stride, 5, 7))
    expected = _textbook_conv(x, kernel, stride, padding)
    ours = convolution.strided_conv(x, kernel, stride=stride, padding=padding)
    np.testing.assert_allclose(ours, expected, atol=2e-5)  # float32 sums of 40 products


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (3, 2), (6, 3)])
def test_a_transposed_convolution_is_the_adjoint_of_the_strided_one(stride, padding):
    x_key, kernel_key = jax.random.split(jax.random.key(1))
    x = jax.random.normal(x_key, (2, 9, 5))
    kernel = jax.random.normal(kernel_key, (2 * stride, 5, 7))
    ours = convolution.transposed_conv(x, kernel, stride=stride, padding=padding)
    shape = jax.ShapeDtypeStruct((*ours.shape[:2], 7), jnp.float32)

    def forward(y):
        return _textbook_conv(y, kernel.transpose(0, 2, 1), stride, padding)

    (expected,) = jax.linear_transpose(forward, shape)(x)
    np.testing.assert_allclose(ours, expected, atol=2e-5)  # float32 sums of 10 products


def test_a_kernel_of_another_length_is_refused():
    with pytest.raises(ValueError, match="7 taps; this form needs two strides, 8"):
        convolution.strided_conv(jnp.zeros((1, 16, 1)), jnp.zeros((7, 1, 1)), stride=4, padding=2)


@pytest.mark.parametrize("axis", [1, 2])
def test_a_weight_normed_kernel_has_the_length_of_its_gain_and_the_direction_of_its_kernel(axis):
    kernel = jax.random.normal(jax.random.key(0), (4, 3, 5))
    gain = jnp.arange(1.0, 1 + kernel.shape[axis])
    normed = convolution.weight_norm(gain, kernel, axis=axis)
    np.testing.assert_allclose(convolution.kernel_norm(normed, axis=axis), gain, rtol=1e-6)
    same = convolution.weight_norm(convolution.kernel_norm(kernel, axis=axis), kernel, axis=axis)
    np.testing.assert_allclose(same, kernel, rtol=1e-6)
