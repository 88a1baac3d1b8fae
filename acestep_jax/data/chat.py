"""Songs as conversations: what the planner is trained on.

One song gives four kinds of conversation, in the prompts that generation uses (`tasks.planning`):

    generate     caption and lyrics       ->  chain of thought, audio codes
    understand   audio codes              ->  chain of thought, lyrics
    inspire      a few words              ->  chain of thought, lyrics
    format       rough caption and lyrics ->  chain of thought, lyrics in good form

Some have their user's text replaced by `NO USER INPUT`, or their thought emptied: the conditions
that guidance and likelihood ratios subtract. Conversations are packed into rows of one length.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from acestep_jax import units
from acestep_jax.data import labels as labels_lib
from acestep_jax.data import shards, transforms
from acestep_jax.data.rows import RowBatches
from acestep_jax.data.songs.harmony import KEY_NAMES
from acestep_jax.ops import fsq
from acestep_jax.tasks import prompt
from acestep_jax.tasks.planning import blueprint, chat
from acestep_jax.tasks.planning.vocabulary import User, Vocabulary
from acestep_jax.tasks.request import CODES_PER_SECOND
from acestep_jax.typing import Array

CONTEXT, THOUGHT, LYRICS, CODES = range(4)
"""Kinds of tokens: those that are read only, and three that the loss counts."""
TASKS = ("generate", "understand", "inspire", "format")
_TRIES = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatSpec:
    """How conversations are made of songs.

    Attributes:
      length: tokens a row (T).
      mixture: (task, weight) pairs.
      seconds: shortest and longest clip.
      no_input: chance that the user's text is replaced by its placeholder.
      no_thought: chance that a song to generate has neither user's text nor thought.
      no_caption: chance that a song to generate has lyrics alone.
      no_lyrics: chance that the user's text holds no lyrics.
      few_fields: chance that the thought before codes lacks caption and language.
      retold: chance that a song is told in another key and tempo, where its codes are not read; one
        to generate ends behind its thought then. Else few songs are learned by heart, and what a
        caption asks for is never looked up in it.
      jitter: chance that a code which a listener reads moves by one level in one of its digits:
        few songs are recognised by their very codes else.
      levels: of the tokenizer's digits, the first one moves fastest; needed for `jitter`.
    """

    length: int = 512
    mixture: tuple[tuple[str, float], ...] = (
        ("generate", 4.0),
        ("understand", 3.0),
        ("inspire", 1.5),
        ("format", 1.5),
    )
    seconds: tuple[int, int] = (10, 30)
    no_input: float = 0.1
    no_thought: float = 0.1
    no_caption: float = 0.1
    no_lyrics: float = 0.1
    few_fields: float = 0.1
    retold: float = 0.0
    jitter: float = 0.0
    levels: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Conversation:
    """Tokens [L] and the kind of each [L]."""

    tokens: list[int]
    kinds: list[int]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ChatBatch:
    """Rows of packed conversations; all [B, T].

    Attributes:
      tokens: int32.
      segments: int32, 1, 2, ... for the conversations of a row, 0 for padding.
      kinds: int32, of each token, see CONTEXT; what is padded is context.
    """

    tokens: Array
    segments: Array
    kinds: Array


@dataclasses.dataclass(frozen=True)
class Clip:
    """A part of a song.

    Attributes:
      labels: of the whole song.
      start, seconds: whole seconds.
      codes: of the clip.
      lyrics: sung in it, or `prompt.INSTRUMENTAL`.
    """

    labels: labels_lib.SongLabels
    start: int
    seconds: int
    codes: tuple[int, ...]
    lyrics: str

    def metadata(self, caption: str) -> dict[str, Any]:
        """Gives the fields of a chain of thought."""
        return {
            "bpm": self.labels.bpm,
            "caption": caption,
            "duration": self.seconds,
            "keyscale": self.labels.keyscale,
            "language": self.labels.language,
            "timesignature": self.labels.timesignature,
        }


def codes_of(record: shards.Record) -> np.ndarray:
    """Gives a song's codes.

    Raises:
      ValueError: if the shards hold none; it says how to add them.
    """
    if record.codes is None:
        raise ValueError(
            f"{record.labels.name} has no audio codes; add them to its shards with a trained "
            "tokenizer: python -m acestep_jax.data.add_codes --help."
        )
    return record.codes


def cut_clip(record: shards.Record, seconds: int, rng: np.random.Generator) -> Clip:
    """Cuts a clip at a whole second, of at most `seconds` and at most the song."""
    codes = codes_of(record)
    whole = len(codes) // CODES_PER_SECOND
    seconds = min(seconds, whole)
    start = int(rng.integers(0, whole - seconds + 1))
    own = codes[start * CODES_PER_SECOND : (start + seconds) * CODES_PER_SECOND]
    lyrics = transforms.clip_lyrics(record.labels, start, start + seconds) or prompt.INSTRUMENTAL
    return Clip(record.labels, start, seconds, tuple(map(int, own)), lyrics)


# Conversations ------------------------------------------------------------------------------------


def converse(
    vocabulary: Vocabulary, clip: Clip, task: str, spec: ChatSpec, rng: np.random.Generator
) -> Conversation:
    """Makes a conversation of one of the four kinds."""
    retold = task != "understand" and spec.retold > 0 and rng.random() < spec.retold
    clip = retell(clip, rng) if retold else clip
    captions = clip.labels.captions or ("",)
    asked, written = (captions[int(rng.integers(len(captions)))] for _ in range(2))
    asked = mention(asked, clip, rng) if retold else asked
    if task == "generate":
        return _generate(vocabulary, clip, asked, written, spec, rng, plan_only=retold)
    thought = blueprint.write_cot(clip.metadata(written))
    user = {
        "understand": lambda: chat.understand_prompt(jitter(clip.codes, spec, rng)),
        "inspire": lambda: chat.inspire_prompt(
            few_words(asked, rng), instrumental=clip.lyrics == prompt.INSTRUMENTAL
        ),
        "format": lambda: chat.format_prompt(rough(asked), rough_lyrics(clip.lyrics)),
    }[task]()
    if rng.random() < spec.no_input:
        user = chat.opening(task, [chat.NO_INPUT])
    answer = vocabulary.encode_prompt(_thought_parts(thought))
    words = vocabulary.encode_prompt(["# Lyric\n", User(clip.lyrics), "<|im_end|>"])
    return _conversation(vocabulary.encode_prompt(user), (answer, THOUGHT), (words, LYRICS))


def _generate(
    vocabulary: Vocabulary,
    clip: Clip,
    asked: str,
    written: str,
    spec: ChatSpec,
    rng: np.random.Generator,
    *,
    plan_only: bool,
) -> Conversation:
    """Makes a song to generate; thoughts that are cut short are read, never trained on."""
    none, empty, bare, mute, few = rng.random(5) < (
        spec.no_input,
        spec.no_thought,
        spec.no_caption,
        spec.no_lyrics,
        spec.few_fields,
    )
    empty, few = empty and not plan_only, few and not plan_only
    lyrics = "" if mute else clip.lyrics
    user = chat.plan_negative(lyrics) if bare else chat.plan_prompt(asked, lyrics)
    if none or empty:
        user = chat.opening("generate", [chat.NO_INPUT])
    metadata = clip.metadata(written)
    if few:
        metadata |= {"caption": None, "language": None}
    thought = chat.EMPTY_THOUGHT if empty else blueprint.write_cot(metadata)
    kind = CONTEXT if empty or few else THOUGHT
    if plan_only:
        answer = vocabulary.encode_prompt(_thought_parts(thought))
        return _conversation(vocabulary.encode_prompt(user), (answer, kind))
    codes = [*vocabulary.code_tokens(clip.codes), vocabulary.stop]
    return _conversation(
        vocabulary.encode_prompt(user),
        (vocabulary.encode_prompt(_thought_parts(thought)), kind),
        (codes, CODES),
    )


def _thought_parts(thought: str) -> list[str]:
    inner = thought.removeprefix("<think>").removesuffix("</think>")
    return ["<think>", User(inner), "</think>\n\n"]


def _conversation(asked: list[int], *answers: tuple[list[int], int]) -> Conversation:
    tokens, kinds = list(asked), [CONTEXT] * len(asked)
    for answer, kind in answers:
        tokens += answer
        kinds += [kind] * len(answer)
    return Conversation(tokens, kinds)


def retell(clip: Clip, rng: np.random.Generator) -> Clip:
    """Tells a clip in another key, and at a tempo up to a fifth slower or a quarter faster.

    Tempo and key are replaced in captions, too; words such as "slow" stay true enough. A clip
    whose tempo or key is unknown is left as it is.
    """
    labels = clip.labels
    if labels.bpm is None or labels.keyscale is None:
        return clip
    bpm = int(np.clip(round(labels.bpm * rng.uniform(0.8, 1.25)), 30, 300))  # a blueprint's range
    tonic = KEY_NAMES[int(rng.integers(len(KEY_NAMES)))]
    keyscale = f"{tonic} {labels.keyscale.split()[-1]}"
    return dataclasses.replace(clip, labels=labels_lib.retold(labels, bpm, keyscale))


def jitter(codes: Sequence[int], spec: ChatSpec, rng: np.random.Generator) -> list[int]:
    """Moves some codes to neighbours: one digit by one level, within its range."""
    moved = np.asarray(codes)
    if not spec.jitter or not spec.levels:
        return moved.tolist()
    digit = rng.integers(len(spec.levels), size=len(moved))
    levels, place = np.asarray(spec.levels)[digit], fsq.basis(spec.levels)[digit]
    value = moved // place % levels
    step = np.clip(value + rng.choice((-1, 1), len(moved)), 0, levels - 1) - value
    return (moved + (rng.random(len(moved)) < spec.jitter) * step * place).tolist()


def mention(caption: str, clip: Clip, rng: np.random.Generator) -> str:
    """Names tempo and key behind a caption, each with even chances, unless it does so already."""
    bpm, keyscale = clip.labels.bpm, clip.labels.keyscale
    tempo, key = rng.random(2) < 0.5
    if tempo and bpm is not None and "bpm" not in caption.lower():
        caption += f", {bpm} BPM"
    if key and keyscale is not None and keyscale not in caption:
        caption += f", {keyscale}"
    return caption


def few_words(caption: str, rng: np.random.Generator) -> str:
    """Takes one clause of a caption, as a user in a hurry would write it."""
    clauses = [part.strip() for part in caption.replace(".", ",").split(",") if part.strip()]
    return clauses[int(rng.integers(len(clauses)))] if clauses else caption


def rough(caption: str) -> str:
    """Writes a caption without capitals and stops."""
    return caption.lower().replace(".", "")


def rough_lyrics(lyrics: str) -> str:
    """Writes lyrics without section tags and capitals."""
    if lyrics == prompt.INSTRUMENTAL:
        return ""
    lines = [line for line in lyrics.split("\n") if not line.startswith("[")]
    return "\n".join(lines).lower()


# Rows ---------------------------------------------------------------------------------------------


def pack(conversations: Sequence[Conversation], length: int, padding: int) -> dict[str, np.ndarray]:
    """Lays conversations one behind another into a row: the fields of a batch without B.

    Raises:
      ValueError: if they are longer than the row.
    """
    total = sum(len(one.tokens) for one in conversations)
    if total > length:
        raise ValueError(f"conversations of {total} tokens do not fit a row of {length}.")
    row = {
        "tokens": np.full(length, padding, np.int32),
        "segments": np.zeros(length, np.int32),
        "kinds": np.full(length, CONTEXT, np.int32),
    }
    start = 0
    for number, one in enumerate(conversations, 1):
        own = slice(start, start + len(one.tokens))
        row["tokens"][own], row["kinds"][own] = one.tokens, one.kinds
        row["segments"][own] = number
        start = own.stop
    return row


class ChatBatches(RowBatches[ChatBatch]):
    """An endless iterator over `ChatBatch`; row n depends on the seed, the songs and n alone."""

    def __init__(
        self,
        songs: Any,
        vocabulary: Vocabulary,
        spec: ChatSpec,
        *,
        seed: int,
        batch_size: int,
        process: tuple[int, int] = (0, 1),
    ) -> None:
        """Opens songs (`data.sources`).

        Args:
          songs: with codes.
          vocabulary: of the planner.
          spec: how conversations are made.
          seed: of all draws.
          batch_size: rows over all processes.
          process: index and count.

        Raises:
          ValueError: if the processes cannot share a batch, or no song is long enough.
        """
        super().__init__(ChatBatch, batch_size, process)
        long = units.FRAME_RATE * spec.seconds[0]
        self._chosen = [i for i, frames in enumerate(songs.frames) if frames >= long]
        if not self._chosen:
            raise ValueError(f"no song lasts {spec.seconds[0]} s; shorten the clips (seconds).")
        self._songs, self._vocabulary, self.spec = songs, vocabulary, spec
        self._seed = seed

    def row(self, number: int) -> dict[str, np.ndarray]:
        """Makes one row: conversations until the next one does not fit."""
        rng = np.random.default_rng([self._seed, number])
        room, packed = self.spec.length, []
        while True:
            one = self._conversation(rng)
            if len(one.tokens) > room:
                break
            packed.append(one)
            room -= len(one.tokens)
        return pack(packed, self.spec.length, self._vocabulary.pad)

    def _conversation(self, rng: np.random.Generator) -> Conversation:
        """Draws songs, tasks and clips until one fits a row of its own."""
        names, weights = zip(*self.spec.mixture, strict=True)
        for _ in range(_TRIES):
            task = str(rng.choice(names, p=np.asarray(weights) / sum(weights)))
            record = self._songs.record(self._chosen[int(rng.integers(len(self._chosen)))])
            seconds = int(rng.integers(self.spec.seconds[0], self.spec.seconds[1] + 1))
            clip = cut_clip(record, seconds, rng)
            one = converse(self._vocabulary, clip, task, self.spec, rng)
            if len(one.tokens) <= self.spec.length:
                return one
        raise ValueError(
            f"{_TRIES} conversations in a row are longer than {self.spec.length} tokens; "
            "lengthen the rows or shorten the clips."
        )


class SyntheticCodes:
    """Songs that are made up on the spot, with codes that tell the mean of their latents."""

    def __init__(self, songs: Any, num_codes: int) -> None:
        """Wraps `data.sources.Synthetic`."""
        self._songs, self._num_codes, self.frames = songs, num_codes, songs.frames

    def record(self, song: int) -> shards.Record:
        """Makes up one song: a walk through the codes whose step the latents decide."""
        record = self._songs.record(song)
        step = 1 + int(abs(float(record.latents[:, 0].mean())) * 100) % 7
        count = -(-len(record.latents) // units.FRAMES_PER_CODE)
        codes = (np.arange(count) * step % self._num_codes).astype(np.int32)
        return dataclasses.replace(record, codes=codes)
