"""Adapters in use: a DiT with some of them, on the fly or merged, beside the one without.

Nothing is changed in place. The adapted networks and parameters are new values that share every
array they can with the base, so that whoever keeps the base has it back bit for bit.
"""

import dataclasses
import os
from collections.abc import Sequence

from acestep_jax import weights
from acestep_jax.nn import lora
from acestep_jax.nn.config import ModelConfig
from acestep_jax.nn.model import Networks
from acestep_jax.typing import Params
from acestep_jax.weights.adapters import Adapter
from acestep_jax.weights.lokr import Kronecker

AnyAdapter = Adapter | Kronecker


def load_all(
    wanted: Sequence[tuple[str | os.PathLike | AnyAdapter, float]], config: ModelConfig
) -> list[tuple[AnyAdapter, float]]:
    """Loads those adapters that are named by a folder, file or hub id; all with their weights."""
    return [
        (item if isinstance(item, AnyAdapter) else weights.load_any_adapter(item, config), weight)
        for item, weight in wanted
    ]


def adapt(
    networks: Networks,
    params: Params,
    adapters: Sequence[tuple[AnyAdapter, float]],
    *,
    merge: bool = False,
) -> tuple[Networks, Params]:
    """Gives networks and parameters whose DiT has adapters, each `weight` times as strong.

    Args:
      networks, params: the base.
      adapters: LoRA and LoKr, in any number. They add up, whatever their order.
      merge: add LoRA to the kernels, which costs no time when sampling and a copy of the adapted
        kernels; otherwise its product is computed beside them. LoKr, of full rank, is always added.

    Raises:
      ValueError: if one does not fit the DiT.
    """
    dit = params["dit"]
    for adapter, weight in adapters:
        if isinstance(adapter, Kronecker):
            dit = lora.add_deltas(dit, adapter.deltas(weight)).params
    collections = [a.collection(weight) for a, weight in adapters if isinstance(a, Adapter)]
    if not collections:
        return networks, {**params, "dit": dit}
    together = lora.combine(collections)
    if merge:
        return networks, {**params, "dit": lora.merge(dit, together).params}
    lora.check(dit, together)
    beside = dataclasses.replace(networks, dit=lora.Adapted(networks.dit))
    return beside, {**params, "dit": lora.WithAdapters(dit, together)}
