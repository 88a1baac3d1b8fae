"""What songs of one batch share: who travels together, and the state that they start from.

Arrays of a batch are per song; a program's parts and its strengths are shared, and taken from the
first song.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from acestep_jax.ops import corrections, flow
from acestep_jax.sampling import buckets
from acestep_jax.sampling import flow as sampling_flow
from acestep_jax.sampling.steering import Hold
from acestep_jax.tasks import inputs
from acestep_jax.tasks.condition import Conditions
from acestep_jax.tasks.inputs import Inputs
from acestep_jax.tasks.request import KEEPING, Request
from acestep_jax.tasks.settings import Settings
from acestep_jax.typing import Array, Key

_CROSSFADE_FRAMES = 25
"""Ramp of the final splice of latents where repainting keeps most; the release's."""
_RETAKE = 1 << 21
"""Folded into a song's key for a retake's noise: apart from the steps'."""


def program_key(request: Request) -> tuple:
    """Lists what songs of one batch agree in: length, parts of the program, shared strengths."""
    return (
        buckets.frame_bucket(inputs.num_frames(request)),
        request.task == "repaint" and request.keeping,
        bool(request.codes),
        request.cover_strength,
        request.cover_noise,
    )


def group(requests: Sequence[Request], batch_size: int) -> list[list[int]]:
    """Groups requests, by index, into batches of one program."""
    alike: dict[tuple, list[int]] = {}
    for i, request in enumerate(requests):
        alike.setdefault(program_key(request), []).append(i)
    return [
        members[start : start + batch_size]
        for members in alike.values()
        for start in range(0, len(members), batch_size)
    ]


def draw_start(
    first: Request, arrays: Inputs, made: Conditions, settings: Settings, keys: Key, level: float
) -> Array:
    """Draws the state that sampling starts from: noise, or what is covered under noise."""
    frames, channels = arrays.source_latents.shape[1:]
    noise = sampling_flow.initial_noise(keys, frames, channels)
    if settings.retake:
        retakes = jax.vmap(lambda key: jax.random.fold_in(key, _RETAKE + settings.retake_seed))
        other = sampling_flow.initial_noise(retakes(keys), frames, channels)
        noise = corrections.mix_noise(noise, other, settings.retake)
    if first.cover_noise:  # the source as it is, or what given codes stand for
        covered = made.context[..., :channels] if first.codes else arrays.target_latents
        noise = flow.interpolate(jnp.asarray(covered), noise, level)
    return noise


def make_hold(first: Request, arrays: Inputs, steps: int) -> Hold:
    """Says what repainting keeps, and for how long: never after the last step, which is data."""
    share = KEEPING[first.keeping]
    return Hold(
        edit_mask=jnp.asarray(arrays.span_mask),
        source=jnp.asarray(arrays.target_latents),
        steps=min(round(share * steps), steps - 1),
        ramp=round(_CROSSFADE_FRAMES * share) or None,
    )
