"""The extra pass that shows which frames attend which lyric token.

    x_t = t noise + (1 - t) data,  t = 1 / steps of the sampler   what was made, heard faintly
    x_t = noise,                   t = 1                          what the conditions alone place

One evaluation of the first layers, without guidance, under the conditions of sampling; of the
cross-attention the chosen heads are computed, and their weights cut to the lyrics. The softmax runs
over the whole condition, caption and timbre included. Without a condition mask padding is attended
as well, which is what the release does.
"""

import jax
import jax.numpy as jnp

from acestep_jax.nn.dit import DiT
from acestep_jax.nn.lora import Adapted, WithAdapters
from acestep_jax.nn.shallow import shallow
from acestep_jax.typing import Array, Key, Params

Heads = tuple[tuple[int, tuple[int, ...]], ...]
"""Layers and their heads, both from 0: ((2, (6,)), (3, (10, 11)))."""


def lyric_maps(
    dit: DiT | Adapted,
    params: Params | WithAdapters,
    heads: Heads,
    x_t: Array,
    t: Array | float,
    tokens: Array,
    context: Array,
    first: Array,
    num_tokens: int,
    *,
    condition_mask: Array | None = None,
    frame_mask: Array | None = None,
) -> Array:
    """Reads the attention that lyric tokens get from patches.

    Args:
      dit: the network, bare or adapted.
      params: its parameters.
      heads: whose maps to compute; no other is, and no layer behind the last of them.
      x_t: latents between noise and data [B, T, C].
      t: their time, a scalar or [B].
      tokens: condition tokens [B, L, D], lyrics first.
      context: [B, T, 2C].
      first: [B] int32, where the lyrics begin in the condition, behind their header.
      num_tokens: N, room for the longest lyrics of the batch; an item with fewer gets whatever
        stands behind them in the rows that are left.
      condition_mask: [B, L]; None attends padding, as the release does.
      frame_mask: [B, T], true on an item's own frames.

    Returns:
      float32 [B, H, N, P], heads in the order given, patches of two frames.

    Raises:
      ValueError: if there is no head, or the network lacks one.
    """
    check_heads(dit, heads)
    dit, params = shallow(dit, params, 1 + max(layer for layer, _ in heads))
    variables = {"params": params}
    cross = dit.apply(variables, tokens, condition_mask, method="project_condition")
    maps = dit.apply(
        variables,
        x_t,
        jnp.broadcast_to(jnp.asarray(t, jnp.float32), x_t.shape[:1]),
        context,
        cross,
        dict(heads),
        frame_mask=frame_mask,
        method="cross_attention_maps",
    )
    whole = jnp.concatenate([maps[layer] for layer, _ in heads], axis=1)
    whole = jnp.pad(whole, ((0, 0), (0, 0), (0, 0), (0, num_tokens)))
    cut = jax.vmap(lambda x, at: jax.lax.dynamic_slice_in_dim(x, at, num_tokens, axis=2))
    return cut(whole, first).swapaxes(2, 3)


def draw_noise(keys: Key, draws: int, num_frames: int, channels: int) -> Array:
    """Draws noise [draws, B, T, C] by the items' keys [B], the same for an item in any bucket."""

    def one(key: Key) -> Array:
        return jax.random.normal(key, (num_frames, channels))

    per_draw = jax.vmap(lambda i: jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, i))
    return jax.vmap(jax.vmap(one))(per_draw(jnp.arange(draws)))


def check_heads(dit: DiT | Adapted, heads: Heads) -> None:
    """Refuses heads that a network lacks.

    Raises:
      ValueError: naming them.
    """
    config = (dit.module if isinstance(dit, Adapted) else dit).config
    layers, width = config.num_hidden_layers, config.dit.num_heads
    wrong = [
        (layer, head)
        for layer, chosen in heads
        for head in chosen
        if not (0 <= layer < layers and 0 <= head < width)
    ]
    if wrong or not any(chosen for _, chosen in heads):
        raise ValueError(
            f"alignment heads {wrong or heads}: this DiT has layers 0 to {layers - 1} of {width} "
            "heads each; use heads that were selected for it."
        )
