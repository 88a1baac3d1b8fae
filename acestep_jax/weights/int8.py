"""Kernels as 8-bit integers: a quarter of float32's memory, a half of bfloat16's.

    W [in, out] ~ codes · scale    scale_f = max_d |W_df| / 127    codes = round(W / scale)     (1)

A symmetric scale for each output of each layer, as usual for weights alone (Dettmers et al. 2022,
arXiv:2208.07339, without its outlier columns). What multiplies is of the compute dtype, and the
scale is applied to the product: x W = (x codes) · scale. A `Linear` that finds `codes` and `scale`
where its `kernel` would be does so (`nn.layers`); inside a scan over layers one layer's codes are
widened at a time.

Only the linear layers of the stacks are quantised: they are nearly all of the weights. Embedding
tables, time embeddings, norms, FSQ and convolutions stay as they are. Rounding costs at most half a
scale a weight; for normal weights that is a relative error of about 0.8 % of a kernel's norm.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from acestep_jax.nn import lora
from acestep_jax.typing import Array, Params

LEVELS = 127
"""Largest code; -128 is not used, so that the scheme is symmetric."""


def quantize_kernel(kernel: Array) -> dict[str, Array]:
    """Rounds a kernel [..., in, out] by (1): {"codes": int8 [..., in, out], "scale": [..., out]}.

    An output whose weights are all zero has the scale 0 and gives zeros.
    """
    wide = kernel.astype(jnp.float32)
    scale = jnp.abs(wide).max(axis=-2) / LEVELS
    safe = jnp.where(scale > 0, scale, 1)[..., None, :]
    codes = jnp.clip(jnp.round(wide / safe), -LEVELS, LEVELS)
    return {"codes": codes.astype(jnp.int8), "scale": scale}


def dequantize_kernel(leaves: Params) -> Array:
    """Computes codes · scale, float32 [..., in, out]."""
    return leaves["codes"].astype(jnp.float32) * leaves["scale"][..., None, :]


def quantize(params: Params, path: lora.Path = ()) -> Params:
    """Quantises the linear layers of all stacks in a tree; whatever else is in it is shared.

    Args:
      params: of any network, or of several by name.
      path: where in the whole tree these are.
    """
    if "kernel" in params and "layers" in path and lora.is_linear(path, params):
        rest = {name: leaf for name, leaf in params.items() if name != "kernel"}
        return rest | _quantize(params["kernel"])
    return {
        name: quantize(branch, (*path, name)) if isinstance(branch, Mapping) else branch
        for name, branch in params.items()
    }


_quantize = jax.jit(quantize_kernel)


def dequantize(params: Params) -> Params:
    """Puts float32 kernels back in the places of codes."""
    if "codes" in params:
        rest = {name: leaf for name, leaf in params.items() if name not in ("codes", "scale")}
        return rest | {"kernel": dequantize_kernel(params)}
    return {
        name: dequantize(branch) if isinstance(branch, Mapping) else branch
        for name, branch in params.items()
    }


def num_bytes(params: Any) -> int:
    """Counts the bytes of a tree of arrays or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
