"""Operations are counted as the program runs them; peaks are those of the attached device."""

import types

import jax
import jax.numpy as jnp
import pytest

from acestep_jax.training import flops

X, W = jnp.ones((4, 8)), jnp.ones((3, 8, 8))


def chain(x, kernels):
    """Multiplies by three kernels in turn: 3 x 2 x 4 x 8 x 8 operations."""
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, kernels)[0].sum()


def test_scanned_layers_count_as_often_as_they_run():
    assert flops.count(chain, X, W) == 3 * 2 * 4 * 8 * 8
    assert flops.count(jax.jit(chain), X, W) == 3 * 2 * 4 * 8 * 8


def test_a_gradient_costs_two_products_more_and_recomputation_one():
    forward = flops.count(chain, X, W)
    assert flops.count(jax.jit(jax.grad(chain, (0, 1))), X, W) == 3 * forward
    assert flops.count(jax.grad(jax.checkpoint(chain), (0, 1)), X, W) == 4 * forward


def test_a_branch_counts_as_its_longest_side():
    def either(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)

    assert flops.count(either, X, W[0]) == 2 * 2 * 4 * 8 * 8


def test_a_convolution_counts_its_taps():
    x, kernel = jnp.ones((2, 16, 6)), jnp.ones((3, 6, 5))

    def convolve(x, kernel):
        layout = ("NWC", "WIO", "NWC")
        return jax.lax.conv_general_dilated(x, kernel, (2,), "SAME", dimension_numbers=layout)

    assert flops.count(convolve, x, kernel) == 2 * (2 * 8 * 5) * (3 * 6)


@pytest.mark.parametrize(
    ("kind", "rate"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756.5e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v4", 275e12),
        ("TPU7x", 1153.5e12),
        ("cpu", None),
    ],
)
def test_known_devices_have_a_peak(kind, rate):
    assert flops.peak(types.SimpleNamespace(device_kind=kind)) == rate
