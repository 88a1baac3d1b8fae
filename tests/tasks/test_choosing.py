"""Takes: their seeds, and which of them is kept."""

import numpy as np
import pytest

from acestep_jax.tasks import choosing
from acestep_jax.tasks.request import BadRequest, Request

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
