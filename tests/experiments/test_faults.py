"""The experiment that kills runs: a run that resumes soundly passes."""

import sys

import pytest

from acestep_jax.training import checkpoint
from experiments import faults
from tests.training import toy_run

TOY = faults.Trainer("toy", (sys.executable, toy_run.__file__), 12)


@pytest.mark.timeout(900)
def test_a_killed_run_passes_if_it_ends_as_one_in_peace(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(faults.ROOT))
    expected = faults.run_to_end(TOY, tmp_path / "peace")
    assert checkpoint.digest(tmp_path / "peace", 9) != expected  # another state, another digest
    struck = faults.trial(TOY, tmp_path / "struck", "kill", "0", expected, 0.01)
    assert struck.problem == ""
    assert struck.story.startswith("kill at step ")


def test_every_trainer_with_a_nano_configuration_is_found():
    found = {trainer.name: trainer for trainer in faults.discover()}
    assert {"dit", "distill", "vae"} <= set(found)
    assert all(trainer.num_steps >= 4 for trainer in found.values())
    with pytest.raises(ValueError, match="no trainer vea; there are"):
        faults.discover(["vea"])
