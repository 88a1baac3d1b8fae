"""A pipeline too small to be musical and otherwise complete, and a song for it to work on."""

import numpy as np
import pytest

from acestep_jax import units
from tests import tiny_pipeline


@pytest.fixture(scope="session")
def pipe():
    """See `tests.tiny_pipeline`."""
    return tiny_pipeline.pipe()


@pytest.fixture(scope="session")
def source():
    """A song of 12 s."""
    noise = np.random.default_rng(1).standard_normal((12 * units.SAMPLE_RATE, 2))
    return np.clip(0.1 * noise, -1, 1).astype(np.float32)
