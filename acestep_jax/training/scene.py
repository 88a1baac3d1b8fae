"""A batch as the velocity networks read it, and the velocity fields over it.

Encoders run once a batch. Student, teacher and fake score then differ in their parameters alone:

    scene = scene_lib.encode(networks, encoders, batch)
    velocity = scene_lib.field(networks, params, scene)     # (x_t, t) -> [B, T, C]
"""

import functools
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp

from acestep_jax.data.batch import Batch
from acestep_jax.nn.model import Networks
from acestep_jax.ops import flow, losses
from acestep_jax.ops.solvers import VelocityFn
from acestep_jax.sampling import sampler
from acestep_jax.tasks import condition
from acestep_jax.typing import Array, Params


class Scene(flax.struct.PyTreeNode):
    """What a velocity depends on besides state and time, and the songs it belongs to.

    Attributes:
      tokens: condition [B, L, D].
      mask: valid tokens [B, L], or None to attend padding.
      null: the null condition [1, 1, D]; one row is enough.
      context: source latents and edit mask [B, T, 2C].
      frame_mask: an item's own frames [B, T], or None.
      real: the songs themselves [B, T, C].
    """

    tokens: Array
    mask: Array | None
    null: Array
    context: Array
    frame_mask: Array | None
    real: Array


def encode(
    networks: Networks,
    encoders: Params,
    batch: Batch,
    *,
    mask_padding: bool = True,
    silence_latent: Array | None = None,
) -> Scene:
    """Runs the encoders on a batch.

    Args:
      networks: the modules.
      encoders: {part: parameters}; condition_encoder, text_encoder and null_condition at least;
        text_encoder only where the batch brings no text states.
      batch: songs, prompts and masks. Text states and codes that it brings are taken as they are,
        in place of running the text encoder and the tokenizer.
      mask_padding: False attends padding, as the release does.
      silence_latent: [1, S, C]; given, sources of covers pass through the 5 Hz codes, which needs
        tokenizer and detokenizer. None leaves every source as it is.
    """
    covers = silence_latent is not None
    silence = silence_latent if covers else batch.source_latents[:1]
    made = condition.make_conditions(networks, encoders, batch, silence, covers=covers)
    return Scene(
        tokens=made.tokens,
        mask=made.mask if mask_padding else None,
        null=encoders["null_condition"],
        context=made.context,
        frame_mask=batch.frame_mask.astype(bool) if mask_padding else None,
        real=batch.latents,
    )


def field(networks: Networks, params: Params, scene: Scene, *, once: bool = False) -> VelocityFn:
    """Closes a DiT over the scene.

    Keys and values of the condition are computed here, for as many evaluations as there will be; a
    field that is evaluated but once is `velocity`.
    """
    if once:
        return functools.partial(velocity, networks, params, scene)
    return sampler.conditional_velocity(
        networks.dit,
        params,
        scene.tokens,
        scene.context,
        condition_mask=scene.mask,
        frame_mask=scene.frame_mask,
    )


def velocity(networks: Networks, params: Params, scene: Scene, x_t: Array, t: Array) -> Array:
    """Evaluates a DiT over the scene once, [B, T, C].

    Layers make their keys and values themselves: a stack of them for all layers, and of their
    gradients, is a third of the memory of a 2B training step.

    Args:
      networks: the modules.
      params: of the DiT.
      scene: the batch.
      x_t: [B, T, C].
      t: [B] or scalar.
    """
    times = jnp.broadcast_to(t, x_t.shape[:1])
    return networks.dit.apply(
        {"params": params},
        x_t,
        times,
        scene.context,
        scene.tokens,
        condition_mask=scene.mask,
        frame_mask=scene.frame_mask,
    )


def null_field(networks: Networks, params: Params, scene: Scene) -> VelocityFn:
    """Closes a DiT over the scene without its condition."""
    return field(networks, params, scene.replace(tokens=scene.null, mask=None))


def guided_field(
    networks: Networks, params: Params, scene: Scene, guidance_scale: float, *, once: bool = False
) -> VelocityFn:
    """Closes a guided DiT over the scene: v_u + scale (v_c - v_u); scale 1 is `field`."""
    conditional = field(networks, params, scene, once=once)
    if guidance_scale == 1.0:
        return conditional
    unconditional = null_field(networks, params, scene)
    return sampler.guided_velocity(conditional, unconditional, guidance_scale)


def velocity_errors(
    networks: Networks, params: Params, scene: Scene, data: Array, noise: Array, t: Array
) -> Array:
    """Evaluates |v(x_t, t) - (noise - data)|^2 of every frame on straight lines, [B, T].

    `data` and `noise` are [B, T, C], times t [B]; the caller masks and averages.
    """
    predicted = velocity(networks, params, scene, flow.interpolate(data, noise, t), t)
    return losses.squared_error(predicted, flow.velocity_target(data, noise))


def with_other_prompts(scene: Scene) -> Scene:
    """Gives every item its neighbour's prompt."""
    mask = None if scene.mask is None else jnp.roll(scene.mask, 1, axis=0)
    return scene.replace(tokens=jnp.roll(scene.tokens, 1, axis=0), mask=mask)


def concatenate(scenes: Sequence[Scene]) -> Scene:
    """Joins scenes along the batch, so that one call of a network serves all of them."""
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *scenes)
    return joined.replace(null=scenes[0].null)
