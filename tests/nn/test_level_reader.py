"""Levels of windows, and the contrast between channels."""

import numpy as np
import pytest

from acestep_jax.nn import level_reader
from acestep_jax.nn.level_reader import LEVEL_FLOOR


def test_levels_are_log_root_mean_squares_of_whole_windows():
    latents = np.zeros((1, 12, 2), np.float32)
    latents[0, :5, 0] = (3, -3, 3, -3, 3)  # loud with any sign
    latents[0, 5:10, 1] = (0, 0, 0, 0, 5)
    latents[0, 10:] = 100  # no whole window
    levels = level_reader.window_levels(latents, 5)
    assert levels.shape == (1, 2, 2)
    silent = np.log(LEVEL_FLOOR)
    expected = [[np.log(3), silent], [silent, 0.5 * np.log(5)]]
    np.testing.assert_allclose(levels[0], expected, atol=1e-4)


def test_contrast_damps_what_channels_have_in_common():
    rng = np.random.default_rng(0)
    common, own = rng.normal(size=(4000, 1)), rng.normal(size=(4000, 6))
    levels = 5 * common + own + 3
    contrast = level_reader.fit_contrast(levels.reshape(40, 100, 6), 1)
    mapped = contrast(levels)
    np.testing.assert_allclose(mapped.mean(0), 0, atol=1e-4)
    variances = np.linalg.eigvalsh(np.cov(mapped.T))
    np.testing.assert_allclose(variances, 1, atol=0.15)  # from 151 to 1, and the others as before
    untouched = level_reader.fit_contrast(levels, 0)
    np.testing.assert_allclose(untouched.matrix, np.eye(6), atol=1e-5)


def test_as_many_directions_as_channels_are_refused():
    with pytest.raises(ValueError, match=r"directions=3 must lie in \[0, 3\)"):
        level_reader.fit_contrast(np.zeros((5, 3)), 3)
