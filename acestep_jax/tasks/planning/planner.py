"""The planner's modes: write a plan, expand a query, format a song, describe one from its codes.

    planner = Planner.load("checkpoints/acestep-5Hz-lm-1.7B")
    plan = planner.generate([Brief(caption="a quiet waltz", lyrics="[Instrumental]")])[0]
    plan.blueprint.bpm, plan.codes

A plan is made in two phases: the chain of thought, under the grammar and without guidance; then the
codes, behind the thought as PyYAML writes it, with guidance. Each item is drawn by its own seed in
both, so that a brief gives the same plan wherever it stands in a batch.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax import weights
from acestep_jax.nn.config import Qwen3Config
from acestep_jax.nn.qwen3 import Qwen3
from acestep_jax.ops import grammar as grammar_lib
from acestep_jax.sampling import buckets, decode
from acestep_jax.sampling import flow as sampling_flow
from acestep_jax.sampling.decode import Prompts, Span, Written
from acestep_jax.tasks import tokens as tokens_lib
from acestep_jax.tasks.planning import blueprint as blueprint_lib
from acestep_jax.tasks.planning import chat, grammar
from acestep_jax.tasks.planning.blueprint import Blueprint
from acestep_jax.tasks.planning.grammar import Book, Rulebook
from acestep_jax.tasks.planning.values import Brief, Drawing, Passage, Plan, Sample
from acestep_jax.tasks.planning.vocabulary import Vocabulary
from acestep_jax.tasks.prompt import INSTRUMENTAL
from acestep_jax.tasks.request import CODES_PER_SECOND, MAX_SECONDS, BadRequest
from acestep_jax.typing import Array, Key, Params

__all__ = ["Brief", "Drawing", "Passage", "Plan", "Planner", "Sample"]

CONTEXT = 8192
"""Longest prompt and answer together, if the model's own context is not shorter."""
MAX_LYRIC_TOKENS = 4096
"""Longest free text of inspire, format and understand."""
_MAX_CODES = int(MAX_SECONDS) * CODES_PER_SECOND
_ALL_FOUR = ("bpm", "duration", "keyscale", "timesignature")
"""Given all of them, nothing is left to think about, and the release skips the first phase."""
_PLAN, _SING = 1, 2
"""Folded into an item's key: the first and the second phase."""


@dataclasses.dataclass(frozen=True, eq=False)
class Planner:
    """A planner's network, its parameters, and its grammar.

    Attributes:
      module: a Qwen3, with or without adapters beside it (`nn.lora.Adapted`).
      params: of it.
      book: vocabulary and tables.
      context: longest prompt and answer together.
      lyric_tokens: longest free text behind a chain of thought.
      batch_size: most items that are decoded at once.
    """

    module: Any
    params: Params
    book: Book
    context: int = CONTEXT
    lyric_tokens: int = MAX_LYRIC_TOKENS
    batch_size: int = 8

    @classmethod
    def load(
        cls, where: str, *, dtype: Any = jnp.float32, rules: Rulebook | None = None
    ) -> "Planner":
        """Loads a planner's folder or hub id.

        Args:
          where: with config.json, safetensors and tokenizer.json.
          dtype: of parameters, products and cache.
          rules: of the grammar.

        Raises:
          FileNotFoundError, weights.CheckpointError, ValueError: if it is no whole planner.
        """
        network = weights.load_qwen3(where, dtype=dtype)
        tokenizer = tokens_lib.load_tokenizer(str(weights.resolve(where)))
        return cls.of(network.config, network.params, tokenizer, dtype=dtype, rules=rules)

    @classmethod
    def of(
        cls,
        config: Qwen3Config,
        params: Params,
        tokenizer: Any,
        *,
        dtype: Any = jnp.float32,
        rules: Rulebook | None = None,
    ) -> "Planner":
        """Builds a planner from what a training holds."""
        book = grammar.build(Vocabulary.of(tokenizer, config.vocab_size), rules)
        context = min(CONTEXT, config.max_position_embeddings)
        return cls(Qwen3(config, dtype=jnp.dtype(dtype)), params, book, context)

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens."""
        return self.book.vocabulary

    @property
    def span(self) -> Span:
        """Where the codes stand."""
        first = self.vocabulary.first_code
        return Span(first, first + self.vocabulary.num_codes, self.vocabulary.stop)

    # Modes ---------------------------------------------------------------------------------------

    def generate(
        self,
        briefs: Sequence[Brief],
        drawing: Drawing | None = None,
        *,
        think: bool = True,
        write_caption: bool = True,
        write_language: bool = True,
        sing: bool = True,
        share_plan: bool = False,
    ) -> list[Plan]:
        """Plans songs: metadata, then codes.

        Args:
          briefs: any number.
          drawing: how tokens are drawn.
          think: fill in the metadata that are not given.
          write_caption: let the plan hold a caption of its own.
          write_language: let it name the language.
          sing: write codes; else the plan is all.
          share_plan: think once for briefs that differ in their seed alone, by the first one's, as
            the release does; each still has codes of its own.

        Raises:
          BadRequest: for values that no blueprint holds, or text beyond the context.
        """
        drawing = drawing or Drawing()
        for brief in briefs:
            grammar.check_given(brief.given, self.book.rules)
        skip = ["genres"] + ["caption"] * (not write_caption) + ["language"] * (not write_language)
        first = _first_alike(briefs) if share_plan else list(range(len(briefs)))
        planned: list[Passage | None] = [None] * len(briefs)
        if think:
            planned = self._think(briefs, drawing, skip, first)
        blueprints = [self._blueprint(b, own) for b, own in zip(briefs, planned, strict=True)]
        thoughts = [blueprint_lib.write_cot(own.known()) for own in blueprints]
        sung: Sequence[Passage | None] = [None] * len(briefs)
        if sing:
            lengths = [b.seconds or own.duration for b, own in zip(briefs, blueprints, strict=True)]
            sung = self._sing(briefs, thoughts, lengths, drawing)
        codes = [self.vocabulary.codes(own.tokens) if own else () for own in sung]
        rows = zip(blueprints, codes, thoughts, planned, sung, strict=True)
        return [Plan(*row) for row in rows]

    def inspire(
        self,
        query: str,
        drawing: Drawing | None = None,
        *,
        instrumental: bool = False,
        language: str = "unknown",
        seed: int = 0,
    ) -> Sample:
        """Makes up a song from a few words.

        Args:
          query: the words; blank ones leave it to the model.
          drawing: how tokens are drawn.
          instrumental: without singing.
          language: of the lyrics; "unknown" leaves it to the model.
          seed: of what is drawn.
        """
        given = {} if language in ("", "unknown") else {"language": language}
        prompt = chat.inspire_prompt(query, instrumental=instrumental)
        sample = self._describe(prompt, given, seed, drawing or Drawing())
        lyrics = sample.lyrics or (INSTRUMENTAL if instrumental else "")
        return dataclasses.replace(sample, lyrics=lyrics, instrumental=instrumental)

    def format(
        self,
        caption: str,
        lyrics: str,
        drawing: Drawing | None = None,
        *,
        given: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> Sample:
        """Rewrites caption and lyrics in good form; given metadata are kept."""
        prompt = chat.format_prompt(caption, lyrics)
        sample = self._describe(prompt, given or {}, seed, drawing or Drawing())
        return dataclasses.replace(sample, lyrics=sample.lyrics or lyrics)

    def understand(
        self, codes: Sequence[int], drawing: Drawing | None = None, *, seed: int = 0
    ) -> Sample:
        """Describes the song that audio codes stand for; without codes an example is made up."""
        self.vocabulary.code_tokens(codes)  # refuses those that do not exist
        drawing = drawing or Drawing(temperature=0.3)  # the release's, below its API
        return self._describe(chat.understand_prompt(codes), {}, seed, drawing)

    # Phases --------------------------------------------------------------------------------------

    def _describe(
        self, prompt: chat.Parts, given: Mapping[str, Any], seed: int, drawing: Drawing
    ) -> Sample:
        program = self.book.program(given=given, ending="text")
        (passage,) = self._write([prompt], [program], [seed], drawing, self.lyric_tokens)
        text = self.vocabulary.decode(passage.tokens)
        text = text.removesuffix("<|endoftext|>").removesuffix("<|im_end|>")
        fields = blueprint_lib.parse_fields(blueprint_lib.reasoning_of(text))
        own = Blueprint.of(fields | dict(given))
        return Sample(own, blueprint_lib.parse_lyrics(text), False, passage)

    def _think(
        self, briefs: Sequence[Brief], drawing: Drawing, skip: Sequence[str], first: Sequence[int]
    ) -> list[Passage | None]:
        """Writes the thoughts of the briefs that leave something open.

        Args:
          briefs, drawing: as in `generate`.
          skip: fields that no thought holds.
          first: of every brief the one whose thought it takes.
        """
        open_ = [i for i, brief in enumerate(briefs) if not set(_ALL_FOUR) <= {*brief.given}]
        chosen = [i for i in open_ if first[i] == i]
        passages = self._write(
            [chat.plan_prompt(briefs[i].caption, briefs[i].lyrics) for i in chosen],
            [self.book.program(given=briefs[i].given, skip=skip) for i in chosen],
            [briefs[i].seed for i in chosen],
            drawing,
            text_tokens=0,
        )
        own = dict(zip(chosen, passages, strict=True))
        return [own[first[i]] if i in open_ else None for i in range(len(briefs))]

    def _blueprint(self, brief: Brief, planned: Passage | None) -> Blueprint:
        if planned is None:
            return Blueprint.of(brief.given)
        text = self.vocabulary.decode(planned.tokens)
        fields = blueprint_lib.parse_fields(blueprint_lib.reasoning_of(text))
        return Blueprint.of(fields | dict(brief.given))

    def _write(
        self,
        prompts: Sequence[chat.Parts],
        programs: Sequence[list[int]],
        seeds: Sequence[int],
        drawing: Drawing,
        text_tokens: int,
    ) -> list[Passage]:
        """Writes chains of thought, and `text_tokens` of free text at most."""
        if not drawing.constrained:
            programs = [self.book.free()] * len(programs)
        budget = buckets.token_bucket(self.book.plan_tokens, CONTEXT) + text_tokens
        ids = [self._encode(prompt, budget) for prompt in prompts]
        passages: list[Passage] = []
        for part in _chunks(len(ids), self.batch_size):
            batch = len(ids[part])
            prompts_, copies = self._share(ids[part], batch)
            written = decode.decode_text(
                self.module,
                self.params,
                prompts_,
                _keys(seeds[part], _PLAN),
                self._tables,
                self._programs(programs[part]),
                jnp.zeros(batch, jnp.int32),
                drawing.rules(batch, drawing.plan_temperature, guided=False),
                budget=budget,
                copies=copies,
            )
            passages += _passages(written)
        return passages

    def _sing(
        self,
        briefs: Sequence[Brief],
        thoughts: Sequence[str],
        durations: Sequence[float | None],
        drawing: Drawing,
    ) -> list[Passage]:
        """Writes the codes behind finished thoughts."""
        guided, closed = drawing.guidance > 1, drawing.closed_turn
        passages: list[Passage] = []
        for part in _chunks(len(briefs), self.batch_size):
            own = briefs[part]
            targets = [_code_range(duration) for duration in durations[part]]
            budget = buckets.token_bucket(max(most for _, most in targets) + 1, _MAX_CODES + 1)
            song = [
                chat.code_prompt(b.caption, b.lyrics, thought, closed=closed)
                for b, thought in zip(own, thoughts[part], strict=True)
            ]
            if guided:
                song += [
                    chat.code_negative(b.caption, b.lyrics, drawing.negative, closed=closed)
                    for b in own
                ]
            prompts, copies = self._share([self._encode(p, budget) for p in song], len(own))
            written = decode.decode_codes(
                self.module,
                self.params,
                prompts,
                _keys([b.seed for b in own], _SING),
                self.span,
                tuple(jnp.asarray(column, jnp.int32) for column in zip(*targets, strict=True)),
                drawing.rules(len(own), drawing.code_temperature, guided=guided),
                budget=budget,
                copies=copies,
                num_nodes=self.book.tables.num_nodes,
            )
            passages += _passages(written)
        return passages

    def _encode(self, prompt: chat.Parts, budget: int) -> list[int]:
        """Tokenises a prompt and sees to it that it and the answer fit the context."""
        ids = self.vocabulary.encode_prompt(prompt)
        if len(ids) + budget > self.context:
            raise BadRequest(
                f"the prompt has {len(ids)} tokens and up to {budget} follow; this planner's "
                f"context holds {self.context}. Shorten caption, lyrics or duration."
            )
        return ids

    def _share(self, ids: list[list[int]], batch: int) -> tuple[Prompts, int]:
        """Pads prompts; where all items have the same one, it is run once for all of them."""
        groups = [ids[start : start + batch] for start in range(0, len(ids), batch)]
        copies = 1
        if all(row == group[0] for group in groups for row in group):
            ids, copies = [group[0] for group in groups], batch
        return decode.pad_prompts(ids, self.vocabulary.pad, self.context), copies

    def _programs(self, programs: Sequence[list[int]]) -> Array:
        """Lays programs out as rows, padded to a common length of a few."""
        size = buckets.token_bucket(max(map(len, programs)), CONTEXT)
        rows = np.full((len(programs), size), self.book.state(grammar_lib.END), np.int32)
        for row, program in zip(rows, programs, strict=True):
            row[: len(program)] = program
        return jnp.asarray(rows)

    @functools.cached_property
    def _tables(self) -> grammar_lib.Grammar:
        return jax.tree.map(jnp.asarray, self.book.tables)


def _first_alike(briefs: Sequence[Brief]) -> list[int]:
    """Gives, for every brief, the first one that asks for the same."""
    asked = [(brief.caption, brief.lyrics, dict(brief.given)) for brief in briefs]
    return [asked.index(own) for own in asked]


def _keys(seeds: Sequence[int], phase: int) -> Key:
    keys = sampling_flow.item_keys(np.asarray(seeds, np.uint32))
    return jax.vmap(lambda key: jax.random.fold_in(key, phase))(keys)


def _chunks(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def _code_range(duration: float | None) -> tuple[int, int]:
    """Gives the least and the most codes of a duration.

    Without one the model decides; nor does one count that lies out of range, which only a plan
    without a grammar can hold.
    """
    if duration is None or not 0 < duration <= MAX_SECONDS:
        return 0, _MAX_CODES
    exact = int(duration * CODES_PER_SECOND)
    return exact, exact


def _passages(written: Written) -> list[Passage]:
    """Cuts what was written into items, on the host."""
    host = jax.device_get(written)
    return [
        Passage(host.tokens[i, :n], host.log_probs[i, :n], host.due[i, :n], bool(host.finished[i]))
        for i, n in enumerate(host.lengths)
    ]
