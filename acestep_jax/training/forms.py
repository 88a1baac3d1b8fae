"""What of a DiT is trained: all of its weights, or adapters beside a frozen base.

    own = forms.start(config, "student", key, base)       # what the optimizer sees
    params = forms.attach(config, "student", own, base)   # what `Adapted` modules apply

Losses see the second alone, and need not know the form: gradients pass through `attach` to `own`.
As adapters start at zero product, a network of either form starts as the base.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from acestep_jax.nn import lora
from acestep_jax.nn.lora import LoRA
from acestep_jax.training.recipes.distill import Distill
from acestep_jax.typing import Key, Params


class Form(NamedTuple):
    """One form, as two functions."""

    start: Callable[[Key, Params, LoRA], Params]  # (key, base, spec) -> own
    attach: Callable[[Params, Params, LoRA], Params]  # (own, base, spec) -> a DiT's parameters


def _copy(key: Key, base: Params, spec: LoRA) -> Params:
    del key, spec
    return jax.tree.map(lambda x: x.astype(jnp.float32), base)


def _itself(own: Params, base: Params, spec: LoRA) -> Params:
    del base, spec
    return own


def _beside(own: Params, base: Params, spec: LoRA) -> Params:
    return lora.WithAdapters(base, lora.collection(own, spec.scale))


FORMS = {"full": Form(_copy, _itself), "lora": Form(lora.init, _beside)}
"""Forms by the name that `Distill.form` gives."""


def specs(config: Distill) -> dict[str, LoRA]:
    """Lists the adapters of the networks that have the teacher's shape."""
    return {"student": config.adapter, "fake": config.fake_adapter}


def start(config: Distill, name: str, key: Key, base: Params) -> Params:
    """Makes what is trained of the network `name`, so that it computes what `base` does."""
    return FORMS[config.form].start(key, base, specs(config)[name])


def attach(config: Distill, name: str, own: Params, base: Params | None) -> Params:
    """Gives the parameters that modules take for what is trained; the discriminator's are its own.

    Args:
      config: the run.
      name: the network.
      own: what is trained of it.
      base: the teacher's parameters; full weights do without.
    """
    if name not in specs(config):
        return own
    return FORMS[config.form].attach(own, base, specs(config)[name])


def merge(config: Distill, name: str, own: Params, base: Params) -> Params:
    """Gives the network `name` as plain parameters, adapters added to the base's kernels."""
    params = attach(config, name, own, base)
    if isinstance(params, lora.WithAdapters):
        return lora.merge(params.params, params.lora).params
    return params
