"""The axis legend of the whole codebase, and names for the arrays that travel most.

Letters, in einsum strings, annotations and suffixes alike:

  B batch · T query position (25 Hz frame in the DiT, token in the planner) · S key position ·
  P patch (12.5 Hz) · L condition token · N query head · K key-value head · G query heads a
  key-value head · H head width · D model width · F feed-forward width · V vocabulary ·
  C latent channel · Q audio code (5 Hz) · W audio sample (48 kHz) · M group member · I solver time
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax

Array: TypeAlias = jax.Array
"""Any array; docstrings and comments carry the axes."""

Key: TypeAlias = jax.Array
"""A typed key, `jax.random.key(seed)`."""

Params: TypeAlias = Mapping[str, Any]
"""A tree of parameters: nested dictionaries of arrays."""
