"""Loads checkpoint folders: diffusion packages in three layouts or as the difference from another
(`difference`), autoencoders and Qwen3s.

A folder that is not as it should be gives one `CheckpointError` naming everything that is wrong
with it; a sound one is read leaf by leaf (see `convert`).
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from acestep_jax.nn import config as nn_config
from acestep_jax.nn.config import ModelConfig, Qwen3Config, VAEConfig
from acestep_jax.weights import configs, convert, difference, hub, names, tensorfile, torchfile
from acestep_jax.weights.checkpoint import (
    LAYOUTS,
    NATIVE_METADATA,
    SILENCE,
    STEMS,
    Model,
    Network,
    Source,
)
from acestep_jax.weights.configs import Json
from acestep_jax.weights.convert import ShardingFn
from acestep_jax.weights.names import Entry
from acestep_jax.weights.tensorfile import CheckpointError, Stored


def load_model(
    where: str | os.PathLike,
    *,
    layout: str = "auto",
    dtype: Any = jnp.float32,
    shardings: ShardingFn | None = None,
) -> Model:
    """Loads a diffusion package.

    Args:
      where: a folder or a hub id (see `hub.resolve`).
      layout: one of `LAYOUTS`, or "auto" to tell them apart.
      dtype: dtype of the parameters; None keeps that of the files. The silence latent is float32.
      shardings: (leaf path, shape) -> sharding; each device then receives its own shard.

    Raises:
      FileNotFoundError: if there is no such folder.
      CheckpointError: if files or tensors are missing, unexpected, mis-shaped, truncated, corrupt
        or not finite; it lists them all.
    """
    folder, problems = hub.resolve(where), []
    if (folder / difference.FILE).is_file():
        base = load_model(difference.base_of(folder), dtype=dtype, shardings=shardings)
        return difference.add(base, folder)
    layout = _detect_layout(folder) if layout == "auto" else layout
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; choose one of {', '.join(LAYOUTS)} or auto.")
    found = _READERS[layout](folder, problems)
    silence = found.read_silence(problems)
    params = _load_tensors(folder, found, problems, dtype, shardings)
    dtypes = {
        entry.name: found.stored[alias.name].dtype
        for entry, alias in zip(found.official, found.entries, strict=True)
    }
    dtypes[SILENCE] = tensorfile.dtype_name(silence.dtype)
    source = Source(layout, found.configs, dtypes)
    silence = jnp.asarray(convert.cast(silence, np.dtype(np.float32)))
    return Model(found.config, params, silence, source)


def load_vae(
    where: str | os.PathLike, *, dtype: Any = jnp.float32, shardings: ShardingFn | None = None
) -> Network[VAEConfig]:
    """Loads an autoencoder from its folder, or from a folder that holds it as `vae`.

    Arguments and errors are those of `load_model`.
    """
    folder = _inside(hub.resolve(where), "vae")
    found = _read_flat(folder, nn_config.vae_config_from_json, names.vae_entries)
    params = _load_tensors(folder, found, found.problems, dtype, shardings)
    return Network(found.config, params, Source("official", found.configs, found.dtypes))


def load_qwen3(
    where: str | os.PathLike, *, dtype: Any = jnp.float32, shardings: ShardingFn | None = None
) -> Network[Qwen3Config]:
    """Loads a text encoder or planner from its folder, or one that holds it as `text_encoder`.

    Tensor names may begin with `model.` or not; a stored head must equal the embedding where the
    configuration ties them. Arguments and errors are those of `load_model`.
    """
    folder = _inside(hub.resolve(where), "text_encoder")
    found = _read_flat(folder, configs.read_qwen3_config, names.qwen3_entries)
    source = _normalise_qwen3(found)
    params = _load_tensors(folder, found, found.problems, dtype, shardings)
    return Network(found.config, params, dataclasses.replace(source, dtypes=found.dtypes))


@dataclasses.dataclass
class _Found:
    """What a folder's headers and configurations say, before any weight is read.

    `entries` are named as the files name them, `official` as the official release does.
    """

    config: Any = None
    configs: dict[str, Json] = dataclasses.field(default_factory=dict)
    official: list[Entry] = dataclasses.field(default_factory=list)
    entries: list[Entry] = dataclasses.field(default_factory=list)
    stored: dict[str, Stored] = dataclasses.field(default_factory=dict)
    read_silence: Callable[[list[str]], np.ndarray] = lambda problems: np.zeros((1, 0, 0))
    problems: list[str] = dataclasses.field(default_factory=list)

    @property
    def dtypes(self) -> dict[str, str]:
        return {entry.name: self.stored[entry.name].dtype for entry in self.entries}


def _detect_layout(folder: Path) -> str:
    if (folder / "transformer").is_dir():
        return "diffusers"
    files = tensorfile.find_files(folder, STEMS, [])
    if files and tensorfile.read_metadata(files[0]).get("format") == NATIVE_METADATA["format"]:
        return "native"
    return "official"


def _inside(folder: Path, name: str) -> Path:
    return folder / name if (folder / name / "config.json").is_file() else folder


def _parse(parse: Callable[[Json], Any], values: Json | None, problems: list[str]) -> Any:
    """Builds a configuration; values it refuses become a problem."""
    if values is None:
        return None
    try:
        return parse(values)
    except (ValueError, TypeError, KeyError) as error:
        problems.append(f"configuration: {error}")
        return None


def _read_flat(
    folder: Path, parse: Callable[[Json], Any], list_entries: Callable[[Any], list[Entry]]
) -> _Found:
    """Reads the headers of a folder with one configuration and one set of weights."""
    found = _Found()
    values = configs.read_json(folder / "config.json", found.problems)
    found.config = _parse(parse, values, found.problems)
    files = tensorfile.find_files(folder, STEMS, found.problems)
    found.stored = tensorfile.read_headers(files, found.problems)
    if values is not None and found.config is not None:
        found.configs = {"": values}
        found.official = found.entries = list_entries(found.config)
    return found


def _read_official(folder: Path, problems: list[str]) -> _Found:
    found = _read_flat(folder, configs.read_model_config, names.model_entries)
    problems += found.problems

    def read_silence(problems: list[str]) -> np.ndarray:
        file = folder / f"{SILENCE}.pt"
        if not file.is_file():
            problems.append(f"missing: {file.name}")
            return np.zeros((1, 0, 0), np.float32)
        try:
            silence = torchfile.load_tensor(file)
        except torchfile.TorchFileError as error:
            problems.append(f"corrupt: {error}")
            return np.zeros((1, 0, 0), np.float32)
        return _check_silence(np.swapaxes(silence, -1, -2), found.config, problems)

    found.read_silence = read_silence
    return found


def _read_native(folder: Path, problems: list[str]) -> _Found:
    found = _read_flat(folder, configs.read_model_config, names.model_entries)
    problems += found.problems
    stored_silence = found.stored.pop(SILENCE, None)
    found.official = found.entries = convert.native_entries(found.official)
    found.read_silence = lambda problems: _read_stored_silence(
        stored_silence, found.config, problems
    )
    return found


def _read_diffusers(folder: Path, problems: list[str]) -> _Found:
    found = _Found()
    for component in names.DIFFUSERS_COMPONENTS:
        values = configs.read_json(folder / component / "config.json", problems)
        if values is not None:
            found.configs[component] = values
        files = tensorfile.find_files(folder / component, STEMS[::-1], problems)
        for name, stored in tensorfile.read_headers(files, problems).items():
            found.stored[f"{component}/{name}"] = stored
    stored_silence = found.stored.pop(f"condition_encoder/{SILENCE}", None)
    if len(found.configs) == len(names.DIFFUSERS_COMPONENTS):
        parse = configs.model_config_from_diffusers
        found.config = _parse(parse, found.configs, problems)
    if found.config is not None:
        found.official = names.model_entries(found.config)
        found.entries = _diffusers_entries(found.official)
    found.read_silence = lambda problems: _read_stored_silence(
        stored_silence, found.config, problems
    )
    return found


_READERS: dict[str, Callable[[Path, list[str]], _Found]] = {
    "official": _read_official,
    "diffusers": _read_diffusers,
    "native": _read_native,
}


def _diffusers_entries(entries: Sequence[Entry]) -> list[Entry]:
    return convert.renamed(
        entries, ("/".join(names.diffusers_location(entry.name)) for entry in entries)
    )


def _read_stored_silence(
    stored: Stored | None, config: ModelConfig | None, problems: list[str]
) -> np.ndarray:
    if stored is None:
        problems.append(f"missing: {SILENCE}")
        return np.zeros((1, 0, 0), np.float32)
    return _check_silence(tensorfile.read_tensor(stored), config, problems)


def _check_silence(
    silence: np.ndarray, config: ModelConfig | None, problems: list[str]
) -> np.ndarray:
    """Demands [1, S, C] of finite numbers."""
    channels = config.audio_acoustic_hidden_dim if config else silence.shape[-1]
    if silence.ndim != 3 or silence.shape[0] != 1 or silence.shape[2] != channels:
        problems.append(f"shape: {SILENCE} is {list(silence.shape)}, not [1, frames, {channels}]")
    if not convert.is_finite(np.ascontiguousarray(silence)):
        problems.append(f"corrupt: {SILENCE} holds NaN or infinite values")
    return silence


def _normalise_qwen3(found: _Found) -> Source:
    """Strips `model.` from stored names and drops a head that repeats the embedding."""
    decoder = [name for name in found.stored if not name.startswith("lm_head.")]
    prefix = "model." if decoder and all(name.startswith("model.") for name in decoder) else ""
    found.stored = {name.removeprefix(prefix): stored for name, stored in found.stored.items()}
    head, table = found.stored.get("lm_head.weight"), found.stored.get("embed_tokens.weight")
    if found.config and head is None and configs.is_bare_decoder(found.configs[""]):
        found.entries = names.qwen3_entries(found.config, head=False)
    tied = bool(found.config and found.config.tie_word_embeddings and head and table)
    if tied:
        if not np.array_equal(tensorfile.read_tensor(head), tensorfile.read_tensor(table)):
            found.problems.append(
                "unexpected: lm_head.weight differs from embed_tokens.weight, though "
                "tie_word_embeddings is true"
            )
        del found.stored["lm_head.weight"]
    return Source("official", found.configs, prefix=prefix, tied_head=tied)


def _load_tensors(
    folder: Path, found: _Found, problems: list[str], dtype: Any, shardings: ShardingFn | None
) -> dict[str, Any]:
    """Reads the tree if all is well; otherwise raises the one error that lists what is not."""
    sound = []
    if found.config is not None:
        sound = convert.check_entries(found.entries, found.stored, problems)
    if problems:
        convert.check_values(sound, found.stored, problems)
        raise CheckpointError(folder, problems)
    params = convert.load_params(
        found.entries, found.stored, problems, dtype=dtype, shardings=shardings
    )
    if problems:
        raise CheckpointError(folder, problems)
    return params
