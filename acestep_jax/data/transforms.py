"""From a window into a song to an example: crop, words, prompt, reference, task.

Every random choice comes from the generator that is passed in, which the loader derives from the
seed and the example's number alone.
"""

import dataclasses

import numpy as np
import tokenizers

from acestep_jax import units
from acestep_jax.data import labels as labels_lib
from acestep_jax.data import shards
from acestep_jax.tasks import prompt


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleSpec:
    """How examples are made of songs.

    Attributes:
      num_frames: length of a clip in latent frames (T).
      text_tokens, lyric_tokens: room for the two prompts (Lt, Ll); longer ones lose their end, as
        in the release.
      timbre_frames: length of the reference (F).
      timbre_share: chance of a reference from elsewhere in the song; else it is silence.
      metadata_dropout: chance of each of bpm, key and metre to be left out of the prompt.
    """

    num_frames: int = 128
    text_tokens: int = 96
    lyric_tokens: int = 64
    timbre_frames: int = 128
    timbre_share: float = 0.5
    metadata_dropout: float = 0.1


def make_example(
    record: shards.Record,
    first: int,
    spec: ExampleSpec,
    silence: np.ndarray,
    tokenizer: tokenizers.Tokenizer,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Makes one text2music example: the fields of `batch.Batch` without the batch axis.

    Args:
      record: the song.
      first: where the window starts; the crop starts up to one window later.
      spec: lengths and chances.
      silence: [S, C], encoded silence; repeated where it is too short.
      tokenizer: of the text encoder.
      rng: draws crop, caption, dropout and reference.
    """
    start = _draw_start(record, first, spec.num_frames, rng)
    clip, frame_mask = crop(record, start, spec.num_frames, silence, rng)
    end = start + int(frame_mask.sum())
    text, lyrics = prompts(record.labels, start, end, spec.metadata_dropout, rng)
    text_tokens, text_mask = tokenize(tokenizer, text, spec.text_tokens)
    lyric_tokens, lyric_mask = tokenize(tokenizer, lyrics, spec.lyric_tokens)
    return {
        "latents": clip,
        "frame_mask": frame_mask,
        "source_latents": silence_frames(silence, spec.num_frames),
        "edit_mask": np.ones(spec.num_frames, np.float32),
        "text_tokens": text_tokens,
        "text_mask": text_mask,
        "lyric_tokens": lyric_tokens,
        "lyric_mask": lyric_mask,
        "timbre_latents": _timbre(record, start, end, spec, silence, rng),
        "is_cover": np.zeros((), bool),
    }


def _draw_start(
    record: shards.Record, first: int, num_frames: int, rng: np.random.Generator
) -> int:
    latest = max(0, len(record.latents) - num_frames)
    return min(first + int(rng.integers(num_frames)), latest)


def crop(
    record: shards.Record,
    start: int,
    num_frames: int,
    silence: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts [num_frames, C] float32 from a song; silence follows where the song ends before.

    Where the record has standard deviations, the clip is a draw from the posterior, as the release
    encodes; else it is the mean.

    Returns:
      The clip, and a mask [num_frames] that is true on the song's own frames.
    """
    frames = slice(start, start + num_frames)
    clip = record.latents[frames].astype(np.float32)
    if record.std is not None:
        noise = rng.standard_normal(clip.shape).astype(np.float32)
        clip = clip + record.std[frames].astype(np.float32) * noise
    length = len(clip)
    if length < num_frames:
        clip = np.concatenate([clip, silence_frames(silence, num_frames - length)])
    return clip, np.arange(num_frames) < length


def silence_frames(silence: np.ndarray, num_frames: int) -> np.ndarray:
    """The first frames of encoded silence [num_frames, C], repeated where it is too short."""
    repeats = -(-num_frames // len(silence))
    return np.tile(silence, (repeats, 1))[:num_frames].astype(np.float32)


def _timbre(
    record: shards.Record,
    start: int,
    end: int,
    spec: ExampleSpec,
    silence: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """A reference from before or after the clip, or silence where there is no room for one."""
    length = spec.timbre_frames
    before = np.arange(0, start - length + 1)
    after = np.arange(end, len(record.latents) - length + 1)
    places = np.concatenate([before, after])
    wanted = rng.random() < spec.timbre_share
    if not wanted or len(places) == 0:
        return silence_frames(silence, length)
    first = int(places[rng.integers(len(places))])
    return record.latents[first : first + length].astype(np.float32)


def prompts(
    labels: labels_lib.SongLabels,
    start: int,
    end: int,
    metadata_dropout: float,
    rng: np.random.Generator,
) -> tuple[str, str]:
    """Writes the caption prompt and the lyric prompt of a clip of frames [start, end)."""
    caption = labels.captions[int(rng.integers(len(labels.captions)))]
    kept = rng.random(3) >= metadata_dropout
    text = prompt.caption_prompt(
        caption,
        bpm=labels.bpm if kept[0] else None,
        keyscale=labels.keyscale if kept[1] else None,
        timesignature=labels.timesignature if kept[2] else None,
        duration=(end - start) / units.FRAME_RATE,
    )
    seconds = start / units.FRAME_RATE, end / units.FRAME_RATE
    return text, prompt.lyric_prompt(clip_lyrics(labels, *seconds), labels.language)


def clip_lyrics(labels: labels_lib.SongLabels, start: float, end: float) -> str:
    """The part of the lyrics sheet that is sung between `start` and `end` seconds.

    A word belongs to the clip if its middle does; a tag, if its section reaches into the clip by
    more than a second or holds such a word. Without word times, lines go by their own middles.
    """
    if labels.instrumental:
        return prompt.INSTRUMENTAL
    words: dict[int, list[str]] = {}
    for word in labels.words:
        if start <= (word.start + word.end) / 2 < end:
            words.setdefault(word.line, []).append(word.text)
    lines = []
    for i, line in enumerate(labels.lines):
        inside = min(line.end, end) - max(line.start, start)
        if line.text.startswith("["):
            last = _section_end(labels, i)
            if inside > 1.0 or any(i < j < last for j in words):
                lines.append(line.text)
        elif i in words:
            lines.append(" ".join(words[i]))
        elif not labels.words and start <= (line.start + line.end) / 2 < end:
            lines.append(line.text)
    return "\n".join(lines)


def _section_end(labels: labels_lib.SongLabels, tag: int) -> int:
    """Index of the next tag after the one at `tag`."""
    later = range(tag + 1, len(labels.lines))
    return next((i for i in later if labels.lines[i].text.startswith("[")), len(labels.lines))


def tokenize(
    tokenizer: tokenizers.Tokenizer, text: str, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokenises a prompt and pads it on the right: ids [length] int32 and their mask.

    Longer prompts lose their end but keep the final <|endoftext|>, as the release's do.
    """
    ids = tokenizer.encode(text).ids
    if len(ids) > length:
        ids = [*ids[: length - 1], ids[-1]]
    padding = tokenizer.token_to_id("<|endoftext|>")
    padded = np.full(length, padding, np.int32)
    padded[: len(ids)] = ids
    return padded, np.arange(length) < len(ids)


def load_tokenizer(folder: str) -> tokenizers.Tokenizer:
    """Reads `tokenizer.json` from a folder (of a text encoder)."""
    return tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
