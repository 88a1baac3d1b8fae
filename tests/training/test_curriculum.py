"""Batches in phases: each begins at its own start, and a position can be had again."""

import pytest

from acestep_jax.training.curriculum import PhasedBatches


class Counter:
    """Batches that are (name, number)."""

    def __init__(self, name):
        self.name, self.count, self.closed = name, 0, False

    def __next__(self):
        assert not self.closed
        self.count += 1
        return self.name, self.count - 1

    def get_state(self):
        return {"count": self.count}

    def set_state(self, state):
        self.count = state["count"]

    def close(self):
        self.closed = True

    def counts(self):
        return {"text2music": self.count}


def phases(lengths=(2, 3, 1)):
    return PhasedBatches(lengths, lambda i: Counter("abc"[i]))


EXPECTED = [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2), ("c", 0), ("c", 1)]


def test_each_phase_begins_at_its_own_start_and_the_last_goes_on():
    batches = phases()
    assert [next(batches) for _ in range(7)] == EXPECTED


@pytest.mark.parametrize("position", range(7))
def test_every_position_can_be_had_again(position):
    first, second = phases(), phases()
    for _ in range(position):
        next(first)
    second.set_state(first.get_state())
    assert [next(second) for _ in range(7 - position)] == EXPECTED[position:]
    assert second.get_state()["position"] == 7


def test_a_position_in_other_phases_is_refused():
    batches = phases()
    for _ in range(4):
        next(batches)
    with pytest.raises(ValueError, match="batch 4 in phase 1, but here that batch belongs to ph"):
        phases((9, 1)).set_state(batches.get_state())


def test_phases_without_steps_are_refused():
    for lengths in ((), (2, 0)):
        with pytest.raises(ValueError, match="every phase needs at least one"):
            phases(lengths)


def test_what_was_read_is_counted_over_all_phases():
    batches = phases()
    for _ in range(4):
        next(batches)
    assert batches.counts() == {"text2music": 4}
