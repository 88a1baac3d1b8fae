"""What the tests of pure functions share."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def x64() -> Iterator[None]:
    """Computes in float64, so that a law can be checked to twelve digits."""
    with jax.enable_x64(True):
        yield
