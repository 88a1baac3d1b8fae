"""Kronecker adapters (LoKr) as LyCORIS and PEFT store them: W becomes W + scale (w1 ⊗ w2).

Yeh et al. 2023, arXiv:2309.14859. Of a layer [out, in] with out = a c and in = b d, w1 is [a, b]
and w2 [c, d]; either may be stored as a product of two thin factors. Two sets of names:

  LyCORIS  lycoris_layers_0_self_attn_q_proj.lokr_w1, .lokr_w2_a [c, r], .lokr_w2_b [r, d], .alpha:
           `lokr_weights.safetensors`, which the release's trainer writes
  PEFT     base_model.model.layers.0.self_attn.q_proj.lokr_w1 ... beside `adapter_config.json`

scale is alpha / r; LyCORIS sets it to 1 where both factors are whole, which they are at the sizes
that the release trains (dimension 64). Such a product has full rank in general, so it is merged
into the kernels and never applied beside them.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from acestep_jax.nn import lora
from acestep_jax.nn.config import ModelConfig, Qwen3Config
from acestep_jax.weights import adapters, configs, convert, tensorfile
from acestep_jax.weights.adapters import Adapter
from acestep_jax.weights.configs import Json
from acestep_jax.weights.names import Entry
from acestep_jax.weights.tensorfile import CheckpointError, Stored

_STEMS = ("lokr_weights", "adapter_model")
_MARK = ".lokr_"
_WHOLE = {"w1": ("w1",), "w2": ("w2",)}
_PARTS = {"w1": ("w1_a", "w1_b"), "w2": ("w2_a", "w2_b")}


@dataclasses.dataclass(frozen=True)
class Factors:
    """What is added to one layer.

    Attributes:
      entry: the released kernel [out, in], and where ours is.
      w1, w2: [a, b] and [c, d], float32.
      scale: of their product.
    """

    entry: Entry
    w1: np.ndarray
    w2: np.ndarray
    scale: float

    def delta(self) -> np.ndarray:
        """Computes scale (w1 ⊗ w2), turned to our kernel [in, out]."""
        return np.float32(self.scale) * np.kron(self.w1.T, self.w2.T)


@dataclasses.dataclass(frozen=True)
class Kronecker:
    """A trained LoKr, layer by layer."""

    layers: tuple[Factors, ...]

    def deltas(self, weight: float = 1.0) -> Iterator[tuple[lora.Path, np.ndarray]]:
        """Yields (module, what `weight` times the adapter adds to its kernel), stack by stack."""
        groups: dict[lora.Path, list[Factors]] = {}
        for layer in self.layers:
            groups.setdefault(layer.entry.path[:-1], []).append(layer)
        for path, layers in groups.items():
            delta = np.zeros(layers[0].entry.leaf_shape, np.float32)
            for layer in layers:
                row = ... if layer.entry.row is None else layer.entry.row
                delta[row] = np.float32(weight) * layer.delta()
            yield path, delta


def load_any(where: str | os.PathLike, config: ModelConfig | Qwen3Config) -> Adapter | Kronecker:
    """Loads an adapter of either kind; see `load_kronecker` and `adapters.load_adapter`."""
    _, files = adapters.locate(where, (*_STEMS, "pytorch_lora_weights"), [])
    found = tensorfile.read_headers(files, [])
    if any(_MARK in name for name in found):
        return load_kronecker(where, config)
    return adapters.load_adapter(where, config)


def load_kronecker(where: str | os.PathLike, config: ModelConfig | Qwen3Config) -> Kronecker:
    """Loads a LoKr in either naming.

    Args:
      where: a folder, a hub id, or the safetensors file itself.
      config: of the network that it shall adapt.

    Raises:
      FileNotFoundError: if there is no such folder.
      CheckpointError: if it is no LoKr of this network; it lists all that is wrong.
    """
    problems: list[str] = []
    folder, files = adapters.locate(where, _STEMS, problems)
    found = tensorfile.read_headers(files, problems)
    stated: Json = {}
    if (folder / adapters.CONFIG).is_file():
        stated = configs.read_json(folder / adapters.CONFIG, problems) or {}
    problems += [
        f"unsupported: {key} is {stated[key]!r}; only plain LoKr is read here"
        for key in ("rank_pattern", "alpha_pattern", "bias")
        if stated.get(key) not in (None, {}, "none")
    ]
    layers = _read_layers(found, config, stated, problems)
    if problems:
        raise CheckpointError(where, problems)
    return Kronecker(tuple(layers))


def _read_layers(
    found: Mapping[str, Stored],
    config: ModelConfig | Qwen3Config,
    stated: Json,
    problems: list[str],
) -> list[Factors]:
    """Reads the layers whose tensors are all there; what is wrong with others is a problem."""
    entries = _known_modules(config)
    groups: dict[str, dict[str, Stored]] = {}
    for name, stored in found.items():
        stem, _, part = adapters.strip_prefixes(name).rpartition(".")
        groups.setdefault(stem, {})[part.removeprefix("lokr_")] = stored
    layers = []
    for stem, parts in sorted(groups.items()):
        entry = entries.get(stem)
        if entry is None:
            problems.append(f"unexpected: {stem} is no linear layer here")
            continue
        layer = _read_layer(stem, entry, parts, stated, problems)
        layers += [] if layer is None else [layer]
    if not groups:
        problems.append("missing: there is no LoKr factor in it")
    return layers


def _known_modules(config: ModelConfig | Qwen3Config) -> dict[str, Entry]:
    """Lists the linear layers under each name that a LoKr may call them by."""
    known = {}
    for entry in adapters.linear_entries(config):
        names = [entry.name]
        if not isinstance(config, Qwen3Config):
            names.append(adapters.diffusers_name(entry.name))
        for name in names:
            stem = name.removesuffix(".weight")
            known[stem] = entry
            known["lycoris_" + stem.replace(".", "_")] = entry
    return known


def _read_layer(
    stem: str, entry: Entry, parts: Mapping[str, Stored], stated: Json, problems: list[str]
) -> Factors | None:
    values = {part: tensorfile.read_tensor(stored) for part, stored in parts.items()}
    wrong = [f"corrupt: {stem}.{part} holds NaN or infinite values"
             for part, value in values.items() if not convert.is_finite(value)]  # fmt: skip
    values = {part: convert.cast(value, np.dtype(np.float32)) for part, value in values.items()}
    factors = {name: _factor(name, values) for name in _WHOLE}
    used = {"alpha", *(p for name in _WHOLE for p in (*_WHOLE[name], *_PARTS[name]))}
    wrong += [f"unsupported: {stem} has {part}; only plain LoKr is read here"
              for part in sorted(values.keys() - used)]  # fmt: skip
    w1, w2 = factors["w1"], factors["w2"]
    if w1 is None or w2 is None:
        wrong.append(f"missing: {stem} has {', '.join(sorted(values))}, but not two factors")
    elif (w1.shape[0] * w2.shape[0], w1.shape[1] * w2.shape[1]) != entry.shape:
        wrong.append(
            f"shape: {stem} is {list(w1.shape)} by {list(w2.shape)}, the configuration needs "
            f"{list(entry.shape)}"
        )
    scale = _scale(stem, values, stated, wrong)
    problems += wrong
    return None if wrong or w1 is None or w2 is None else Factors(entry, w1, w2, scale)


def _factor(name: str, values: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Gives a factor, whole or multiplied from its parts; None where it is neither."""
    if name in values:
        return values[name] if values[name].ndim == 2 else None
    left, right = (values.get(part) for part in _PARTS[name])
    if left is None or right is None or left.ndim != 2 or left.shape[1:] != right.shape[:1]:
        return None
    return left @ right


def _scale(stem: str, values: Mapping[str, np.ndarray], stated: Json, problems: list[str]) -> float:
    """Finds alpha / r: PEFT's in its configuration, LyCORIS' alpha beside the factors."""
    if "alpha" not in values:
        try:
            return float(stated["alpha"]) / int(stated["r"])
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            problems.append(
                f"missing: {stem} has no alpha, and no {adapters.CONFIG} states alpha and r"
            )
            return 1.0
    thin: Sequence[str] = [part for part in ("w1_b", "w2_b") if part in values]
    return float(values["alpha"]) / len(values[thin[0]]) if thin else 1.0
