"""How modules read their parameters."""

from collections.abc import Callable

import flax.linen as nn
from flax import errors

from acestep_jax.typing import Array


def param(
    module: nn.Module, name: str, init: Callable[..., Array], shape: tuple[int, ...]
) -> Array:
    """Gives a parameter as `module.param` does, but traces its initializer only to make it.

    Flax traces the initializer at every use, to compare shapes, which were a tenth of the time that
    our programs took to trace; here the shape itself is compared.

    Args:
      module: a bound module.
      name: of the parameter.
      init: (key, shape) -> array.
      shape: of the parameter.

    Raises:
      flax.errors.ScopeParamShapeError: if the variables hold another shape.
    """
    if not module.has_variable("params", name):
        return module.param(name, init, shape)
    value = module.get_variable("params", name)
    if value.shape != shape:
        path = module.scope.path_text if module.scope else name
        raise errors.ScopeParamShapeError(name, path, value.shape, shape)
    return value
