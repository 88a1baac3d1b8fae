"""How loud a finished song is."""

import jax.numpy as jnp

from acestep_jax.typing import Array

PEAK_DECIBELS = -1.0
"""Peak of a finished song below full scale; the release's default."""


def normalize_peak(audio: Array, decibels: float = PEAK_DECIBELS) -> Array:
    """Scales each song [..., W, channels] so that its largest sample lies `decibels` from 1.

    Silence stays silent.
    """
    peak = jnp.max(jnp.abs(audio), axis=(-2, -1), keepdims=True)
    return audio * jnp.where(peak > 0, 10 ** (decibels / 20) / jnp.where(peak > 0, peak, 1.0), 1.0)
