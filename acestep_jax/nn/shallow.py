"""A DiT cut off behind its first layers, for readers of what happens there.

Cross-attention maps of layer 6 need layers 0 to 6 of 24: a network of that depth, with that part of
the parameters, computes the same up to there, in a quarter of the time.
"""

import dataclasses

import jax

from acestep_jax.nn.dit import DiT
from acestep_jax.nn.lora import Adapted, WithAdapters
from acestep_jax.typing import Params


def shallow(
    dit: DiT | Adapted, params: Params | WithAdapters, depth: int
) -> tuple[DiT | Adapted, Params | WithAdapters]:
    """Keeps the first `depth` layers of a DiT.

    Args:
      dit: the network, or one that may be adapted.
      params: its parameters, or those with adapters beside them. Slices of the stacks, so that
        nothing is copied within a compiled program.
      depth: from 1 to the DiT's own.

    Returns:
      The network and its parameters. Its velocity means nothing; its taps and maps are those of
      the whole.

    Raises:
      ValueError: if the DiT has not that many layers.
    """
    whole = dit.module if isinstance(dit, Adapted) else dit
    if not 1 <= depth <= whole.config.num_hidden_layers:
        raise ValueError(
            f"{depth} layers of this DiT were asked for; it has {whole.config.num_hidden_layers}."
        )
    config = dataclasses.replace(whole.config, num_hidden_layers=depth)
    if isinstance(params, WithAdapters):
        kept = params._replace(params=_cut(params.params, depth), lora=_cut(params.lora, depth))
        return dit.clone(config=config), kept
    return dit.clone(config=config), _cut(params, depth)


def _cut(params: Params, depth: int) -> Params:
    """Keeps what belongs to the first layers; of adapters some parts may be missing."""
    layers, num_pairs = params.get("layers", {}), depth // 2
    pairs = layers.get("pairs", {})
    kept = {"pairs": jax.tree.map(lambda x: x[:num_pairs], pairs)} if num_pairs else {}
    if depth % 2:
        stacked = max((len(leaf) for leaf in jax.tree.leaves(pairs)), default=0)
        if num_pairs < stacked:  # in the whole, the last one is half of a pair
            kept["last"] = jax.tree.map(lambda x: x[num_pairs], pairs.get("sliding", {}))
        else:
            kept["last"] = layers.get("last", {})
    return {**params, "layers": kept}
