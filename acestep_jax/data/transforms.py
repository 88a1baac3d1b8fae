"""From a window into a song to an example: task, crop, words, prompt, reference.

Every random choice comes from the generator that is passed in, which the loader derives from the
seed and the example's number alone.
"""

import dataclasses

import numpy as np
import tokenizers

from acestep_jax import units
from acestep_jax.data import labels as labels_lib
from acestep_jax.data import mixture, shards, word_times
from acestep_jax.tasks import edits, prompt
from acestep_jax.tasks.edits import silence_frames
from acestep_jax.tasks.tokens import load_tokenizer, tokenize

__all__ = ["ExampleSpec", "NoTask", "clip_lyrics", "crop", "make_example", "prompts"]
__all__ += ["load_tokenizer", "require_precomputed", "silence_frames", "tokenize"]


class NoTask(ValueError):
    """A song that allows none of the tasks in training, for instance for want of stems."""


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
      bare_share: chance of an example without caption, lyrics and reference, told by bpm, key and
        metre alone. In a small collection caption and lyrics name the song, whose tempo and key a
        model then knows by heart and need not read.
      tasks: (name, weight) pairs.
      repaint_share: shortest and longest span to repaint, as shares of the clip.
      states: take the prompts' states from the record: those of the whole song, whatever the clip.
      codes: take the 5 Hz codes of covers from the record; clips then start where a code does.
      start_at: "anywhere", or "chords": clips begin with a chord where the labels know any. A clip
        that begins on a beat has its beats at times that the tempo alone decides.
      word_times: tell when each token of the lyrics is sung.
      lyric_margin: seconds before and after the clip whose lyrics may be in the prompt, too; how
        many is drawn, on each side none in a third of the examples. Then the place in the sheet
        does not tell when a word is sung.
    """

    num_frames: int = 128
    text_tokens: int = 96
    lyric_tokens: int = 64
    timbre_frames: int = 128
    timbre_share: float = 0.5
    metadata_dropout: float = 0.1
    bare_share: float = 0.0
    tasks: tuple[tuple[str, float], ...] = (("text2music", 1.0),)
    repaint_share: tuple[float, float] = (0.1, 0.9)
    states: bool = False
    codes: bool = False
    start_at: str = "anywhere"
    word_times: bool = False
    lyric_margin: float = 0.0


def make_example(
    record: shards.Record,
    first: int,
    spec: ExampleSpec,
    silence: np.ndarray,
    tokenizer: tokenizers.Tokenizer,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Makes one example: the fields of `batch.Batch` without B, and `wanted`, the first task drawn.

    Args:
      record: the song.
      first: where the window starts; the crop starts up to one window later.
      spec: lengths and chances.
      silence: [S, C], encoded silence; repeated where it is too short.
      tokenizer: of the text encoder.
      rng: draws task, tracks, crop, caption, dropout and reference.

    Raises:
      NoTask: if the song allows none of the tasks.
      BadRecord: if it lacks states or codes that are asked for.
    """
    require_precomputed(record, spec)
    task = mixture.draw_task(list(record.stems), spec.tasks, rng)
    if task is None:
        raise NoTask(f"{record.labels.name} has {len(record.stems)} stems")
    start = _draw_start(record, first, spec, rng)
    latents, std = _track(record, task.generated)
    clip, frame_mask = crop(latents, std, start, spec.num_frames, silence, rng)
    end = start + int(frame_mask.sum())
    edit = _edit(record, task, clip, (start, end), spec, silence, rng)
    bare = spec.bare_share > 0 and rng.random() < spec.bare_share
    if bare:
        spec = dataclasses.replace(spec, timbre_share=0.0)
    told = _told(record, (start, end), spec, rng)
    text = _text(record, task, (start, end), told, spec, tokenizer, rng, bare=bare)
    if spec.codes:
        text["codes"] = _codes(record, task, (start, end), spec)
    if spec.word_times:
        seconds, of_sheet = (_seconds(frames) for frames in ((start, end), told))
        text["lyric_frames"] = word_times.token_frames(
            record.labels, seconds, of_sheet, tokenizer, text["lyric_tokens"]
        )
    return {
        "latents": clip,
        "frame_mask": frame_mask,
        **edit._asdict(),
        **text,
        "timbre_latents": _timbre(latents, start, end, spec, silence, rng),
        "task": np.array(edits.TASKS.index(task.name), np.int32),
        "wanted": np.array(edits.TASKS.index(task.wanted), np.int32),
    }


def require_precomputed(record: shards.Record, spec: ExampleSpec) -> None:
    """Refuses a record that lacks states or codes that are asked for, with BadRecord."""
    for name, wanted, found in (
        ("text states", spec.states, bool(record.states)),
        ("codes", spec.codes, record.codes is not None),
    ):
        if wanted and not found:
            raise shards.BadRecord(f"{record.labels.name}: has no {name}; prepare it with them")


def _draw_start(
    record: shards.Record, first: int, spec: ExampleSpec, rng: np.random.Generator
) -> int:
    latest = max(0, len(record.latents) - spec.num_frames)
    start = min(first + int(rng.integers(spec.num_frames)), latest)
    if spec.start_at == "chords":
        start = _last_chord(record.labels, start)
    return start - start % units.FRAMES_PER_CODE if spec.codes else start


def _last_chord(labels: labels_lib.SongLabels, frame: int) -> int:
    """Gives the frame of the chord that sounds at `frame`; that frame itself without any."""
    starts = (int(seconds * units.FRAME_RATE) for seconds, _ in labels.chords)
    return max((start for start in starts if start <= frame), default=frame)


def _track(record: shards.Record, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Gives latents and deviations of a track, or of the mix; stems are stored by their means."""
    return (record.stems[name], None) if name else (record.latents, record.std)


def crop(
    latents: np.ndarray,
    std: np.ndarray | None,
    start: int,
    num_frames: int,
    silence: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts [num_frames, C] float32 from a song; silence follows where the song ends before.

    Where standard deviations are known, the clip is a draw from the posterior, as the release
    encodes; else it is the mean.

    Returns:
      The clip, and a mask [num_frames] that is true on the song's own frames.
    """
    frames = slice(start, start + num_frames)
    clip = latents[frames].astype(np.float32)
    if std is not None:
        clip += std[frames] * rng.standard_normal(clip.shape, np.float32)
    return edits.fill_up(clip, num_frames, silence), np.arange(num_frames) < len(clip)


def _edit(
    record: shards.Record,
    task: mixture.Task,
    clip: np.ndarray,
    frames: tuple[int, int],
    spec: ExampleSpec,
    silence: np.ndarray,
    rng: np.random.Generator,
) -> edits.Edit:
    """Builds what the task shows of the song: the clip itself, or another track beside it."""
    length = frames[1] - frames[0]
    source = span = None
    if task.name in edits.STEM_TASKS:
        source, _ = crop(*_track(record, task.source), frames[0], length, silence, rng)
    elif task.name != "text2music":
        source = clip[:length]
    if task.name == "repaint":
        span = mixture.draw_span(length, spec.repaint_share, rng)
    return edits.make_edit(task.name, spec.num_frames, silence, source, span)


def _codes(
    record: shards.Record, task: mixture.Task, frames: tuple[int, int], spec: ExampleSpec
) -> np.ndarray:
    """Cuts the codes [Q] of the clip from the song's; -1 behind them, and for other tasks."""
    codes = np.full(units.frames_to_codes(spec.num_frames), -1, np.int32)
    if task.name != "cover" or record.codes is None:
        return codes
    first = frames[0] // units.FRAMES_PER_CODE
    known = record.codes[first : units.frames_to_codes(frames[1])]
    codes[: len(known)] = known
    return codes


def _timbre(
    latents: np.ndarray,
    start: int,
    end: int,
    spec: ExampleSpec,
    silence: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """A reference from before or after the clip, or silence where there is no room for one."""
    length = spec.timbre_frames
    before = max(0, start - length + 1)
    after = max(0, len(latents) - length + 1 - end)
    wanted = rng.random() < spec.timbre_share
    if not wanted or before + after == 0:
        return silence_frames(silence, length)
    place = int(rng.integers(before + after))
    first = place if place < before else end + place - before
    return latents[first : first + length].astype(np.float32)


def _told(
    record: shards.Record, frames: tuple[int, int], spec: ExampleSpec, rng: np.random.Generator
) -> tuple[int, int]:
    """Gives the frames whose lyrics the prompt has: those of the clip, and a margin."""
    if not spec.lyric_margin:
        return frames
    margin = spec.lyric_margin * units.FRAME_RATE * np.maximum(rng.uniform(-0.5, 1.0, 2), 0.0)
    return max(0, frames[0] - int(margin[0])), min(len(record.latents), frames[1] + int(margin[1]))


def _seconds(frames: tuple[int, int]) -> tuple[float, float]:
    return frames[0] / units.FRAME_RATE, frames[1] / units.FRAME_RATE


def _text(
    record: shards.Record,
    task: mixture.Task,
    frames: tuple[int, int],
    told: tuple[int, int],
    spec: ExampleSpec,
    tokenizer: tokenizers.Tokenizer,
    rng: np.random.Generator,
    *,
    bare: bool,
) -> dict[str, np.ndarray]:
    """Tokenises the prompts of the clip; with `spec.states` those of the song, and their states."""
    caption = int(rng.integers(len(record.labels.captions)))
    instruction = prompt.task_instruction(task.name, task.tracks)
    kept = rng.random(3) >= spec.metadata_dropout
    if spec.states:  # they hold all that is known of the song
        frames = told = (0, len(record.latents))
        kept = np.ones(3, bool)
    text, lyrics = prompts(
        record.labels, None if bare else caption, frames, kept, instruction, told=told
    )
    text_tokens, text_mask = tokenize(tokenizer, text, spec.text_tokens)
    lyric_tokens, lyric_mask = tokenize(tokenizer, lyrics, spec.lyric_tokens)
    fields = {
        "text_tokens": text_tokens,
        "text_mask": text_mask,
        "lyric_tokens": lyric_tokens,
        "lyric_mask": lyric_mask,
    }
    return fields | _states(record, caption, spec) if spec.states else fields


def _states(record: shards.Record, caption: int, spec: ExampleSpec) -> dict[str, np.ndarray]:
    """Fits the record's states of a caption and of the lyrics into the room for them."""
    states = record.states
    text, text_mask = _fit(states["text"][caption], states["text_mask"][caption], spec.text_tokens)
    lyric, lyric_mask = _fit(states["lyrics"], states["lyric_mask"], spec.lyric_tokens)
    return {
        "text_states": text,
        "text_mask": text_mask,
        "lyric_states": lyric,
        "lyric_mask": lyric_mask,
    }


def _fit(states: np.ndarray, mask: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Brings states [L, D] to [room, D]; longer ones lose their end but for the last token."""
    rows = states[: int(mask.sum())]
    if len(rows) > room:
        rows = np.concatenate([rows[: room - 1], rows[-1:]])
    fitted = np.zeros((room, states.shape[1]), states.dtype)
    fitted[: len(rows)] = rows
    return fitted, np.arange(room) < len(rows)


def prompts(
    labels: labels_lib.SongLabels,
    caption: int | None,
    frames: tuple[int, int],
    kept: np.ndarray,
    instruction: str,
    *,
    told: tuple[int, int] | None = None,
) -> tuple[str, str]:
    """Writes the caption prompt and the lyric prompt of a clip.

    Args:
      labels: of the song.
      caption: number of the caption; None leaves caption and lyrics empty.
      frames: of the clip, [start, end).
      kept: [3] bool, whether bpm, key and metre are told.
      instruction: the task's sentence.
      told: frames whose lyrics are told, if not those of the clip.
    """
    start, end = _seconds(frames)
    text = prompt.caption_prompt(
        "" if caption is None else labels.captions[caption],
        instruction=instruction,
        bpm=labels.bpm if kept[0] else None,
        keyscale=labels.keyscale if kept[1] else None,
        timesignature=labels.timesignature if kept[2] else None,
        duration=end - start,
    )
    if caption is None:
        return text, prompt.lyric_prompt("")
    return text, prompt.lyric_prompt(
        clip_lyrics(labels, *_seconds(told or frames)), labels.language
    )


def clip_lyrics(labels: labels_lib.SongLabels, start: float, end: float) -> str:
    """The part of the lyrics sheet that is sung between `start` and `end` seconds.

    A word belongs to the clip if its middle does; a tag, if its section reaches into the clip by
    more than a second or holds such a word. Without word times, lines go by their own middles.
    """
    if labels.instrumental:
        return prompt.INSTRUMENTAL
    words: dict[int, list[str]] = {}
    for word in word_times.sung_between(labels, start, end):
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
