"""Takes: their seeds, and which of them is kept."""

import dataclasses
import pathlib

import numpy as np
import pytest

from acestep_jax.tasks import choosing
from acestep_jax.tasks.planning.planner import Planner
from acestep_jax.tasks.request import BadRequest, Request
from tests import tiny_pipeline

PLANNER = pathlib.Path(__file__).parents[1] / "parity/data/checkpoints/acestep-5Hz-lm-1.7B"

SUNG = Request(lyrics="la la la", duration=10.0, seed=5)


def test_takes_differ_in_their_seeds_alone():
    takes = choosing.repeat([SUNG, Request(instrumental=True)], 3)
    assert [take.seed for take in takes] == [5, 6, 7, 0, 1, 2]
    assert {take.lyrics for take in takes[:3]} == {"la la la"}


def test_the_best_take_of_each_request_is_kept():
    assert choosing.choose([np.array([0.1, 0.9, 0.3, 5.0, 2.0, 4.0])], 3) == [1, 3]


def test_scores_of_different_scale_count_alike():
    wide, narrow = np.array([0.0, 100.0, 90.0]), np.array([0.52, 0.5, 0.53])
    assert choosing.choose([wide, narrow], 3) == [2]  # second best and best, against best and worst
    assert choosing.choose([wide, np.full(3, 0.4)], 3) == [1]


@pytest.mark.parametrize(
    ("names", "request_", "said"),
    [
        (("aas", "loudness"), SUNG, r"scores \['loudness'\]; use aas, pmi"),
        ((), SUNG, "use aas, pmi"),
        (("aas",), Request(instrumental=True), "choose a song without them by pmi"),
    ],
)
def test_what_cannot_be_scored_is_refused(names, request_, said):
    with pytest.raises(BadRequest, match=said):
        choosing.check([SUNG, request_], names)


@pytest.mark.slow  # seven seconds of compilation
def test_codes_are_heard_whether_they_were_planned_or_read_from_the_song():
    pipe, planner = tiny_pipeline.pipe(), Planner.load(str(PLANNER))
    song = np.random.default_rng(0).standard_normal((250, tiny_pipeline.CHANNELS))
    song = song.astype(np.float32)
    own = choosing._codes_of(pipe, song)
    takes = [SUNG, dataclasses.replace(SUNG, codes=own), dataclasses.replace(SUNG, codes=(1,) * 50)]
    read, planned, other = choosing.information_scores(planner, pipe, takes, [song] * 3)
    assert len(own) == 50 and read == planned != other
    assert min(read, other) > 0 and max(read, other) < 1
