"""Songs at once and one after another are the same songs, and both are timed."""

from experiments import parallel
from tests import tiny_pipeline


def test_both_ways_are_timed_a_song():
    found = parallel.measure(tiny_pipeline.pipe(), 10.0, 2, 1)
    assert all(value > 0 for value in found.values())
    assert found["share"] == found["together_s"] / found["alone_s"]


def test_requests_differ_in_their_seed_alone():
    made = parallel.requests(3, 12.0)
    assert [request.seed for request in made] == [0, 1, 2]
    assert len({request.lyrics for request in made}) == 1 and made[0].lyrics.count("\n") == 3
