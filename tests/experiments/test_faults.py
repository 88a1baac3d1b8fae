"""The experiments that kill runs: who resumes soundly passes, who does not is found out."""

import itertools

import pytest

from acestep_jax.training import checkpoint
from experiments import faults, lives, meshes

NUM_STEPS = 6


@pytest.fixture(scope="module")
def trainer():
    return lives.discover(["vae"], NUM_STEPS)[0]


@pytest.fixture(scope="module")
def expected(trainer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("peace")
    return faults.run_in_peace(trainer, folder / "run", ("--set", "keep=100"))


@pytest.mark.slow  # tests/training/test_resume.py kills a run by default
@pytest.mark.timeout(900)
def test_a_killed_run_passes_if_it_goes_on_as_one_in_peace(trainer, expected, tmp_path):
    assert len({expected(step) for step in (1, 2, NUM_STEPS)}) == 3  # other states, other digests
    outcomes = list(itertools.islice(faults.kills(trainer, tmp_path, "0", expected), 2))
    assert [outcome.problem for outcome in outcomes] == ["", ""]
    assert all(outcome.story.partition(" ")[0] in faults.WAYS for outcome in outcomes)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_ends_elsewhere_is_found_out(trainer, tmp_path):
    outcome = next(faults.kills(trainer, tmp_path, "0", lambda step: f"another state of {step}"))
    assert "is another one" in outcome.problem


@pytest.mark.timeout(900)
@pytest.mark.slow  # tests/training/test_processes.py has two processes by default
def test_two_processes_of_which_one_is_killed_end_as_one(trainer, tmp_path):
    alone = meshes.run(trainer, "", tmp_path)
    together = meshes.run_together(trainer, 2, tmp_path)
    assert set(alone) >= {"loss/convergence", "loss/critic", "loss/matching"}
    # Sums in another order; after six steps that shows in the sixth digit or so
    assert meshes.largest_difference(together, alone) < 1e-4
    assert checkpoint.steps_on_disk(tmp_path / "vae-2")[-1] == NUM_STEPS


def test_every_trainer_with_a_nano_configuration_is_found():
    found = {trainer.name: trainer for trainer in lives.discover()}
    assert {"dit", "distill", "lora", "tokenizer", "vae"} <= set(found)
    for name in found:
        quick = lives.quick_form(name, 7)
        assert (quick.num_steps, quick.save_every) == (7, 1)
        phases = getattr(quick, "phases", ())
        assert not phases or sum(phase.num_steps for phase in phases) == 7
    with pytest.raises(ValueError, match="no trainer vea; there are"):
        lives.discover(["vea"])
