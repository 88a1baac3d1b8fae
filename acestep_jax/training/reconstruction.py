"""How well an autoencoder gives back what it is given, on clips that it was not trained on.

Every measure is one number a clip, so that means come with intervals, and systems are compared clip
by clip.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.nn.vae import VAE
from acestep_jax.ops import stft
from acestep_jax.training import processes
from acestep_jax.typing import Array, Params

ACTIVE_NATS = 0.1
"""A latent channel that tells less than this a frame, on average, counts as unused."""


@functools.partial(jax.jit, static_argnums=0)
def measure(vae: VAE, params: Params, clips: Array) -> dict[str, Array]:
    """Measures clips [N, W, 2] against their reconstruction from the posterior's mean.

    Returns:
      [N] each: spectral convergence and log_magnitude at the released resolutions (with a floor of
      -80 dB), mel_distance (0.1 is 2 dB a band), si_sdr_db, and what became of the stereo image:
      panning_error and width_error (`stft.stereo_error`).
      [C] each: latent_mean and latent_std of the posterior's means, posterior_std, and kl, nats a
      frame.
    """
    posterior = vae.apply({"params": params}, clips, method="encode")
    decoded = vae.apply({"params": params}, posterior.mean, method="decode")
    mean, std = posterior.mean, posterior.std
    return measure_sound(decoded, clips[:, : decoded.shape[1]]) | {
        "latent_mean": jnp.mean(mean, axis=(0, 1)),
        "latent_std": jnp.std(mean, axis=(0, 1)),
        "posterior_std": jnp.mean(std, axis=(0, 1)),
        "kl": jnp.mean(mean**2 + std**2 - 2 * jnp.log(std) - 1, axis=(0, 1)) / 2,
    }


def measure_sound(decoded: Array, audio: Array) -> dict[str, Array]:
    """Compares sounds [N, W, 2] of equal length with what they should be; see `measure`."""
    convergence, log_magnitude = stft.spectral_distance(decoded, audio)
    panning, width = stft.stereo_error(decoded, audio)
    return {
        "convergence": convergence,
        "log_magnitude": log_magnitude,
        "mel_distance": stft.mel_distance(decoded, audio),
        "si_sdr_db": stft.si_sdr(decoded, audio),
        "panning_error": panning,
        "width_error": width,
    }


def hear(vae: VAE, held_out: Mapping[str, np.ndarray], params: Params) -> dict[str, np.ndarray]:
    """Gives back the first held-out clip of every group as {group: audio [W, 2]}."""

    @jax.jit
    def give_back(params: Params, clip: Array) -> Array:
        posterior = vae.apply({"params": params}, clip[None], method="encode")
        return vae.apply({"params": params}, posterior.mean, method="decode")[0]

    return {name: processes.whole(give_back(params, clips[0])) for name, clips in held_out.items()}


def evaluate(vae: VAE, params: Params, held_out: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Measures every group of held-out clips; channels are summarised by mean and extremes."""
    results: dict[str, float] = {}
    for group, clips in held_out.items():
        numbers = jax.device_get(measure(vae, params, clips))
        for name, values in numbers.items():
            results[f"{group}/{name}"] = float(np.mean(values))
            if name.endswith(("latent_mean", "_std")):
                results[f"{group}/{name}_min"] = float(np.min(values))
                results[f"{group}/{name}_max"] = float(np.max(values))
        results[f"{group}/active_channels"] = float(np.sum(numbers["kl"] > ACTIVE_NATS))
    return results
