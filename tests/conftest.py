"""The strict session: CPU, eight simulated devices, no implicit rank promotion, warnings fatal.

Set before jax is imported anywhere. What tests compile is kept outside the checkout, and compiled
without the expensive passes: a test spends its time in the compiler, not in the program.
"""

import gc
import os
import pathlib

_HOME_CACHE = os.environ.get("XDG_CACHE_HOME") or str(pathlib.Path.home() / ".cache")
_FLAGS = (
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *_FLAGS)).strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{_HOME_CACHE}/acestep_jax/tests")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test downloads anything
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

# Traced programs are millions of objects that stay: looking through them again and again for
# garbage frees nothing.
gc.set_threshold(100_000, 50, 100)

jax.config.update("jax_numpy_rank_promotion", "raise")
flags.FLAGS.mark_as_parsed()  # grain reads absl flags


@pytest.fixture(scope="session")
def devices() -> list[jax.Device]:
    """The eight simulated devices."""
    found = jax.devices()
    assert len(found) == 8, "XLA_FLAGS was read before conftest could set it"
    return found


def pytest_sessionfinish() -> None:
    """Spares pytest's last collections, which are for leaks, what the caches hold."""
    gc.freeze()
