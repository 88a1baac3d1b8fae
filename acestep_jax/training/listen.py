"""Songs to hear while a run goes on: the same held-out prompts and noise at every round.

In a run: `run.listen(step + 1, listener, parts)`, which calls it when it is time.
"""

import functools
from collections.abc import Callable

import jax
import numpy as np

from acestep_jax.data.batch import Batch
from acestep_jax.nn.model import Networks
from acestep_jax.nn.vae import VAE
from acestep_jax.ops import timesteps
from acestep_jax.sampling import flow
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import models, processes
from acestep_jax.training import scene as scene_lib
from acestep_jax.training.config import Model, Samples
from acestep_jax.training.recipes.distill import Distill
from acestep_jax.training.recipes.dit import TrainDiT
from acestep_jax.training.recipes.tokenizer import TrainTokenizer
from acestep_jax.typing import Array, Params


class Listener:
    """Samples and decodes the songs of one batch with whatever parameters it is given."""

    def __init__(
        self,
        model: Model,
        plan: Samples,
        networks: Networks,
        batch: Batch,
        silence_latent: Array | None = None,
    ) -> None:
        """Loads the autoencoder.

        Args:
          model: which autoencoder, and whether padding is hidden.
          plan: steps, shift and guidance.
          networks: the modules.
          batch: held-out songs and prompts, placed on the mesh.
          silence_latent: [1, S, C] where covers are heard through their codes.

        Raises:
          ValueError: if the configuration names no autoencoder.
        """
        self._plan, self._batch = plan, batch
        vae, self._vae_params = models.load_vae(model)
        sample = functools.partial(_sample, networks, vae, plan, model.mask_padding, silence_latent)
        self._sample = jax.jit(sample)

    def __call__(self, parts: Params) -> dict[str, np.ndarray]:
        """Gives {name: audio [W, 2]}, on every process.

        Args:
          parts: {part: parameters}, those of `training.models.Loaded`.
        """
        audio = processes.whole(self._sample(parts, self._vae_params, self._batch))
        return {f"song_{i}": sound for i, sound in enumerate(audio[: self._plan.num_items])}


def open_listener(
    config: TrainDiT | TrainTokenizer | Distill,
    networks: Networks,
    mesh: jax.sharding.Mesh,
    silence_latent: Array | None = None,
) -> Callable[[Params], dict[str, np.ndarray]]:
    """Opens the first held-out batch of a run; without an autoencoder, nothing is to be heard.

    Args:
      config: the run.
      networks: the modules.
      mesh: where to sample.
      silence_latent: [1, S, C] where covers are heard through their codes.
    """
    if not config.model.vae_weights:
        return lambda parts: {}
    batch = next(models.open_batches(config, "validation"))
    placed = mesh_lib.place_batch(batch, mesh)
    return Listener(config.model, config.samples, networks, placed, silence_latent)


def _sample(
    networks: Networks,
    vae: VAE,
    plan: Samples,
    mask_padding: bool,
    silence_latent: Array | None,
    parts: Params,
    vae_params: Params,
    batch: Batch,
) -> Array:
    scene = scene_lib.encode(
        networks, parts, batch, mask_padding=mask_padding, silence_latent=silence_latent
    )
    velocity = scene_lib.guided_field(networks, parts["dit"], scene, plan.guidance_scale)
    noise = jax.random.normal(jax.random.key(0), scene.real.shape)
    times = timesteps.time_grid(plan.num_steps, plan.shift)
    latents = flow.integrate(velocity, noise, times)
    return vae.apply({"params": vae_params}, latents, method="decode")
