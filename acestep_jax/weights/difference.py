"""A tuned model as its difference from the one it began as: a byte a weight.

    W' - W ~ codes · scale        as in `int8`, leaf by leaf; vectors in float32; equal leaves not

A folder of this form holds `config.json`, as any other, and `difference.safetensors`, whose header
names the folder or hub id of the base; a path is taken from the folder itself. `load_model` reads
it like every other. Rounding costs 0.8 % of what changed, not of the weights.

Command:  python -m acestep_jax.weights TUNED BASE OUT [--name ../acestep-v15-nano]
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.typing import Params
from acestep_jax.weights import configs, hub, int8, tensorfile
from acestep_jax.weights.checkpoint import Model, Source
from acestep_jax.weights.tensorfile import CheckpointError

FILE = "difference.safetensors"
_FORMAT = "acestep-jax difference"
_CODES, _SCALE = ".codes", ".scale"


def save_difference(folder: str | os.PathLike, tuned: Model, base: Model, *, name: str) -> None:
    """Saves what makes `tuned` of `base`.

    Args:
      folder: made if needed.
      tuned: the model; its encoded silence is the base's.
      base: what it is compared with, of the same shapes.
      name: where a reader finds the base: a hub id, or a path, relative ones from `folder`.

    Raises:
      ValueError: if the two differ in a shape or in their encoded silence.
    """
    from safetensors.numpy import save

    problems = _unlike(_leaves(tuned.params), _leaves(base.params))
    if not np.array_equal(tuned.silence_latent, base.silence_latent):
        problems.append("silence_latent: differs; the two come from different autoencoders")
    if problems:
        raise ValueError("\n  ".join(["no difference can be taken:", *problems]))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = _differences(_leaves(tuned.params), _leaves(base.params))
    partial = folder / f"{FILE}.partial"
    with open(partial, "wb") as stream:
        stream.write(save(tensors, metadata={"format": _FORMAT, "base": name}))
    os.replace(partial, folder / FILE)
    configs.write_json(folder / "config.json", configs.model_config_to_json(tuned.config))


def base_of(folder: Path) -> Path:
    """Finds the folder of the base.

    Raises:
      CheckpointError: if the file does not name it.
      FileNotFoundError: if it is not there.
    """
    metadata = tensorfile.read_metadata(folder / FILE)
    if metadata.get("format") != _FORMAT or "base" not in metadata:
        raise CheckpointError(folder, [f"corrupt: {FILE} has no header that names a base"])
    local = folder / metadata["base"]
    return local.resolve() if local.is_dir() else hub.resolve(metadata["base"])


def add(base: Model, folder: Path) -> Model:
    """Adds the difference in a folder to its base.

    Raises:
      CheckpointError: if the file is corrupt or does not fit the base; it lists all problems.
    """
    problems: list[str] = []
    tensors = _read(folder, problems)
    values = configs.read_json(folder / "config.json", problems)
    leaves = _leaves(base.params)
    problems += _unfit(tensors, leaves)
    if problems or values is None:
        raise CheckpointError(folder, problems)

    def moved(path: Any, leaf: Any) -> Any:
        change = _change(tensors, _name(path))
        if change is None:
            return leaf
        placed = jax.make_array_from_callback(leaf.shape, leaf.sharding, change.__getitem__)
        return (leaf.astype(jnp.float32) + placed).astype(leaf.dtype)

    params = jax.tree_util.tree_map_with_path(moved, base.params)
    config = configs.read_model_config(values)
    return Model(config, params, base.silence_latent, Source(configs={"": values}))


def _name(path: Any) -> str:
    return "/".join(key.key for key in path)


def _leaves(params: Params) -> dict[str, Any]:
    return {_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(params)}


def _unlike(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {getattr(ours.get(name), 'shape', 'nothing')} is tuned, "
        f"{getattr(theirs.get(name), 'shape', 'nothing')} its base"
        for name in sorted(ours.keys() | theirs.keys())
        if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape
    ]


def _differences(tuned: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for name in tuned:
        change = np.asarray(tuned[name], np.float32) - np.asarray(base[name], np.float32)
        if not change.any():
            continue
        if change.ndim < 2:
            tensors[name] = change
            continue
        rounded = int8.quantize_kernel(change)
        tensors[name + _CODES] = np.asarray(rounded["codes"])
        tensors[name + _SCALE] = np.asarray(rounded["scale"])
    return tensors


def _read(folder: Path, problems: list[str]) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(folder / FILE)
    except (SafetensorError, OSError) as error:
        problems.append(f"corrupt: {FILE} cannot be read ({error})")
        return {}


def _unfit(tensors: Mapping[str, np.ndarray], leaves: Mapping[str, Any]) -> list[str]:
    """Lists tensors of no leaf, of another shape, without their other half, or not finite."""
    problems = []
    for name, values in tensors.items():
        leaf = leaves.get(name.removesuffix(_CODES).removesuffix(_SCALE))
        if leaf is None:
            problems.append(f"unexpected: {name} {list(values.shape)}, which the base has not")
            continue
        whole = leaf.shape[:-2] + leaf.shape[-1:] if name.endswith(_SCALE) else leaf.shape
        other = {_CODES: _SCALE, _SCALE: _CODES}.get(name[-len(_CODES) :])
        if values.shape != whole:
            problems.append(f"shape: {name} is {list(values.shape)}, not {list(whole)}")
        if other and name[: -len(_CODES)] + other not in tensors:
            problems.append(f"missing: {name[: -len(_CODES)] + other}")
        if not np.isfinite(values).all():
            problems.append(f"corrupt: {name} holds NaN or infinite values")
    return problems


def _change(tensors: Mapping[str, np.ndarray], name: str) -> np.ndarray | None:
    if name + _CODES in tensors:
        leaves = {"codes": tensors[name + _CODES], "scale": tensors[name + _SCALE]}
        return np.asarray(int8.dequantize_kernel(leaves))
    return tensors.get(name)
