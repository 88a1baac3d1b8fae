"""Requests turned into the arrays that the networks read, a batch at a time, on the host.

Sound becomes latents first (`Sounds`, by the autoencoder); text becomes token arrays. What the
arrays mean is in `edits` and `condition`; training makes its own through the same functions.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import tokenizers

from acestep_jax import units
from acestep_jax.sampling import buckets
from acestep_jax.tasks import edits, prompt, tokens
from acestep_jax.tasks.request import BadRequest, Request
from acestep_jax.typing import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Inputs:
    """Arrays of a batch; see `condition.ConditionInputs`, and beside it:

    Attributes:
      frame_mask: [B, T] bool, an item's own frames.
      silent_latents: [B, T, C], what is seen where there is nothing to see.
      timbre_latents: [N, F, C], references of all items, in the items' order.
      timbre_owner: [N] int32, the item of each.
      target_latents: [B, T, C], the source as it is, whole.
      span_mask: [B, T] bool, the frames to generate, whether or not the edit mask tells them.
      codes: [B, Q] int32, -1 behind an item's last; None where the codes come from the source.
      plain_text_tokens, plain_text_mask: the captions as text2music's, where covers turn to that.
    """

    text_tokens: Array
    text_mask: Array
    lyric_tokens: Array
    lyric_mask: Array
    timbre_latents: Array
    timbre_owner: Array
    source_latents: Array
    target_latents: Array
    edit_mask: Array
    span_mask: Array
    is_cover: Array
    frame_mask: Array
    silent_latents: Array
    codes: Array | None
    plain_text_tokens: Array
    plain_text_mask: Array

    def as_text2music(self) -> "Inputs":
        """Gives the same songs without their sources: what weak covers turn to on their way."""
        return dataclasses.replace(
            self,
            text_tokens=self.plain_text_tokens,
            text_mask=self.plain_text_mask,
            source_latents=self.silent_latents,
            is_cover=np.zeros_like(self.is_cover),
            codes=None,
        )


class Sounds(NamedTuple):
    """What the autoencoder made of a request's sound.

    Attributes:
      source: [N, C], or None.
      references: [F, C] each.
    """

    source: np.ndarray | None = None
    references: tuple[np.ndarray, ...] = ()


def num_frames(request: Request) -> int:
    """Counts a song's latent frames: whole ones of its length, rounded to a tenth of a second."""
    if request.source is not None:
        return len(extended_source(request)) // units.SAMPLES_PER_FRAME
    if request.codes and request.duration is None:
        return len(request.codes) * units.FRAME_RATE // 5
    samples = int(round(request.seconds, 1) * units.SAMPLE_RATE)
    return samples // units.SAMPLES_PER_FRAME


def extended_source(request: Request) -> np.ndarray:
    """Gives the source [W, 2], with zeros where the span reaches beyond it (out-painting)."""
    assert request.source is not None
    before, after = (round(s * units.SAMPLE_RATE) for s in request.added_seconds)
    return np.pad(request.source, ((before, after), (0, 0)))


def span_frames(request: Request, frames: int) -> tuple[int, int] | None:
    """Gives the frames [start, end) of a request's span."""
    if request.span is None:
        return None
    (start, end), (before, _) = request.span, request.added_seconds
    last = frames / units.FRAME_RATE if end is None else end + before
    return frames_between(start + before, last, frames)


def frames_between(start: float, end: float, frames: int) -> tuple[int, int]:
    """Gives the frames [first, last) between two times in seconds, at least one of `frames`."""
    first, last = (
        int(seconds * units.SAMPLE_RATE // units.SAMPLES_PER_FRAME) for seconds in (start, end)
    )
    first = min(max(first, 0), frames - 1)
    return first, min(max(last, first + 1), frames)


def make_inputs(
    requests: Sequence[Request],
    sounds: Sequence[Sounds],
    tokenizer: tokenizers.Tokenizer,
    silence: np.ndarray,
    *,
    timbre_frames: int,
    length: int | None = None,
) -> Inputs:
    """Makes the arrays of a batch.

    Args:
      requests: the songs.
      sounds: what the autoencoder made of each.
      tokenizer: the text encoder's.
      silence: [S, C], recorded silence.
      timbre_frames: length of a reference (F); a song without one refers to silence.
      length: T; by default the bucket of the longest.

    Raises:
      BadRequest: if a prompt has more tokens than the model reads.
    """
    frames = [num_frames(request) for request in requests]
    length = buckets.frame_bucket(max(frames)) if length is None else length
    made = [
        _item_arrays(request, sound, count, silence, length)
        for request, sound, count in zip(requests, sounds, frames, strict=True)
    ]
    nothing = edits.silence_frames(silence, timbre_frames)
    references = [sound.references or (nothing,) for sound in sounds]
    owners = [np.full(len(given), i, np.int32) for i, given in enumerate(references)]
    captions = [request.caption_prompt() for request in requests]
    plain = [_later_prompt(request) for request in requests]
    arrays = {name: np.stack([item[name] for item in made]) for name in made[0]}
    return Inputs(
        **_tokens(tokenizer, text=captions, plain_text=plain),
        **_tokens(tokenizer, lyric=[request.lyric_prompt() for request in requests]),
        timbre_latents=np.stack([clip for given in references for clip in given]),
        timbre_owner=np.concatenate(owners),
        codes=_codes(requests, length),
        **arrays,
    )


def _codes(requests: Sequence[Request], length: int) -> np.ndarray | None:
    """Lays out given codes; songs with and without do not share a batch."""
    if not requests[0].codes:
        return None
    codes = np.full((len(requests), -(-length // 5)), -1, np.int32)
    for row, request in zip(codes, requests, strict=True):
        given = request.codes[: len(row)]
        row[: len(given)] = given
    return codes


def _item_arrays(
    request: Request, sound: Sounds, frames: int, silence: np.ndarray, length: int
) -> dict[str, np.ndarray]:
    source = None if sound.source is None else sound.source[:frames]
    span = span_frames(request, frames)
    edit = edits.make_edit(request.task, length, silence, source, span, tell_span=request.tell_span)
    target = edits.silence_frames(silence, length)
    if source is not None:
        target = edits.fill_up(source, length, silence)
    return {
        "source_latents": edit.source_latents,
        "target_latents": target,
        "edit_mask": edit.edit_mask,
        "span_mask": _within(span, length),
        "is_cover": np.array(request.is_cover),
        "frame_mask": np.arange(length) < frames,
        "silent_latents": edits.silence_frames(silence, length),
    }


def _within(span: tuple[int, int] | None, length: int) -> np.ndarray:
    frames = np.arange(length)
    return np.ones(length, bool) if span is None else (span[0] <= frames) & (frames < span[1])


def _later_prompt(request: Request) -> str:
    """Writes the caption's prompt of the steps after a cover's; its own where there are none."""
    return request.caption_prompt("text2music" if request.cover_strength < 1 else None)


_LIMITS = {"text": prompt.MAX_CAPTION_TOKENS, "lyric": prompt.MAX_LYRIC_TOKENS}
_WHAT = {"text": "caption and metadata", "lyric": "lyrics"}


def check_prompts(request: Request, tokenizer: tokenizers.Tokenizer) -> None:
    """Refuses prompts that have more tokens than the model reads.

    Raises:
      BadRequest: with how many they have.
    """
    _longest(tokenizer, "text", [request.caption_prompt(), _later_prompt(request)])
    _longest(tokenizer, "lyric", [request.lyric_prompt()])


def _longest(tokenizer: tokenizers.Tokenizer, kind: str, texts: Sequence[str]) -> int:
    """Counts the tokens of the longest of some prompts."""
    count = max(len(tokenizer.encode(text).ids) for text in texts)
    if count > _LIMITS[kind]:
        raise BadRequest(
            f"the prompt of {_WHAT[kind]} has {count} tokens, the model reads "
            f"{_LIMITS[kind]}; shorten it."
        )
    return count


def _tokens(tokenizer: tokenizers.Tokenizer, **texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Tokenises lists of prompts of one kind into arrays of one length: name_tokens, name_mask."""
    kind = next(iter(texts))
    longest = _longest(tokenizer, kind, [text for given in texts.values() for text in given])
    room = buckets.token_bucket(longest, _LIMITS[kind])
    arrays = {}
    for name, given in texts.items():
        ids, masks = zip(*(tokens.tokenize(tokenizer, text, room) for text in given), strict=True)
        arrays |= {f"{name}_tokens": np.stack(ids), f"{name}_mask": np.stack(masks)}
    return arrays
