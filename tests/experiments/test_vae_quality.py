"""What is measured of the autoencoder: buzz at the frame rate, and means over tracks."""

import numpy as np
import pytest

from acestep_jax.units import SAMPLE_RATE
from experiments import vae_quality


def test_buzz_is_heard_at_multiples_of_the_frame_rate_alone():
    samples = 51 * SAMPLE_RATE // 25
    time = np.arange(samples)[None, :, None] / SAMPLE_RATE
    hiss = 0.01 * np.random.default_rng(0).standard_normal((2, samples, 2))
    assert np.abs(vae_quality.frame_buzz(hiss)).max() < 3  # 40 lines of exponential powers
    buzz = sum(np.sin(2 * np.pi * 25 * k * time) for k in range(1, 41))
    assert vae_quality.frame_buzz(hiss + 0.01 * buzz).min() > 20
    # a quarter tone beside the lines nothing stands out
    other = sum(np.sin(2 * np.pi * 25 * (k + 0.3) * time) for k in range(1, 41))
    assert vae_quality.frame_buzz(hiss + 0.01 * other).max() < 0


def test_intervals_hold_the_mean_and_shrink_with_tracks():
    rng = np.random.default_rng(0)
    few, many = (vae_quality.interval(rng.normal(3.0, 1.0, n)) for n in (8, 200))
    for mean, low, high in (few, many):
        assert low < mean < high
    assert many[2] - many[1] == pytest.approx(2 * 1.96 / np.sqrt(200), rel=0.2)
    assert few[2] - few[1] > 2 * (many[2] - many[1])


def test_too_few_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="names fewer than 10 files"):
        vae_quality.held_out(str(tmp_path / "*.flac"), 10, 2, 1000)
