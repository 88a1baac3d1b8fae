"""Buckets hold every length, waste little and are few."""

import pytest

from acestep_jax import units
from acestep_jax.sampling import buckets


def test_a_bucket_holds_its_length_and_wastes_at_most_an_eighth_beyond_41_seconds():
    for frames in range(1, units.MAX_FRAMES + 1, 7):
        bucket = buckets.frame_bucket(frames)
        assert bucket >= frames and bucket % 128 == 0
        if frames > 1024:
            assert bucket - frames < frames / 8 + 1


def test_ten_minutes_of_durations_need_few_programs():
    assert len({buckets.frame_bucket(n) for n in range(1, units.MAX_FRAMES + 1)}) <= 16 + 8 * 3


@pytest.mark.parametrize("frames", [0, -3, units.MAX_FRAMES + 1])
def test_a_length_no_song_has_is_refused(frames):
    with pytest.raises(ValueError, match="1 to 15000"):
        buckets.frame_bucket(frames)


def test_token_buckets_stop_at_the_limit_and_refuse_more():
    assert buckets.token_bucket(0, 256) == 32
    assert buckets.token_bucket(250, 256) == 256
    assert buckets.token_bucket(2000, 2048) == 2048
    with pytest.raises(ValueError, match="at most 256"):
        buckets.token_bucket(257, 256)
