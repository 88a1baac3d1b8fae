"""Tells from a window's code how loud each channel of the latents is there.

A helper of the tokenizer's training (train/tokenizer.py), in no released checkpoint: latents like
those of a lapped transform change their sign from frame to frame, so their mean over a window tells
nothing of a note that sounds all through it, but their loudness does.

Levels of different channels rise and fall together, and a code that tells only this leaves least
unexplained. `Contrast` brings what they have in common down to what tells them apart.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from acestep_jax.nn.layers import Linear
from acestep_jax.typing import Array

LEVEL_FLOOR = 1e-2
"""Root mean square that counts as silent, of latents whose deviation is about one."""


def window_levels(latents: Array, window: int) -> Array:
    """Measures log root mean squares over whole windows: [B, T, C] -> [B, T // window, C]."""
    batch, length, channels = latents.shape
    whole = latents[:, : length - length % window].reshape(batch, -1, window, channels)
    return 0.5 * jnp.log(jnp.mean(whole**2, axis=2) + LEVEL_FLOOR**2)


class Contrast(NamedTuple):
    """A linear map of levels: (levels - mean) @ matrix.

    Attributes:
      mean: [C].
      matrix: [C, C], symmetric.
    """

    mean: np.ndarray
    matrix: np.ndarray

    def __call__(self, levels: Array) -> Array:
        """Maps levels [..., C]."""
        mean = self.mean.reshape((1,) * (levels.ndim - 1) + self.mean.shape)
        return (levels - mean) @ self.matrix


def fit_contrast(levels: np.ndarray, directions: int) -> Contrast:
    """Scales the largest principal directions of levels [..., C] to the variance of the next one.

    Raises:
      ValueError: if there are not more channels than `directions`.
    """
    rows = np.asarray(levels, np.float64).reshape(-1, levels.shape[-1])
    if not 0 <= directions < rows.shape[1]:
        raise ValueError(f"directions={directions} must lie in [0, {rows.shape[1]}).")
    mean = rows.mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov(rows.T))  # in rising order
    next_one = variances[-1 - directions]
    gains = np.sqrt(np.minimum(1.0, next_one / np.maximum(variances, 1e-12)))
    return Contrast(np.float32(mean), np.float32((axes * gains) @ axes.T))


class LevelReader(nn.Module):
    """Reads such levels off quantised vectors: [..., D] -> [..., C].

    Attributes:
      channels: of the latents (C).
      width: of the hidden layer. Vectors are linear in the few channels of FSQ, and no linear
        reading of those could tell more than as many numbers.
    """

    channels: int
    width: int = 256

    @nn.compact
    def __call__(self, vectors: Array) -> Array:
        hidden = nn.gelu(Linear(self.width, use_bias=True, name="hidden")(vectors))
        return Linear(self.channels, use_bias=True, name="levels")(hidden)
