"""A start from which a DiT learns sooner: a straight line from its input to its output.

A velocity is, before anything else, a multiple of the noisy latents that changes with the time: for
data of unit variance it is near 2 t - 1 times x_t, which is zero on average. From random parameters
a short run spends its first thousand steps finding both factors, an identity through a random
network and its sign, since neither helps without the other; on two cores that is most of the run.

So here every layer begins as the identity (adaLN-Zero: gates at zero whatever the time, and an
output of zero for the cross-attention, which has no gate), and the output projection undoes the
input projection on the noisy channels and is blind to the others. What remains to be learned first
is one scale of the time. It is a start and no more: the network is the released one.

Source: adaLN-Zero, Peebles & Xie 2023, arXiv:2212.09748, section 3.2; the rest is ours.
"""

import jax
import jax.numpy as jnp

from acestep_jax.nn.layers import MODULATIONS
from acestep_jax.typing import Array, Key, Params

_GATES = (2, 5)
"""Rows of a modulation table: shift, scale, gate of the self-attention; the same of the MLP."""


def start_straight(key: Key, params: Params) -> Params:
    """Sets gates and projections of a DiT's parameters as above; leaves the rest.

    Args:
      key: of the directions in which the noisy channels travel.
      params: the DiT's; its projections read source | edit mask | noisy.

    Raises:
      ValueError: if a patch of latents has more channels than the stream.
    """
    kernel = params["proj_in"]["kernel"]  # [patch, 3 C, D]
    patch, inputs, width = kernel.shape
    noisy = inputs // 3
    if patch * noisy > width:
        raise ValueError(
            f"a patch of {patch} x {noisy} latents does not fit a stream of {width} channels; "
            "start_straight needs room for all of them."
        )
    square, _ = jnp.linalg.qr(jax.random.normal(key, (width, width)))
    lanes = square[: patch * noisy]  # orthonormal: each latent of a patch has a lane of its own
    context = kernel[:, :-noisy].reshape(-1, width)
    context = context - context @ lanes.T @ lanes
    lanes = lanes.reshape(patch, noisy, width)
    read = jnp.concatenate([context.reshape(patch, -1, width), lanes], axis=1)
    return jax.tree_util.tree_map_with_path(_still, params) | {
        "proj_in": params["proj_in"] | {"kernel": read},
        "proj_out": params["proj_out"] | {"kernel": lanes.swapaxes(1, 2)},
    }


def _still(path: tuple, value: Array) -> Array:
    """Closes the gates of a layer; other parameters pass."""
    name = "/".join(key.key for key in path)
    if name.endswith(("time_proj/kernel", "time_proj/bias", "cross_attn/o_proj/kernel")):
        return jnp.zeros_like(value)
    if name.endswith("scale_shift_table") and value.shape[-2] == MODULATIONS:
        return value.at[..., jnp.array(_GATES), :].set(0)
    return value
