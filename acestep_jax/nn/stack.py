"""Stacks of layers that alternate sliding and full attention, run as one scanned pair.

Even layers see a window, odd layers everything. Two neighbours are scanned together, so that the
window stays a constant of the program and 24 layers compile as fast as two; an odd depth leaves one
sliding layer behind the scan. Parameters: `pairs/{sliding,full}/...` with a leading axis of
num_layers // 2, and `last/...`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from acestep_jax.typing import Array

MakeLayer = Callable[..., nn.Module]
RunLayer = Callable[[nn.Module, Array, Any, Any], tuple[Array, dict[str, Array]]]
"""(layer, hidden, shared, own) -> (hidden, what may be tapped, by name)."""


class Pair(nn.Module):
    """Holds a sliding layer and the full one that follows it."""

    make_layer: MakeLayer
    window: int | None

    def setup(self) -> None:
        self.sliding = self.make_layer(window=self.window)
        self.full = self.make_layer(window=None)


class AlternatingStack(nn.Module):
    """Runs `num_layers` layers, even ones with `window`.

    Attributes:
      make_layer: builds a layer from the keyword `window`.
      num_layers: depth.
      window: of the even layers.
      remat: recompute each pair in the backward pass instead of keeping its activations.
    """

    make_layer: MakeLayer
    num_layers: int
    window: int | None
    remat: bool = False

    def setup(self) -> None:
        if self.num_layers >= 2:
            self.pairs = Pair(self.make_layer, self.window)
        if self.num_layers % 2:
            self.last = self.make_layer(window=self.window)

    def run(
        self,
        run_layer: RunLayer,
        hidden: Array,
        shared: Any,
        per_layer: Any = None,
        taps: Mapping[str, tuple[int, ...]] | None = None,
    ) -> tuple[Array, dict[str, dict[int, Array]]]:
        """Carries `hidden` through every layer.

        Args:
          run_layer: applies one layer.
          hidden: [B, T, D].
          shared: arrays every layer reads.
          per_layer: arrays with a leading axis of num_layers, one slice a layer; or None.
          taps: what to bring out, {name: layers}; names are those `run_layer` offers.

        Returns:
          The final stream, and {name: {layer: array}}.
        """
        wanted_layers = self._checked(taps or {})
        num_pairs = self.num_layers // 2
        tapped: dict[str, dict[int, Array]] = {name: {} for name in wanted_layers}

        def body(pair: Pair, hidden: Array, own: Any, shared: Any) -> tuple[Array, Any]:
            hidden, even = run_layer(pair.sliding, hidden, shared, _at(own, 0))
            hidden, odd = run_layer(pair.full, hidden, shared, _at(own, 1))
            wanted = {
                (name, side): offered[name]
                for side, offered in enumerate((even, odd))
                for name, layers in wanted_layers.items()
                if any(layer % 2 == side and layer < 2 * num_pairs for layer in layers)
            }
            return hidden, wanted

        if num_pairs:
            own = jax.tree.map(lambda x: _paired(x, num_pairs), per_layer)
            hidden, outputs = self._scan(body, num_pairs)(self.pairs, hidden, own, shared)
            for name, layers in wanted_layers.items():
                for layer in layers:
                    if layer < 2 * num_pairs:
                        tapped[name][layer] = outputs[name, layer % 2][layer // 2]
        if self.num_layers % 2:
            hidden, offered = run_layer(self.last, hidden, shared, _at(per_layer, -1))
            for name, layers in wanted_layers.items():
                if self.num_layers - 1 in layers:
                    tapped[name][self.num_layers - 1] = offered[name]
        return hidden, tapped

    def collect(self, compute: Callable[[nn.Module, Any], Any], shared: Any) -> Any:
        """Applies `compute(layer, shared)` to every layer and stacks the results by layer."""
        num_pairs = self.num_layers // 2

        def body(pair: Pair, carry: None, own: None, shared: Any) -> tuple[None, Any]:
            both = compute(pair.sliding, shared), compute(pair.full, shared)
            return carry, jax.tree.map(lambda *x: jnp.stack(x), *both)

        stacked = []
        if num_pairs:
            _, pairs = self._scan(body, num_pairs)(self.pairs, None, None, shared)
            stacked.append(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), pairs))
        if self.num_layers % 2:
            stacked.append(jax.tree.map(lambda x: x[None], compute(self.last, shared)))
        return jax.tree.map(lambda *x: jnp.concatenate(x), *stacked)

    def _scan(self, body: Callable[..., Any], length: int) -> Callable[..., Any]:
        if self.remat:
            body = nn.remat(body, prevent_cse=False)  # a scan's body is never merged with another
        return nn.scan(
            body,
            variable_axes={"params": 0, "lora": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast),
            length=length,
        )

    def _checked(self, taps: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        for name, layers in taps.items():
            wrong = [layer for layer in layers if not 0 <= layer < self.num_layers]
            if wrong:
                raise ValueError(
                    f"{name} of layers {wrong} was asked for; this stack has layers 0 to "
                    f"{self.num_layers - 1}."
                )
        return dict(taps)


def _at(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def _paired(x: Array, num_pairs: int) -> Array:
    return x[: 2 * num_pairs].reshape(num_pairs, 2, *x.shape[1:])


def run_plain_layer(
    layer: nn.Module, hidden: Array, shared: Any, own: None
) -> tuple[Array, dict[str, Array]]:
    """Runs a `TransformerLayer`; `shared` is its (rotation, key mask)."""
    del own
    return layer(hidden, *shared), {}
