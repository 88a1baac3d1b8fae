"""The players of a distillation: student, teacher, fake score and discriminator.

game = game_lib.make_game(config, networks)
frozen = game_lib.separate(config, params)             # {"teacher": ..., "encoders": {part: ...}}
state = game_lib.make_state(game, frozen["teacher"])   # student, fake score, discriminator
players = game_lib.seat(game, state.params, frozen)    # all four, as modules take them
"""

import dataclasses
import pathlib
from typing import NamedTuple

import jax
import numpy as np

from acestep_jax.data.batch import Batch
from acestep_jax.nn import lora
from acestep_jax.nn.model import Networks
from acestep_jax.ops import timesteps
from acestep_jax.sampling import sampler
from acestep_jax.sampling.steering import Steering
from acestep_jax.training import adversary as adversary_lib
from acestep_jax.training import forms, models, processes, updates
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import scene as scene_lib
from acestep_jax.training.adversary import Adversary
from acestep_jax.training.recipes.distill import Distill
from acestep_jax.training.scene import Scene
from acestep_jax.training.state import TrainState
from acestep_jax.typing import Array, Params
from acestep_jax.weights import adapters


class Game(NamedTuple):
    """Configuration and modules of a run; parameters are arguments of everything that plays.

    Attributes:
      config: the run.
      networks: the modules; the DiT takes adapters beside its parameters.
      adversary: the discriminator, or None.
    """

    config: Distill
    networks: Networks
    adversary: Adversary | None


def make_game(config: Distill, networks: Networks) -> Game:
    """Puts the discriminator beside the networks."""
    networks = dataclasses.replace(networks, dit=lora.Adapted(networks.dit))
    adversary = adversary_lib.make_adversary(config.gan, networks, config.model.remat)
    return Game(config, networks, adversary)


def separate(config: Distill, params: Params) -> Params:
    """Separates the teacher from the encoders: {"teacher": ..., "encoders": {part: ...}}."""
    encoders = {name: value for name, value in params.items() if name != "dit"}
    frozen = {"teacher": params["dit"], "encoders": encoders}
    return models.cast(frozen, config.model.frozen_dtype)


def place(config: Distill, params: Params, mesh: jax.sharding.Mesh) -> Params:
    """Separates what is frozen and puts it on the mesh."""
    frozen = separate(config, params)
    return mesh_lib.place_params(frozen, mesh)


def make_state(game: Game, teacher: Params) -> TrainState:
    """Starts student and fake score as the teacher, and the discriminator at random."""
    config, key = game.config, jax.random.key(game.config.seed)
    params = {
        name: forms.start(config, name, jax.random.fold_in(key, 2 + i), teacher)
        for i, name in enumerate(("student", "fake"))
    }
    if game.adversary is not None:
        params["discriminator"] = game.adversary.init(jax.random.fold_in(key, 1), teacher)
    return updates.init_state(config, params)


def seat(game: Game, trained: Params, frozen: Params) -> Params:
    """Gives {"student", "fake", "discriminator", "teacher"}: parameters as modules take them."""
    teacher = frozen["teacher"]
    seated = {name: forms.attach(game.config, name, own, teacher) for name, own in trained.items()}
    return seated | {"teacher": teacher}


def parts(game: Game, state: TrainState, frozen: Params) -> Params:
    """Gives what a student samples with: its encoders, and its average as "dit", if it has one."""
    own = state.best("student")
    student = forms.attach(game.config, "student", own, frozen["teacher"])
    return frozen["encoders"] | {"dit": student}


def encode(game: Game, frozen: Params, batch: Batch) -> Scene:
    """Runs the frozen encoders on a batch, once for all networks."""
    masked = game.config.model.mask_padding
    return scene_lib.encode(game.networks, frozen["encoders"], batch, mask_padding=masked)


def export(
    game: Game,
    loaded: models.Loaded,
    state: TrainState,
    frozen: Params,
    silence_latent: np.ndarray,
    workdir: pathlib.Path,
) -> None:
    """Writes the student as safetensors, and its adapters, if it has any, in every naming.

    Args:
      game: configuration and modules.
      loaded: for the silence, if weights were loaded, and the networks' sizes.
      state: after the last step.
      frozen: {"teacher", "encoders"} parameters.
      silence_latent: [1, S, C], of the data (`models.common_silence`).
      workdir: of the run; all goes into its `export`.
    """
    config, own, folder = game.config, state.best("student"), workdir / "export"
    silence = models.common_silence(loaded, silence_latent)
    student = forms.merge(config, "student", own, frozen["teacher"])
    parts = frozen["encoders"] | {"dit": student}
    models.export(config.model, distilled(loaded), parts, silence, folder)
    if config.form != "lora":
        return
    adapter = adapters.Adapter(config.adapter, processes.whole(own))
    for layout in adapters.LAYOUTS if jax.process_index() == 0 else ():
        sizes = loaded.networks.config
        adapters.save_adapter(folder / "adapters" / layout, adapter, sizes, layout=layout)


def distilled(loaded: models.Loaded) -> models.Loaded:
    """Marks a model as one that samples in few steps without guidance, for who opens it."""
    sizes = dataclasses.replace(loaded.networks.config, model_version="turbo", is_turbo=True)
    networks = dataclasses.replace(loaded.networks, config=sizes)
    return dataclasses.replace(loaded, networks=networks)


def guided_songs(game: Game, teacher: Params, scene: Scene, noise: Array) -> Array:
    """Carries noise [B, T, C] to songs by the teacher's guided ODE, in `warmup.teacher_steps`."""
    config = game.config
    field = sampler.make_field(
        game.networks.dit,
        teacher,
        scene.tokens,
        scene.mask,
        scene.context,
        scene.frame_mask,
        null=scene.null,
        steering=steering(config),
    )
    times = timesteps.time_grid(config.warmup.teacher_steps, config.evaluation.shift)
    return sampler.steered_trajectory(field, noise, times)[0]


def steering(config: Distill) -> Steering:
    """Says how the teacher is guided; at strength 1 it is not."""
    if config.guidance_scale == 1.0:
        return Steering()
    return Steering(rule=config.guidance_rule, scale=config.guidance_scale)
