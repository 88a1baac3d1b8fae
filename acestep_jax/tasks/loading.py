"""The parts of a pipeline read from their folders, in the precision and the place they are kept in.

A package, its text encoder and its autoencoder lie beside each other in every release's layout.
Parameters are kept in float32, in bfloat16, or with the layers' kernels as 8-bit integers
(`weights.int8`); and on the device, or on the host to be lent to it stage by stage.
"""

import contextlib
import functools
import pathlib
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from acestep_jax import weights
from acestep_jax.nn import model as model_lib
from acestep_jax.nn.vae import VAE, fold_weight_norm
from acestep_jax.tasks import tokens
from acestep_jax.typing import Params
from acestep_jax.weights import int8

Stored: TypeAlias = Literal["float32", "bfloat16", "int8"]
"""What parameters are kept in."""

NANO = pathlib.Path(__file__).parents[1] / "assets/nano/acestep-v15-nano"
"""The package that is shipped."""
SHIPPED = {"nano": NANO, "nano_turbo": NANO.with_name("acestep-v15-nano-turbo")}
"""Shipped packages by preset: the teacher, and its student of a few steps."""


def load_parts(
    model: str,
    *,
    vae: str = "",
    text_encoder: str = "",
    dtype: Any = jnp.float32,
    stored: Stored = "float32",
    resident: bool = True,
) -> dict[str, Any]:
    """Loads what a `Pipeline` is made of, by the names of its fields; see `Pipeline.load`.

    Raises:
      ValueError: for an unknown precision.
      FileNotFoundError, CheckpointError: if a part is missing or not whole.
    """
    if stored not in ("float32", "bfloat16", "int8"):
        raise ValueError(f"weights={stored!r}; use float32, bfloat16 or int8.")
    kept = jnp.float32 if stored == "float32" else jnp.bfloat16
    with contextlib.nullcontext() if resident else jax.default_device(_host()):
        package = weights.load_model(model, dtype=kept)
        inside = pathlib.Path(weights.resolve(model))
        text_folder = text_encoder or _find_folder(inside, "Qwen3-Embedding-0.6B", "text_encoder")
        text = weights.load_qwen3(text_folder, dtype=kept)
        autoencoder = weights.load_vae(vae or _find_folder(inside, "vae"), dtype=kept)
        if package.silence_latent is None:
            raise FileNotFoundError(f"{model} holds no silence latent; a pipeline needs one.")
        params = {**package.params, "text_encoder": text.params}
        if stored == "int8":
            params = int8.quantize(params)
        vae_params = _fold(autoencoder.params, kept)
    keep = jnp.asarray if resident else jax.device_get
    return {
        "networks": model_lib.build_networks(package.config, text.config, dtype=dtype),
        "params": jax.tree.map(keep, params),
        "vae": VAE(autoencoder.config, dtype=dtype),
        "vae_params": jax.tree.map(keep, vae_params),
        "tokenizer": tokens.load_tokenizer(str(weights.resolve(text_folder))),
        "silence_latent": jnp.asarray(package.silence_latent),
    }


@functools.partial(jax.jit, static_argnums=1)
def _fold(params: Params, kept: Any) -> Params:
    """Computes the autoencoder's kernels once, in float32, instead of in every call."""
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    return jax.tree.map(lambda leaf: leaf.astype(kept), fold_weight_norm(wide))


def param_shapes(shapes: Params, stored: Stored) -> Params:
    """Gives shapes and dtypes of parameters as they are kept; nothing is allocated."""
    kept = jnp.float32 if stored == "float32" else jnp.bfloat16
    cast = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, kept), shapes)
    return jax.eval_shape(int8.quantize, cast) if stored == "int8" else cast


def _host() -> jax.Device:
    return jax.local_devices(backend="cpu")[0]


def _find_folder(package: pathlib.Path, *names: str) -> str:
    """Finds the first of these folders, in the package's (diffusers) or beside it (the release).

    Raises:
      FileNotFoundError: if there is none.
    """
    for place in (package, package.parent):
        for name in names:
            if (place / name).is_dir():
                return str(place / name)
    raise FileNotFoundError(f"{package.parent} holds no {' or '.join(names)}; name the folder.")
