"""What goes into the planner and what comes out."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from acestep_jax.ops.logits import Rules
from acestep_jax.tasks.planning import chat
from acestep_jax.tasks.planning.blueprint import Blueprint
from acestep_jax.tasks.request import BadRequest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawing:
    """How tokens are drawn; the defaults are the release's.

    Attributes:
      temperature: 0 takes the best token.
      top_k: keep this many of the best tokens; 0 keeps all.
      top_p: keep the fewest tokens of this mass; 1 keeps all.
      repetition_penalty: above 1 makes tokens already written less likely.
      guidance: strength in the second phase, away from `negative`; 1 is off.
      negative: what to lead away from.
      plan_temperature, code_temperature: in place of `temperature` in one phase.
      closed_turn: the layout of the first releases, which ended the turn before the codes.
      constrained: follow the grammar. Without it a plan may be no plan.
    """

    temperature: float = 0.85
    top_k: int = 0
    top_p: float = 0.9
    repetition_penalty: float = 1.0
    guidance: float = 2.0
    negative: str = chat.NO_INPUT
    plan_temperature: float | None = None
    code_temperature: float | None = None
    closed_turn: bool = False
    constrained: bool = True

    def __post_init__(self) -> None:
        problems = []
        if not 0 < self.top_p <= 1:
            problems.append(f"top_p={self.top_p} must lie in (0, 1]; 1 keeps all tokens")
        if self.top_k < 0:
            problems.append(f"top_k={self.top_k} must be 0 (all tokens) or more")
        if self.repetition_penalty <= 0:
            problems.append(f"repetition_penalty={self.repetition_penalty} must be positive")
        if not all(np.isfinite([self.temperature, self.guidance])):
            problems.append("temperature and guidance must be finite")
        if problems:
            raise BadRequest("; ".join(problems) + ".")

    def rules(self, batch: int, temperature: float | None, *, guided: bool) -> Rules:
        """Lays the settings out for a batch; what is switched off for all is left out."""

        def each(value: float, dtype: Any = jnp.float32) -> Any:
            return jnp.full(batch, value, dtype)

        heat = self.temperature if temperature is None else temperature
        return Rules(
            temperature=each(heat) if heat > 0 else None,
            top_k=each(self.top_k, jnp.int32) if self.top_k else None,
            top_p=each(self.top_p) if self.top_p < 1 else None,
            penalty=each(self.repetition_penalty) if self.repetition_penalty != 1 else None,
            guidance=each(self.guidance) if guided and self.guidance > 1 else None,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Brief:
    """What a plan is made from.

    Attributes:
      caption: the user's words.
      lyrics: as they are to be sung; `prompt.INSTRUMENTAL` for none.
      given: {field: value} of the blueprint that are settled; they are kept as they are.
      seconds: exact length of the codes; by default the blueprint's duration.
      seed: of all that is drawn for this item.
    """

    caption: str = ""
    lyrics: str = ""
    seconds: float | None = None
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Passage:
    """Tokens that were written, without padding.

    Attributes:
      tokens: int32 [M], the token that ended them included.
      log_probs: [M], under the distribution each was drawn from; 0 for tokens without a choice.
      due: [M], what the grammar asked for: see `ops.grammar.allowed`.
      finished: False if the budget ended them.
    """

    tokens: np.ndarray
    log_probs: np.ndarray
    due: np.ndarray
    finished: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A planned song.

    Attributes:
      blueprint: metadata, the given ones as given.
      codes: 5 Hz audio codes; empty if none were asked for.
      thought: the chain of thought as it stands before the codes.
      planned: what the first phase wrote; None where it was skipped.
      sung: what the second phase wrote; None where it was skipped.
    """

    blueprint: Blueprint
    codes: tuple[int, ...]
    thought: str
    planned: Passage | None
    sung: Passage | None


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """A described song: the answer of inspire, format and understand.

    Attributes:
      blueprint: its metadata and caption.
      lyrics: its words.
      instrumental: whether it was asked to have none.
      written: the whole answer.
    """

    blueprint: Blueprint
    lyrics: str
    instrumental: bool
    written: Passage
