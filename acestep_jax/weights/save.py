"""Saves diffusion packages, autoencoders and Qwen3s in the layouts of `checkpoint`.

What was loaded and not changed comes out as it was: the same bytes in every tensor, the same
configuration with the keys that nothing here reads.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from acestep_jax import units
from acestep_jax.nn import config as nn_config
from acestep_jax.nn.config import Qwen3Config, VAEConfig
from acestep_jax.typing import Params
from acestep_jax.weights import configs, convert, names, tensorfile, torchfile
from acestep_jax.weights.checkpoint import (
    LAYOUTS,
    NATIVE_METADATA,
    SILENCE,
    Model,
    Network,
    Source,
)
from acestep_jax.weights.configs import Json
from acestep_jax.weights.names import Entry
from acestep_jax.weights.tensorfile import Outgoing

MAX_SHARD_BYTES = 5_000_000_000
"""Largest weight file written unless told otherwise; the released XL shards obey it."""


def save_model(
    folder: str | os.PathLike,
    model: Model,
    *,
    layout: str = "official",
    dtype: Any = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Saves a diffusion package.

    Args:
      folder: made if needed; a checkpoint already in it is replaced.
      model: what to save.
      layout: one of `LAYOUTS`.
      dtype: rounds every tensor to this. None stores tensors as they were loaded, and refuses if
        their values have since become finer than that; what was never stored keeps its dtype.
      max_shard_bytes: weight files are split above this size.

    Raises:
      ValueError: if the tree is not what the configuration asks for, or see `dtype`.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; choose one of {', '.join(LAYOUTS)}.")
    folder, entries = Path(folder), names.model_entries(model.config)
    _refuse_misfit(entries, model.params)
    _WRITERS[layout](folder, model, entries, dtype, max_shard_bytes)


def save_vae(
    folder: str | os.PathLike,
    vae: Network[VAEConfig],
    *,
    dtype: Any = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Saves an autoencoder as releases and diffusers do; arguments as in `save_model`."""
    entries = names.vae_entries(vae.config)
    _refuse_misfit(entries, vae.params)
    tensors = convert.outgoing(entries, vae.params, vae.source.dtypes, dtype)
    stem = "diffusion_pytorch_model"
    tensorfile.write_files(Path(folder), stem, tensors, max_shard_bytes=max_shard_bytes)
    fresh = configs.vae_config_to_json(vae.config)
    values = _kept(vae.source, vae.config, nn_config.vae_config_from_json, fresh)
    configs.write_json(Path(folder) / "config.json", values)


def save_qwen3(
    folder: str | os.PathLike,
    qwen3: Network[Qwen3Config],
    *,
    causal: bool | None = None,
    dtype: Any = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Saves a text encoder or planner as transformers does; tokenizer files are not touched.

    Args:
      folder: made if needed.
      qwen3: what to save.
      causal: whether it is a language model, whose names begin with `model.`; None keeps what was
        loaded, or the bare decoder of a text encoder.
      dtype: as in `save_model`.
      max_shard_bytes: as in `save_model`.
    """
    source = qwen3.source
    bare = configs.is_bare_decoder(source.configs.get("", {}))
    head = "lm_head" in qwen3.params if bare else None
    entries = names.qwen3_entries(qwen3.config, head=head)
    _refuse_misfit(entries, qwen3.params)
    tensors = convert.outgoing(entries, qwen3.params, source.dtypes, dtype)
    prefix = source.prefix if causal is None else ("model." if causal else "")
    if source.tied_head:
        tensors["lm_head.weight"] = tensors["embed_tokens.weight"]
    tensors = {
        name if name.startswith("lm_head.") else prefix + name: tensor
        for name, tensor in tensors.items()
    }
    tensorfile.write_files(Path(folder), "model", tensors, max_shard_bytes=max_shard_bytes)
    fresh = configs.qwen3_config_to_json(qwen3.config, causal=bool(prefix))
    fresh = _with_dtype(fresh, tensors)
    values = _kept(source, qwen3.config, configs.read_qwen3_config, fresh)
    if dtype is not None:
        values = _with_dtype(values, tensors)
    configs.write_json(Path(folder) / "config.json", values)


def _refuse_misfit(entries: Sequence[Entry], params: Params) -> None:
    problems = convert.check_params(entries, params)
    if problems:
        raise ValueError("\n  ".join(["the parameters do not fit their configuration:", *problems]))


def _write_official(
    folder: Path, model: Model, entries: Sequence[Entry], dtype: Any, limit: int
) -> None:
    tensors = convert.outgoing(entries, model.params, _dtypes(model), dtype)
    tensorfile.write_files(folder, "model", tensors, max_shard_bytes=limit)
    silence = np.swapaxes(_silence_values(model), -1, -2)
    torchfile.save_tensor(folder / f"{SILENCE}.pt", silence)
    _write_model_config(folder, model, tensors, dtype)


def _write_native(
    folder: Path, model: Model, entries: Sequence[Entry], dtype: Any, limit: int
) -> None:
    own = convert.native_entries(entries)
    dtypes = model.source.dtypes if model.source.layout == "native" else {}
    tensors = convert.outgoing(own, model.params, dtypes, dtype)
    tensors[SILENCE] = _silence_tensor(model)
    tensorfile.write_files(
        folder, "model", tensors, metadata=NATIVE_METADATA, max_shard_bytes=limit
    )
    _write_model_config(folder, model, tensors, dtype)


def _write_diffusers(
    folder: Path, model: Model, entries: Sequence[Entry], dtype: Any, limit: int
) -> None:
    num_frames = model.silence_latent.shape[1]
    if num_frames != units.MAX_FRAMES:
        raise ValueError(
            f"the silence latent has {num_frames} frames, but diffusers reads exactly "
            f"{units.MAX_FRAMES}; repeat its last frame up to there, or save another layout."
        )
    official = convert.outgoing(entries, model.params, _dtypes(model), dtype)
    parts: dict[str, dict[str, Outgoing]] = {name: {} for name in names.DIFFUSERS_COMPONENTS}
    for name, tensor in official.items():
        component, key = names.diffusers_location(name)
        parts[component][key] = tensor
    parts["condition_encoder"][SILENCE] = _silence_tensor(model)
    stored = model.source.configs if model.source.layout == "diffusers" else {}
    kept = len(stored) and configs.model_config_from_diffusers(stored) == model.config
    for component, fresh in configs.diffusers_configs(model.config).items():
        stem = "diffusion_pytorch_model"
        tensorfile.write_files(folder / component, stem, parts[component], max_shard_bytes=limit)
        values = stored[component] if kept else {**stored.get(component, {}), **fresh}
        configs.write_json(folder / component / "config.json", values)


_WRITERS: dict[str, Callable[[Path, Model, Sequence[Entry], Any, int], None]] = {
    "official": _write_official,
    "diffusers": _write_diffusers,
    "native": _write_native,
}


def _dtypes(model: Model) -> Mapping[str, str]:
    """Header dtypes by official name; a native file has others, which its leaves' rows keep."""
    return {} if model.source.layout == "native" else model.source.dtypes


def _silence_values(model: Model) -> np.ndarray:
    kind = model.source.dtypes.get(SILENCE, "F32")
    return convert.cast(np.asarray(model.silence_latent), tensorfile.DTYPES[kind])


def _silence_tensor(model: Model) -> Outgoing:
    values = _silence_values(model)
    return Outgoing(tensorfile.dtype_name(values.dtype), values.shape, lambda: values)


def _write_model_config(
    folder: Path, model: Model, tensors: Mapping[str, Outgoing], dtype: Any
) -> None:
    fresh = _with_dtype(configs.model_config_to_json(model.config), tensors)
    values = _kept(model.source, model.config, configs.read_model_config, fresh)
    if dtype is not None:
        values = _with_dtype(values, tensors)
    configs.write_json(folder / "config.json", values)


def _kept(source: Source, config: Any, parse: Callable[[Json], Any], fresh: Json) -> dict[str, Any]:
    """Keeps the file that was loaded, unknown keys included, where it still says the same."""
    stored = source.configs.get("", {})
    if stored and parse(stored) == config:
        return dict(stored)
    return {**stored, **fresh}


def _with_dtype(values: Json, tensors: Mapping[str, Outgoing]) -> dict[str, Any]:
    """States the dtype of the weights, which transformers reads from the configuration."""
    kinds = {tensor.dtype for tensor in tensors.values()}
    key = "torch_dtype" if "torch_dtype" in values else "dtype"
    stated = {key: str(tensorfile.DTYPES[kinds.pop()])} if len(kinds) == 1 else {}
    return {**values, **stated}
