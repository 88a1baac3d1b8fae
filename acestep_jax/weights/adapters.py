"""Low-rank adapters as PEFT stores them: `adapter_config.json` and `adapter_model.safetensors`.

Two namings of the same tensors, of a DiT or of a Qwen3:

  official   base_model.model.layers.0.self_attn.q_proj.lora_A.weight [r, in], .lora_B. [out, r]:
             what the release's trainer writes, for PEFT over the released modules
  diffusers  the same with diffusers' names (to_q, to_out.0), for PEFT over its transformer; and
             `pytorch_lora_weights.safetensors` (`transformer.layers...`), which its pipelines load

Strength (alpha) stands in `adapter_config.json`, and once more in the header of the weights, where
diffusers looks for it; without that it takes alpha for the rank, half of what the release trains
with. Stacked layers are taken apart when written and stacked again when read, bit for bit.
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from acestep_jax.nn import lora
from acestep_jax.nn.config import ModelConfig, Qwen3Config
from acestep_jax.nn.lora import LoRA
from acestep_jax.typing import Params
from acestep_jax.weights import configs, convert, hub, names, tensorfile
from acestep_jax.weights.configs import Json
from acestep_jax.weights.names import Entry
from acestep_jax.weights.tensorfile import CheckpointError, Stored

LAYOUTS = ("official", "diffusers")
"""Namings that adapters are written in; reading tells them apart."""

CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model"
_PIPELINE_WEIGHTS = "pytorch_lora_weights"
_PREFIX, _PIPELINE_PREFIX = "base_model.model.", "transformer."
_PREFIXES = (_PREFIX, _PIPELINE_PREFIX, "decoder.", "model.")
_HEADER_KEY = "lora_adapter_metadata"  # of diffusers
_FACTORS = (("lora_a", "lora_A"), ("lora_b", "lora_B"))
# What changes an adapter's mathematics, and the values that leave it the plain one.
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
}


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A trained adapter.

    Attributes:
      spec: rank, strength and targets.
      params: {...: {"lora_a", "lora_b"}}, shaped like the parameters it belongs to.
      config: `adapter_config.json` as it was read, if it was; unknown keys are kept on saving.
    """

    spec: LoRA
    params: Params
    config: Json = dataclasses.field(default_factory=dict)

    def collection(self, weight: float = 1.0) -> Params:
        """Gives the variables that apply it on the fly, `weight` times as strongly."""
        return lora.collection(self.params, weight * self.spec.scale)


def combine(adapters: Sequence[Adapter], weights: Sequence[float] | None = None) -> Params:
    """Gives the variables that apply several adapters at once, each with its weight, else 1."""
    weights = [1.0] * len(adapters) if weights is None else weights
    pairs = zip(adapters, weights, strict=True)
    return lora.combine([adapter.collection(weight) for adapter, weight in pairs])


# Names -------------------------------------------------------------------------------------------


def adapter_entries(config: ModelConfig | Qwen3Config, spec: LoRA) -> list[Entry]:
    """Lists an adapter's tensors under their official names, without any prefix.

    Args:
      config: of the network: a DiT's package or a Qwen3.
      spec: rank and targets.
    """
    entries = []
    for entry in linear_entries(config):
        if not lora.matches(entry.path[:-1], spec.targets):
            continue
        fan_out, fan_in = entry.shape
        stem = entry.name.removesuffix(".weight")
        shapes = ((spec.rank, fan_in), (fan_out, spec.rank))
        entries += [
            dataclasses.replace(
                entry, name=f"{stem}.{theirs}.weight", shape=shape, path=(*entry.path[:-1], ours)
            )
            for (ours, theirs), shape in zip(_FACTORS, shapes, strict=True)
        ]
    return entries


def linear_entries(config: ModelConfig | Qwen3Config) -> list[Entry]:
    """Lists what may be adapted: the kernels of linear layers, [out, in] as released."""
    if isinstance(config, Qwen3Config):
        entries = names.qwen3_entries(config)
    else:
        entries = [
            dataclasses.replace(entry, name=entry.name[len("decoder.") :], path=entry.path[1:])
            for entry in names.model_entries(config)
            if entry.path[0] == "dit"
        ]
    return [entry for entry in entries if entry.path[-1] == "kernel" and len(entry.shape) == 2]


def diffusers_name(name: str) -> str:
    """Gives diffusers' name for a tensor of the DiT."""
    return names.diffusers_location(f"decoder.{name}")[1]


# Writing -----------------------------------------------------------------------------------------


def save_adapter(
    folder: str | os.PathLike,
    adapter: Adapter,
    config: ModelConfig | Qwen3Config,
    *,
    layout: str = "official",
    dtype: Any = np.float32,
) -> None:
    """Saves an adapter for PEFT, the release's software and diffusers.

    Args:
      folder: made if needed.
      adapter: what to save.
      config: of the network it adapts.
      layout: one of `LAYOUTS`; a Qwen3 knows the official one only.
      dtype: of the stored tensors.

    Raises:
      ValueError: if the adapter does not fit the configuration.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; choose one of {', '.join(LAYOUTS)}.")
    if layout == "diffusers" and isinstance(config, Qwen3Config):
        raise ValueError("a Qwen3 has no names of its own in diffusers; use layout='official'.")
    entries = adapter_entries(config, adapter.spec)
    params = jax.device_get(adapter.params)
    problems = convert.check_params(entries, params)
    if problems:
        raise ValueError("\n  ".join(["the adapter does not fit its configuration:", *problems]))
    rename = diffusers_name if layout == "diffusers" else str
    prefix = _PREFIX + ("model." if isinstance(config, Qwen3Config) else "")
    targets = sorted({rename(target) for target in adapter.spec.targets})
    tensors = convert.outgoing(entries, params, {}, dtype)
    stored = {prefix + rename(name): tensor for name, tensor in tensors.items()}
    header = _diffusers_header(adapter.spec)
    tensorfile.write_files(Path(folder), _WEIGHTS, stored, metadata=header)
    if layout == "diffusers":
        stored = {_PIPELINE_PREFIX + rename(name): tensor for name, tensor in tensors.items()}
        tensorfile.write_files(Path(folder), _PIPELINE_WEIGHTS, stored, metadata=header)
    # a DiT's is the release's; to PEFT, a planner must be a language model, or it cannot write
    task = "CAUSAL_LM" if isinstance(config, Qwen3Config) else "FEATURE_EXTRACTION"
    configs.write_json(Path(folder) / CONFIG, _config_to_json(adapter, targets, task))


def _config_to_json(adapter: Adapter, targets: Sequence[str], task: str) -> dict[str, Any]:
    """Writes what PEFT needs to know; what was read and means the same is kept."""
    spec = adapter.spec
    fresh = {
        "peft_type": "LORA",
        "task_type": task,
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": _number(spec.alpha),
        "lora_dropout": spec.dropout,
        "r": spec.rank,
        "target_modules": list(targets),
        "use_rslora": False,
    }
    return {"base_model_name_or_path": None, "auto_mapping": None, **adapter.config, **fresh}


def _diffusers_header(spec: LoRA) -> dict[str, str]:
    """States rank and strength where diffusers reads them.

    Not the dropout: diffusers 0.42.1 would leave it switched on when it generates.
    """
    values = {
        "r": spec.rank,
        "lora_alpha": _number(spec.alpha),
        "bias": "none",
        "target_modules": sorted({diffusers_name(target) for target in spec.targets}),
    }
    prefixed = {_PIPELINE_PREFIX + key: value for key, value in values.items()}
    return {"format": "pt", _HEADER_KEY: json.dumps(prefixed, sort_keys=True)}


def _number(value: float) -> int | float:
    """Writes whole numbers whole, as PEFT does."""
    return int(value) if float(value).is_integer() else value


# Reading -----------------------------------------------------------------------------------------


def load_adapter(
    where: str | os.PathLike, config: ModelConfig | Qwen3Config, *, dtype: Any = np.float32
) -> Adapter:
    """Loads an adapter in either naming, with or without PEFT's prefix.

    Args:
      where: a folder with `adapter_config.json`, or with diffusers' file, whose header then states
        the strength; or a folder that holds it as `adapter`; or a hub id; or the file of weights.
      config: of the network it shall adapt.
      dtype: of the leaves; None keeps that of the file.

    Raises:
      FileNotFoundError: if there is no such folder.
      CheckpointError: if it is no plain LoRA of this network; it lists all that is wrong.
    """
    problems: list[str] = []
    folder, files = locate(where, (_WEIGHTS, _PIPELINE_WEIGHTS), problems)
    found = tensorfile.read_headers(files, problems)
    stated = _read_config(folder, files, problems)
    stored = _official_names(found, config)
    spec = _read_spec(stated, stored, config, problems)
    if problems or spec is None:
        raise CheckpointError(folder, problems)
    entries = convert.check_entries(adapter_entries(config, spec), stored, problems)
    if problems:
        raise CheckpointError(folder, problems)
    params = convert.load_params(entries, stored, problems, dtype=dtype)
    if problems:
        raise CheckpointError(folder, problems)
    return Adapter(spec, params, stated)


def locate(
    where: str | os.PathLike, stems: Sequence[str], problems: list[str]
) -> tuple[Path, list[Path]]:
    """Finds an adapter's folder and its files of weights.

    Args:
      where: a folder, perhaps with the adapter in `adapter`; a hub id; or a file of weights.
      stems: names of the files, without suffix, in the order of preference.
      problems: receives what is missing.

    Raises:
      FileNotFoundError: if there is neither folder nor file.
    """
    file = Path(where).expanduser()
    if file.is_file():
        return file.parent, [file]
    folder = hub.resolve(where)
    inner = folder / "adapter"
    folder = inner if (inner / CONFIG).is_file() else folder
    return folder, tensorfile.find_files(folder, stems, problems)


def strip_prefixes(name: str) -> str:
    """Removes what PEFT and pipelines put before a module's name, and PEFT's default adapter."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name.replace(".default.", ".")


def _read_config(folder: Path, files: Sequence[Path], problems: list[str]) -> Json:
    """Reads `adapter_config.json`, or what diffusers wrote into the header instead."""
    if (folder / CONFIG).is_file() or not files:
        return configs.read_json(folder / CONFIG, problems) or {}
    header = tensorfile.read_metadata(files[0]).get(_HEADER_KEY)
    if header is None:
        problems.append(
            f"missing: {CONFIG}, and {files[0].name} does not state r and lora_alpha either; "
            "without them nobody knows how strong the adapter is"
        )
        return {}
    try:
        values = dict(json.loads(header))
    except (ValueError, TypeError) as error:
        problems.append(f"corrupt: {_HEADER_KEY} of {files[0].name} cannot be read ({error})")
        return {}
    return {key.removeprefix(_PIPELINE_PREFIX): value for key, value in values.items()}


def _official_names(
    found: Mapping[str, Stored], config: ModelConfig | Qwen3Config
) -> dict[str, Stored]:
    """Strips prefixes, and turns diffusers' names into official ones."""
    official: dict[str, str] = {}
    if not isinstance(config, Qwen3Config):
        for entry in linear_entries(config):
            stem = entry.name.removesuffix(".weight")
            official[diffusers_name(entry.name).removesuffix(".weight")] = stem
    stored = {}
    for name, tensor in found.items():
        stem, mark, rest = strip_prefixes(name).partition(".lora_")
        stored[official.get(stem, stem) + mark + rest] = tensor
    return stored


def _read_spec(
    stated: Json,
    stored: Mapping[str, Stored],
    config: ModelConfig | Qwen3Config,
    problems: list[str],
) -> LoRA | None:
    """Builds the spec from what is stated and, for the targets, from what is stored."""
    for key, plain in _PLAIN.items():
        if key in stated and stated[key] not in plain:
            problems.append(f"unsupported: {key} is {stated[key]!r}; only plain LoRA is read here")
    if any(".lokr_" in name for name in stored):
        problems.append("unsupported: these are LoKr factors; use weights.load_any_adapter")
    if problems:
        return None
    stems = {name.partition(".lora_")[0] for name in stored}
    known = {entry.name.removesuffix(".weight") for entry in linear_entries(config)}
    problems += [f"unexpected: {stem} is no linear layer here" for stem in sorted(stems - known)]
    try:
        rank, alpha = int(stated["r"]), float(stated["lora_alpha"])
        if stated.get("use_rslora"):
            alpha *= math.sqrt(rank)  # alpha / sqrt(r), said as alpha' / r
        return LoRA(
            rank=rank,
            alpha=alpha,
            dropout=float(stated.get("lora_dropout", 0.0)),
            targets=_targets(stems & known, known),
        )
    except (KeyError, TypeError, ValueError) as error:
        problems.append(f"configuration: {type(error).__name__} {error}")
        return None


def _targets(stems: set[str], known: set[str]) -> tuple[str, ...]:
    """Finds the shortest list of targets that names exactly these modules.

    A name alone where all of its kind are adapted, else with its parent, else the whole path.
    """

    def ends(stem: str) -> list[str]:
        parts = stem.split(".")
        return [".".join(parts[-count:]) for count in (1, 2, len(parts))]

    def named(target: str) -> set[str]:
        return {stem for stem in known if lora.matches(tuple(stem.split(".")), (target,))}

    chosen = {next(end for end in ends(stem) if named(end) <= stems) for stem in stems}
    order = {name: i for i, name in enumerate(lora.ATTENTION)}
    return tuple(sorted(chosen, key=lambda t: (order.get(t.rpartition(".")[2], len(order)), t)))
