"""Samples of teacher and student for the same held-out prompts."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.data import transforms
from acestep_jax.nn.model import Networks
from acestep_jax.training import compare, models
from acestep_jax.training import scene as scene_lib
from acestep_jax.training.compare import System
from acestep_jax.training.config import Data, Model
from acestep_jax.training.recipes.distill import Distill
from acestep_jax.training.scene import Scene
from acestep_jax.typing import Params
from experiments.distill import adherence
from experiments.distill.adherence import Asked

TEACHER = "asset:nano/acestep-v15-nano"
STUDENT = "asset:nano/acestep-v15-nano-turbo"
TEXT_ENCODER = "asset:nano/text_encoder"
VAE = "asset:nano/vae"
SEED = 20_000
"""Distance between the noises of two sets: more than there are prompts."""


class Stage(NamedTuple):
    """What both are sampled on.

    Attributes:
      networks: the modules, which they share.
      teacher: DiT parameters.
      scenes: conditions, batch by batch.
      asked: tempo and key that each prompt names.
    """

    networks: Networks
    teacher: Params
    scenes: list[Scene]
    asked: list[Asked]


def open_stage(
    teacher: str, prompts: int, batch: int = 16, shards: str = "", num_frames: int = 128
) -> Stage:
    """Loads the teacher and encodes held-out prompts.

    Raises:
      ValueError: if the prompts are no whole number of batches.
    """
    if prompts % batch:
        raise ValueError(f"{prompts} prompts are no whole number of batches of {batch}.")
    model = Model(weights=teacher, text_weights=TEXT_ENCODER)
    loaded = models.load(model)
    data = Data(shards=shards, batch_size=batch, num_frames=num_frames)
    batches = models.open_batches(Distill(name="evaluate", model=model, data=data), "validation")
    encode = jax.jit(lambda params, songs: scene_lib.encode(loaded.networks, params, songs))
    songs = [next(batches) for _ in range(prompts // batch)]
    scenes = [encode(loaded.params, jax.tree.map(jnp.asarray, batch)) for batch in songs]
    reader = transforms.load_tokenizer(str(models.tokenizer_folder(model)))
    texts = [text for batch in songs for text in reader.decode_batch(batch.text_tokens.tolist())]
    asked = [adherence.read_prompt(text) for text in texts]
    return Stage(loaded.networks, loaded.params["dit"], scenes, asked)


def load_student(where: str) -> Params:
    """Loads a student's DiT from a folder, a hub id or `asset:<folder>`."""
    return models.load(Model(weights=where, text_weights=TEXT_ENCODER)).params["dit"]


def sample(
    stage: Stage, params: Params, steps: int, shift: float, *, guidance: float = 1.0, seed: int = 0
) -> np.ndarray:
    """Samples every prompt once, from noise of its own: [N, T, C]."""
    songs, first = [], seed * SEED
    for scene in stage.scenes:
        system = System("", params, steps, guidance, first_seed=first)
        songs.append(np.asarray(compare.sample(stage.networks, system, scene, shift)))
        first += len(songs[-1])
    return np.concatenate(songs)


def decode(latents: np.ndarray, vae: str = VAE) -> np.ndarray:
    """Decodes songs: [N, T, C] -> [N, W, 2]."""
    network, params = models.load_vae(Model(vae_weights=vae))
    return compare.decode(network, params, jnp.asarray(latents))


def grid(steps: Sequence[int], shifts: Sequence[float]) -> list[tuple[int, float]]:
    """Lists every number of steps at every shift."""
    return [(count, shift) for count in steps for shift in shifts]
