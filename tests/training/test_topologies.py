"""Programs for devices that are not there: the form they take, and who compiles them."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import backends, dense
from acestep_jax.training import topologies
from acestep_jax.training.overrides import ConfigError

LIBTPU = importlib.util.find_spec("libtpu") is not None
CUDA = importlib.util.find_spec("jax_cuda12_plugin") is not None


def gradient_text():
    kernel, x = jnp.ones((4, 3)), jnp.ones((128, 4))
    return str(jax.make_jaxpr(jax.grad(lambda w: jnp.sum(dense.dense(x, w) ** 2)))(kernel))


def test_a_program_takes_the_form_of_the_device_that_is_assumed():
    assert backends.current() == jax.default_backend()
    with backends.assume("cpu"):
        here = gradient_text()
    with backends.assume("tpu"):
        assert backends.current() == "tpu"
        with backends.assume(None):  # nothing else is assumed
            assert backends.current() == "tpu"
        there = gradient_text()
    assert "optimization_barrier" in here and "optimization_barrier" not in there
    assert backends.current() == jax.default_backend()


def test_the_assumption_ends_with_an_error():
    with pytest.raises(RuntimeError), backends.assume("tpu"):
        raise RuntimeError
    assert backends.current() == jax.default_backend()


@pytest.mark.skipif(LIBTPU, reason="libtpu is installed")
def test_without_the_compiler_of_tpus_it_is_asked_for():
    with pytest.raises(ConfigError, match=r"v5p:2x2x2 cannot .*pip install libtpu"):
        topologies.describe("v5p:2x2x2")


@pytest.mark.skipif(CUDA, reason="the compiler of GPUs is installed")
def test_without_the_compiler_of_gpus_it_is_asked_for():
    with pytest.raises(ConfigError, match=r"h100:8 cannot .*jax\[cuda12\] for GPUs"):
        topologies.describe("h100:8")


@pytest.mark.parametrize(
    ("name", "count", "platform"),
    [
        pytest.param("v5e:2x2", 4, "tpu", marks=pytest.mark.skipif(not LIBTPU, reason="libtpu")),
        pytest.param("h100:2", 2, "gpu", marks=pytest.mark.skipif(not CUDA, reason="CUDA")),
    ],
)
def test_a_program_is_compiled_for_devices_that_are_not_there(name, count, platform):
    devices = topologies.describe(name)
    assert len(devices) == count and {device.platform for device in devices} == {platform}
    mesh = jax.sharding.Mesh(np.array(devices), ("x",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    x = jax.ShapeDtypeStruct((1024, 1024), jnp.bfloat16, sharding=rows)
    program = jax.jit(lambda x: jnp.tanh(x) @ jnp.ones((1024, 8), x.dtype)).lower(x).compile()
    assert program.memory_analysis().argument_size_in_bytes >= 2 * 1024 * 1024 // count
    with pytest.raises(ConfigError, match="v9:2x2 cannot be compiled for"):
        topologies.describe("v9:2x2")
