"""Low-rank adapters beside a frozen network: W x becomes W x + (alpha / r) B A x.

Hu et al. 2021, arXiv:2106.09685. Adapters are a tree of their own, shaped like the parameters they
belong to: where a `Linear` keeps its `kernel` [in, out], the adapter keeps `lora_a` [in, r] and
`lora_b` [r, out], with the same leading axis where layers are stacked. B starts at zero, so that a
fresh adapter changes nothing.

    adapters = lora.init(key, params["dit"], spec)                          # what is trained
    dit = lora.Adapted(networks.dit)                                        # takes either
    dit.apply({"params": params["dit"]}, ...)                               # the base, bit for bit
    adapted = lora.WithAdapters(params["dit"], lora.collection(adapters, spec.scale))
    dit.apply({"params": adapted}, ...)                                     # the base, adapted

Whatever calls a module with `{"params": ...}` (samplers, losses, scenes) so serves adapters too.
"""

import dataclasses
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from acestep_jax.typing import Array, Key, Params

Path = tuple[str, ...]

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
"""What the release adapts: the projections of self- and cross-attention."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRA:
    """Which layers get adapters, and of what kind. The defaults are the release's."""

    rank: int = 8  # inner width of every adapter
    alpha: float = 16.0  # an adapter's product counts alpha / rank times
    dropout: float = 0.1  # chance of an adapter's input to be dropped, in training
    targets: tuple[str, ...] = ATTENTION  # names of projections, or ends of paths: self_attn.q_proj

    def __post_init__(self) -> None:
        problems = []
        if self.rank < 1:
            problems.append(f"rank={self.rank} must be 1 or more; to train without adapters, don't")
        if self.alpha <= 0:
            problems.append(f"alpha={self.alpha} must be positive")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout={self.dropout} must lie in [0, 1)")
        if not self.targets:
            problems.append(f"targets is empty; the release adapts {', '.join(ATTENTION)}")
        if problems:
            raise ValueError("an adapter cannot be made so: " + "; ".join(problems) + ".")

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return self.alpha / self.rank


# Making and reading adapter trees ----------------------------------------------------------------


def matches(path: Path, targets: Sequence[str]) -> bool:
    """Tells whether a module's path ends with one of the targets, as PEFT compares names."""
    return any(path[-len(parts) :] == parts for parts in (tuple(t.split(".")) for t in targets))


def find_targets(params: Params, targets: Sequence[str]) -> list[Path]:
    """Lists the paths of the `Linear` modules that `targets` name.

    Raises:
      ValueError: if a target names none; it lists what there is to adapt.
    """
    linear = [path for path, leaves in _modules(params, "kernel") if is_linear(path, leaves)]
    for target in targets:
        if not any(matches(path, (target,)) for path in linear):
            names = sorted({path[-1] for path in linear})
            raise ValueError(
                f"target {target!r} names no linear layer; here are {', '.join(names)}, alone or "
                "after the name of the module that holds them (self_attn.q_proj)."
            )
    return [path for path in linear if matches(path, targets)]


def init(key: Key, params: Params, spec: LoRA) -> Params:
    """Makes fresh adapters: A uniform in ±1/sqrt(in) (Kaiming's, as PEFT draws it), B zero.

    Args:
      key: each module's draw depends on it and on the module's path alone.
      params: the parameters to adapt, or their shapes.
      spec: rank and targets.

    Returns:
      {...: {"lora_a": [..., in, r], "lora_b": [..., r, out]}}, float32.
    """
    tree: dict[str, Any] = {}
    for path in find_targets(params, spec.targets):
        *lead, fan_in, fan_out = _at(params, path)["kernel"].shape
        own = jax.random.fold_in(key, zlib.crc32("/".join(path).encode()))
        bound = fan_in**-0.5
        _insert(
            tree,
            path,
            {
                "lora_a": jax.random.uniform(
                    own, (*lead, fan_in, spec.rank), minval=-bound, maxval=bound
                ),
                "lora_b": jnp.zeros((*lead, spec.rank, fan_out)),
            },
        )
    return tree


def collection(adapters: Params, scale: float | Array, dropout: float = 0.0) -> Params:
    """Makes the variables of the collection `lora`: adapters with `scale` [..., r] and `dropout`.

    Args:
      adapters: from `init` or a file.
      scale: alpha / r, times whatever strength is wanted; may be traced.
      dropout: counts only where a key "dropout" is given, see `WithAdapters`.
    """

    def complete(leaves: Params) -> Params:
        *lead, _, rank = leaves["lora_a"].shape
        extra = {"scale": jnp.broadcast_to(jnp.asarray(scale, jnp.float32), (*lead, rank))}
        if dropout:
            extra["dropout"] = jnp.full(lead, dropout, jnp.float32)
        return {"lora_a": leaves["lora_a"], "lora_b": leaves["lora_b"], **extra}

    return _map_modules(complete, adapters)


def combine(collections: Sequence[Params]) -> Params:
    """Adds several adapters: one collection whose rank is the sum of theirs.

    Where one of them leaves a module alone, the others' adapters stand there unchanged.
    """
    paths: dict[Path, list[Params]] = {}
    for tree in collections:
        for path, leaves in _modules(tree, "lora_a"):
            paths.setdefault(path, []).append(leaves)
    tree: dict[str, Any] = {}
    for path, parts in paths.items():
        joined = {
            name: jnp.concatenate([part[name] for part in parts], axis=axis)
            for name, axis in (("lora_a", -1), ("lora_b", -2), ("scale", -1))
        }
        _insert(tree, path, joined)
    return tree


# Applying them on the fly ------------------------------------------------------------------------


class WithAdapters(NamedTuple):
    """Parameters with adapters beside them, for `Adapted`; stands where parameters would.

    Attributes:
      params: the base, untouched.
      lora: from `collection` or `combine`; {} for none.
      dropout_key: given in training, switches dropout on.
    """

    params: Params
    lora: Params
    dropout_key: Key | None = None


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A module whose "params" may be `WithAdapters`; with plain parameters it is the module."""

    module: nn.Module

    def clone(self, **changes: Any) -> "Adapted":
        """Copies it with some fields of the module changed."""
        return Adapted(self.module.clone(**changes))

    def apply(self, variables: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Applies the module as `nn.Module.apply` does."""
        given = variables["params"]
        if not isinstance(given, WithAdapters):
            return self.module.apply(variables, *args, **kwargs)
        if given.dropout_key is not None:
            kwargs["rngs"] = {"dropout": given.dropout_key, **kwargs.get("rngs", {})}
        return self.module.apply({"params": given.params, "lora": given.lora}, *args, **kwargs)


# Merging them into the base ----------------------------------------------------------------------


class Merged(NamedTuple):
    """Parameters with adapters merged in, and the kernels that they replaced.

    Rounding makes (W + D) - D differ from W, so the way back is to keep W: the memory of the
    adapted kernels once more, and of no others.
    """

    params: Params
    originals: Params


def merge(params: Params, lora: Params) -> Merged:
    """Adds every adapter to its kernel: W + A · scale B, in float32, in the kernel's dtype.

    Args:
      params: the base; left as it is.
      lora: from `collection` or `combine`.

    Raises:
      ValueError: if the adapters do not fit; it lists them all.
    """
    check(params, lora)

    def products() -> Iterator[tuple[Path, Array]]:
        for path, own in _modules(lora, "lora_a"):
            factors = (own[name].astype(jnp.float32) for name in ("lora_a", "scale", "lora_b"))
            yield (
                path,
                jnp.einsum(
                    "...DR,...R,...RF->...DF", *factors, precision=jax.lax.Precision.HIGHEST
                ),
            )

    return add_deltas(params, products())


def add_deltas(params: Params, deltas: Iterable[tuple[Path, Array]]) -> Merged:
    """Adds to kernels: W + D in float32, in the kernel's dtype.

    Args:
      params: the base; left as it is.
      deltas: (module, what to add to its kernel), each module once; consumed one at a time.

    Raises:
      ValueError: if one does not fit.
    """
    originals: dict[str, Any] = {}
    for path, delta in deltas:
        leaves = _at(params, path)
        kernel = leaves.get("kernel")
        if "codes" in leaves:
            raise ValueError(
                f"{'/'.join(path)} is 8-bit; LoKr and merged LoRA are added to whole kernels. Load "
                "the base in float32 or bfloat16, or apply LoRA without merging."
            )
        if kernel is None or kernel.shape != delta.shape:
            have = "no kernel" if kernel is None else kernel.shape
            raise ValueError(
                f"{'/'.join(path)}: the addition is {delta.shape}, the base has {have}."
            )
        merged = (kernel.astype(jnp.float32) + delta).astype(kernel.dtype)
        params = _replaced(params, path, {**leaves, "kernel": merged})
        _insert(originals, path, {"kernel": kernel})
    return Merged(params, originals)


def unmerge(merged: Merged) -> Params:
    """Puts the original kernels back: bit for bit what `merge` was given."""
    params = merged.params
    for path, kept in _modules(merged.originals, "kernel"):
        params = _replaced(params, path, {**_at(params, path), **kept})
    return params


def check(params: Params, adapters: Params) -> None:
    """Refuses adapters that do not belong to these parameters.

    Raises:
      ValueError: listing every module that is missing or of another shape.
    """
    problems = []
    for path, own in _modules(adapters, "lora_a"):
        leaves = _at(params, path)
        kernel = leaves.get("kernel", leaves.get("codes"))
        shape = (*own["lora_a"].shape[:-1], own["lora_b"].shape[-1])
        if kernel is None:
            problems.append(f"{'/'.join(path)} is no linear layer of the base")
        elif kernel.shape != shape:
            problems.append(f"{'/'.join(path)} fits {shape}, the base has {kernel.shape}")
    if problems:
        text = "\n  ".join(
            ["the adapters do not fit; were they trained on another base?", *problems]
        )
        raise ValueError(text)


# Walking trees -----------------------------------------------------------------------------------


def _modules(tree: Params, leaf: str, path: Path = ()) -> Iterator[tuple[Path, Params]]:
    """Yields (path, leaves) of every module that holds `leaf`, in the order of names."""
    if leaf in tree:
        yield path, tree
    for name in sorted(tree):
        if isinstance(tree[name], Mapping):
            yield from _modules(tree[name], leaf, (*path, name))


def _map_modules(change: Callable[[Params], Params], tree: Params) -> Params:
    if "lora_a" in tree:
        return change(tree)
    return {name: _map_modules(change, branch) for name, branch in tree.items()}


def is_linear(path: Path, leaves: Params) -> bool:
    """Tells a `Linear`, stacked or not, from the convolutions that join and split patches."""
    stacked = "layers" in path and "last" not in path
    return leaves["kernel"].ndim == 2 + stacked


def _at(tree: Params, path: Path) -> Params:
    for name in path:
        tree = tree.get(name, {})
    return tree


def _insert(tree: dict[str, Any], path: Path, value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def _replaced(tree: Params, path: Path, value: Any) -> Params:
    """Copies the dictionaries on the way to `path`, and no arrays."""
    if not path:
        return value
    return {**tree, path[0]: _replaced(tree[path[0]], path[1:], value)}
