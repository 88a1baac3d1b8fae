"""What a distillation is judged by: few steps beside many, from the same prompts and noise.

Sampled are: the teacher with many guided steps, which is the reference; the teacher as it is with
few unguided steps, which is what distillation starts from; the student with the same few.

Distances to the reference are of two kinds. The *pair* errors compare songs that grew from the same
noise: zero only if the student follows the teacher's ODE, which distribution matching does not ask
for. The *law* distances compare sets of songs: zero if a listener could not tell the sets apart.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.data import transforms
from acestep_jax.data.batch import Batch
from acestep_jax.nn.model import Networks
from acestep_jax.nn.vae import VAE
from acestep_jax.ops import distances, timesteps
from acestep_jax.sampling import flow, sampler
from acestep_jax.sampling.steering import Rule, Steering
from acestep_jax.training import models, processes, sound
from acestep_jax.training.recipes.distill import Distill
from acestep_jax.training.scene import Scene
from acestep_jax.typing import Array, Params

WINDOW_FRAMES = 8
"""Latent frames of a window whose law is compared: a third of a second."""


@dataclasses.dataclass(frozen=True)
class System:
    """One way of sampling: a name, whose parameters, steps, guidance, and the first item's seed."""

    name: str
    params: Params
    num_steps: int
    guidance_scale: float = 1.0
    first_seed: int = 0
    guidance_rule: Rule = "cfg"


def systems(config: Distill, teacher: Params, student: Params) -> list[System]:
    """Lists what is compared. The first is the reference, the last the reference from other noise.

    That last row shows how small each distance can be between sets of this size.
    """
    plan = config.evaluation
    name = f"teacher, {plan.teacher_steps} guided steps"
    guidance = {"guidance_scale": config.guidance_scale, "guidance_rule": config.guidance_rule}
    reference = System(name, teacher, plan.teacher_steps, **guidance)
    again = dataclasses.replace(reference, name="the same, other noise", first_seed=10_000)
    few = [
        System(f"{name}, {count} steps", params, count)
        for name, params in (("undistilled teacher", teacher), ("student", student))
        for count in plan.student_steps
    ]
    return [reference, *few, again]


def sample(networks: Networks, system: System, scene: Scene, shift: float) -> Array:
    """Samples every prompt of the scene; item i starts from the noise of seed first_seed + i."""
    items, frames, channels = scene.real.shape
    seeds = system.first_seed + jnp.arange(items)
    noise = flow.initial_noise(flow.item_keys(seeds), frames, channels)
    run = sampler.make_sampler(networks.dit)
    guided = system.guidance_scale != 1.0
    times = timesteps.time_grid(system.num_steps, shift)
    return run(
        system.params,
        noise,
        scene.tokens,
        scene.mask,
        scene.context,
        scene.frame_mask,
        times,
        null=scene.null,
        steering=Steering(rule=system.guidance_rule, scale=system.guidance_scale)
        if guided
        else None,
    )


def captions(batch: Batch, tokenizer: pathlib.Path) -> list[str]:
    """Reads the captions back from the tokens of a batch; `tokenizer` is its folder."""
    reader = transforms.load_tokenizer(str(tokenizer))
    texts = [reader.decode(list(map(int, ids))) for ids in np.asarray(batch.text_tokens)]
    return [text.partition("# Caption")[2].partition("#")[0].strip() or text for text in texts]


def decode(vae: VAE, params: Params, latents: Array) -> np.ndarray:
    """Decodes songs one after another: [B, T, C] -> [B, 1920 T, 2]."""
    one = jax.jit(lambda p, z: vae.apply({"params": p}, z[None], method="decode")[0])
    return np.stack([np.asarray(one(params, song)) for song in latents])


def measure(latents: Array, reference: Array, other: Array, real: Array) -> dict[str, float]:
    """Compares sampled latents [B, T, C] with the reference's and with real songs.

    Pairs are those with `reference`, of the same noise; laws are compared with `other`, made by the
    same system from other noise: the estimate of a distance of laws wants independent sets.
    """

    def law(x: Array, y: Array) -> Array:
        cut = [distances.windows(z, WINDOW_FRAMES) for z in (x, y)]
        return distances.energy_distance(*cut)

    return {
        "pair error": float(jnp.mean(distances.relative_error(latents, reference))),
        "law": float(law(latents, other)),
        "law to real songs": float(law(latents, real)),
        "spread": float(distances.spread(latents)),
    }


def compare(
    config: Distill, networks: Networks, teacher: Params, student: Params, scene: Scene
) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """Samples every system and measures it.

    Returns:
      {system: {measure: number}}, and {system: audio [B, W, 2]} if there is an autoencoder.
    """
    plan = config.evaluation
    listed = systems(config, teacher, student)
    latents = {s.name: processes.whole(sample(networks, s, scene, plan.shift)) for s in listed}
    (first, *_, last), real = latents, processes.whole(scene.real)
    table = {
        name: measure(x, latents[first], latents[first if name == last else last], real)
        for name, x in latents.items()
    }
    if not config.model.vae_weights:
        return table, {}
    vae, params = models.load_vae(config.model)
    audio = {name: decode(vae, params, x) for name, x in latents.items()}
    for name, song in audio.items():
        table[name] |= sound.measure(song, audio[first])
    return table, audio
