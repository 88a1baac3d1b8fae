"""The released-layout checkpoints of the parity folder, and copies that tests may damage."""

import shutil
from pathlib import Path

import pytest

CHECKPOINTS = Path(__file__).parents[1] / "parity" / "data" / "checkpoints"


@pytest.fixture
def checkpoints():
    """Folder of tiny checkpoints in the official layout."""
    return CHECKPOINTS


@pytest.fixture
def copy_of(tmp_path):
    """Copies a checkpoint to where it may be damaged."""

    def copy(name):
        target = tmp_path / name
        shutil.copytree(CHECKPOINTS / name, target)
        return target

    return copy
