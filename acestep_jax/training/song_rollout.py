"""Songs for reinforcement: sampled in groups, with the steps that drew where probabilities count.

    setting = make_setting(config, networks)
    songs = roll_out(setting, state, frozen, prompts)               # latents [N M, T, C]

One rollout serves both algorithms. Flow-GRPO samples from the policy, in a window of whose steps
noise is drawn; negative-aware fine-tuning samples from the old policy along the ODE.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from acestep_jax.data.batch import Batch
from acestep_jax.nn import lora
from acestep_jax.nn.model import Networks
from acestep_jax.ops import flow_policy, timesteps
from acestep_jax.ops.solvers import VelocityFn
from acestep_jax.tasks.alignment import Reading
from acestep_jax.training import alignment_reward, forms
from acestep_jax.training import scene as scene_lib
from acestep_jax.training import state as state_lib
from acestep_jax.training.alignment_reward import Lyrics
from acestep_jax.training.recipes.grpo_dit import GrpoDiT
from acestep_jax.training.scene import Scene
from acestep_jax.training.state import TrainState
from acestep_jax.typing import Array, Key, Params


class Setting(NamedTuple):
    """What steps need besides arrays.

    Attributes:
      config: the run.
      networks: modules, whose DiT takes adapters beside its parameters.
      reading: how songs are read.
    """

    config: GrpoDiT
    networks: Networks
    reading: Reading


class Prompts(NamedTuple):
    """N prompts: a batch, of whose songs nothing but the length is used, and its lyrics."""

    batch: Batch
    lyrics: Lyrics


class Path(NamedTuple):
    """The steps of a sampler that drew; W of them.

    Attributes:
      states: [W + 1, B, T, C].
      times: [W + 1].
      log_probs: of what was drawn [W, B].
    """

    states: Array
    times: Array
    log_probs: Array


class Songs(NamedTuple):
    """What was rolled out: B = N M songs, those for one prompt side by side.

    Attributes:
      scene: their conditions.
      lyrics: of them.
      latents: [B, T, C].
      path: how they came about; None where nothing drew.
    """

    scene: Scene
    lyrics: Lyrics
    latents: Array
    path: Path | None


def make_setting(config: GrpoDiT, networks: Networks) -> Setting:
    """Lets the DiT take adapters beside its parameters, and finds the heads that are read."""
    heads = alignment_reward.find_heads(config.reward, config.model, networks.config)
    networks = dataclasses.replace(networks, dit=lora.Adapted(networks.dit))
    return Setting(config, networks, alignment_reward.reading(config.reward, heads))


def attach(setting: Setting, own: Params, frozen: Params) -> Params:
    """Gives what the DiT is applied with: trained weights, or the start with adapters."""
    config = setting.config
    return forms.FORMS[config.form].attach(own, frozen["start"], config.adapter)


def velocity_of(
    setting: Setting, params: Params, scene: Scene, *, once: bool = False
) -> VelocityFn:
    """Closes a DiT over the scene, guided if the run is; `once` as in `scene.field`."""
    guidance = setting.config.guidance_scale
    return scene_lib.guided_field(setting.networks, params, scene, guidance, once=once)


def sampling_policy(config: GrpoDiT) -> str:
    """Names the network that songs are sampled from."""
    return "old" if config.algorithm == "nft" else "policy"


# Rollout: two ways to songs -----------------------------------------------------------------------


def prepare(setting: Setting, frozen: Params, prompts: Prompts) -> tuple[Scene, Lyrics]:
    """Encodes prompts once and repeats them for the songs of their groups."""
    masked = setting.config.model.mask_padding
    scene = scene_lib.encode(
        setting.networks, frozen["encoders"], prompts.batch, mask_padding=masked
    )
    repeat = functools.partial(jnp.repeat, repeats=setting.config.group, axis=0)
    null = scene.null  # one row for all
    return jax.tree.map(repeat, scene).replace(null=null), jax.tree.map(repeat, prompts.lyrics)


def first_noise(config: GrpoDiT, shape: tuple[int, ...], key: Key) -> Array:
    """Draws the noise that songs begin at: each its own, or one for a group."""
    if config.algorithm == "flow_grpo" and config.flow_grpo.share_noise:
        one = jax.random.normal(key, (shape[0] // config.group, *shape[1:]))
        return jnp.repeat(one, config.group, axis=0)
    return jax.random.normal(key, shape)


def roll_out(setting: Setting, state: TrainState, frozen: Params, prompts: Prompts) -> Songs:
    """Samples M songs for every prompt."""
    config = setting.config
    noise_key, draw_key = jax.random.split(state_lib.step_key(state))
    scene, lyrics = prepare(setting, frozen, prompts)
    sampler = attach(setting, state.params[sampling_policy(config)], frozen)
    velocity = velocity_of(setting, sampler, scene)
    noise = first_noise(config, scene.real.shape, noise_key)
    if config.algorithm == "nft":
        return Songs(scene, lyrics, follow(config, velocity, noise), None)
    width, plan = config.flow_grpo.window, config.flow_grpo
    start = flow_policy.window_start(state.step, config.rollout_steps, width, plan.slide_every)
    latents, path = drawn_path(config, velocity, noise, scene.frame_mask, start, draw_key)
    return Songs(scene, lyrics, latents, path)


def follow(config: GrpoDiT, velocity: VelocityFn, noise: Array) -> Array:
    """Carries noise to songs along the ODE."""
    times = timesteps.time_grid(config.rollout_steps, config.rollout_shift)

    def body(x_t: Array, interval: tuple[Array, Array]) -> tuple[Array, None]:
        t, t_next = interval
        return x_t - (t - t_next) * velocity(x_t, t), None

    return jax.lax.scan(body, noise, (times[:-1], times[1:]))[0]


def drawn_path(
    config: GrpoDiT,
    velocity: VelocityFn,
    noise: Array,
    frame_mask: Array | None,
    start: Array,
    key: Key,
) -> tuple[Array, Path]:
    """Carries noise to songs; the steps of a window draw, and are kept.

    Args:
      config: rule, strength and width of the window.
      velocity: of the sampling policy.
      noise: [B, T, C].
      frame_mask: frames whose probability counts, or None.
      start: first step of the window.
      key: of what is drawn.
    """
    times = timesteps.time_grid(config.rollout_steps, config.rollout_shift)
    transition = flow_policy.draw(config.flow_grpo.rule, config.flow_grpo.strength)
    width = config.flow_grpo.window

    def body(x_t: Array, step: tuple) -> tuple[Array, tuple[Array, Array]]:
        index, t, t_next = step
        v = velocity(x_t, t)
        drawn = transition(x_t, v, t, t_next)
        fresh = jax.random.normal(jax.random.fold_in(key, index), x_t.shape)
        inside = (index >= start) & (index < start + width)
        straight = x_t - (t - t_next) * v
        x_next = jnp.where(inside, drawn.mean + drawn.std * fresh, straight)
        # outside the window std may be 0: its log-probability is not looked at
        safe = drawn._replace(std=jnp.where(inside, drawn.std, 1.0))
        return x_next, (x_t, flow_policy.log_prob(x_next, safe, frame_mask))

    steps = (jnp.arange(config.rollout_steps), times[:-1], times[1:])
    last, (states, log_probs) = jax.lax.scan(body, noise, steps)
    states = jnp.concatenate([states, last[None]])
    cut = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=start)
    window = (cut(states, slice_size=width + 1), cut(times, slice_size=width + 1))
    return last, Path(*window, cut(log_probs, slice_size=width))
