"""What a user asks for: one frozen type, refused at once if it cannot be done.

Nothing is clamped or repaired. A request that breaks a rule raises `BadRequest`, which lists all
that is wrong with it and what would do. Ranges are the release's.
"""

import dataclasses
import math
import numbers
from collections.abc import Callable, Iterator
from typing import Any, TypeGuard

import numpy as np

from acestep_jax import units
from acestep_jax.tasks import edits, prompt
from acestep_jax.tasks.settings import show

MIN_SECONDS, MAX_SECONDS = 10.0, 600.0
MIN_BPM, MAX_BPM = 30, 300
TIME_SIGNATURES = ("2", "3", "4", "6")
KEYS = tuple(
    f"{note}{accidental} {mode}"
    for note in "ABCDEFG"
    for accidental in ("", "#", "b", "\u266f", "\u266d")
    for mode in ("major", "minor")
)
NUM_CODES = 64_000
CODES_PER_SECOND = 5
DEFAULT_SECONDS = 60.0
"""Length of a song whose request names none."""
SOURCE_TASKS = tuple(task for task in edits.TASKS if task != "text2music")
KEEPING = {"aggressive": 0.0, "balanced": 0.5, "conservative": 1.0}
"""How closely repainting keeps the outside of its span: the share of steps that hold it there."""


class BadRequest(ValueError):
    """A request that cannot be done; the message lists every reason."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One song to make.

    Attributes:
      caption: what the music is like.
      lyrics: the words, with section tags such as [verse] on lines of their own.
      instrumental: no singing; excludes lyrics.
      task: one of `edits.TASKS`.
      language: of the lyrics, one of `prompt.LANGUAGES`.
      bpm: beats a minute, 30 to 300, or None to leave it to the model.
      keyscale: for instance "C major" or "F# minor", or "".
      timesignature: "2", "3", "4", "6", or "".
      duration: seconds, 10 to 600, heard to a tenth as in the release; by default the source's or
        the codes' length, else 60. Where it exceeds the codes', silence follows them.
      instruction: replaces the task's own sentence; "" keeps it.
      tracks: stem names of extract, lego and complete.
      source: [W, 2] float32 at 48 kHz, the song that a task starts from.
      references: [W, 2] each, songs whose sound to take on.
      codes: 5 Hz audio codes; they make text2music a cover of the song that they stand for.
      span: (start, end) seconds to repaint, or of lego's new track. A start below 0 or an end
        beyond the source adds to it on that side; an end of None is the source's.
      tell_span: False sets the edit mask to 1 everywhere, so that the span shows in the source
        alone: one of the release's modes, and what its first weights were used with.
      cover_strength: share of the steps under the cover's conditions; the rest is text2music.
      cover_noise: how much of the source's latents shows through the initial noise.
      cover_codes: False gives the DiT the source's own latents instead of its codes.
      keeping: "aggressive", "balanced" or "conservative" repainting.
      seed: of all that is drawn for this song.
    """

    caption: str = ""
    lyrics: str = ""
    instrumental: bool = False
    task: str = "text2music"
    language: str = "unknown"
    bpm: int | None = None
    keyscale: str = ""
    timesignature: str = ""
    duration: float | None = None
    instruction: str = ""
    tracks: tuple[str, ...] = ()
    source: np.ndarray | None = None
    references: tuple[np.ndarray, ...] = ()
    codes: tuple[int, ...] = ()
    span: tuple[float, float | None] | None = None
    tell_span: bool = True
    cover_strength: float = 1.0
    cover_noise: float = 0.0
    cover_codes: bool = True
    keeping: str = "balanced"
    seed: int = 0

    def __post_init__(self) -> None:
        # the other checks take these types for granted
        problems = list(_check_types(self)) or [p for check in _CHECKS for p in check(self)]
        if problems:
            raise BadRequest("; ".join(problems) + ".")

    @property
    def is_cover(self) -> bool:
        """Whether the DiT reads 5 Hz codes, of a source or given ones."""
        return bool(self.codes) or (self.task == "cover" and self.cover_codes)

    @property
    def seconds(self) -> float:
        """Length of the song."""
        if self.source is not None:
            before, after = self.added_seconds
            return before + len(self.source) / units.SAMPLE_RATE + after
        if self.duration is not None:
            return float(self.duration)
        if self.codes:
            return len(self.codes) / CODES_PER_SECOND
        return DEFAULT_SECONDS

    @property
    def added_seconds(self) -> tuple[float, float]:
        """Seconds that the span adds before and after the source."""
        if self.span is None or self.source is None:
            return 0.0, 0.0
        start, end = self.span
        length = len(self.source) / units.SAMPLE_RATE
        return max(0.0, -start), max(0.0, (length if end is None else end) - length)

    def caption_prompt(self, task: str | None = None) -> str:
        """Writes the text that the DiT's text encoder reads; of another task, if one is named."""
        own = "cover" if self.codes else self.task
        sentence = prompt.task_instruction(task) if task else self.instruction
        return prompt.caption_prompt(
            self.caption,
            instruction=sentence or prompt.task_instruction(own, self.tracks),
            bpm=self.bpm,
            timesignature=self.timesignature,
            keyscale=self.keyscale,
            duration=self.seconds,
        )

    def lyric_prompt(self) -> str:
        """Writes the lyrics as the DiT's lyric encoder reads them."""
        return prompt.lyric_prompt(
            prompt.INSTRUMENTAL if self.instrumental else self.lyrics, self.language
        )


Check = Callable[[Request], Iterator[str]]


def _one_of(name: str, value: str, known: tuple[str, ...]) -> Iterator[str]:
    if value not in known:
        yield f"{name} is {show(value)}; use one of {', '.join(map(repr, known))}"


def _is_real(value: Any) -> TypeGuard[float]:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _number(name: str, value: Any, low: float, high: float) -> Iterator[str]:
    if not _is_real(value) or not low <= value <= high:  # so NaN is refused: no bound holds it
        yield f"{name} is {show(value)}; use a number from {low:g} to {high:g}"


def _whole(name: str, value: Any, low: int, high: int) -> Iterator[str]:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or not low <= value <= high:
        yield f"{name} is {show(value)}; use a whole number from {low} to {high}"


def _check_types(request: Request) -> Iterator[str]:
    for names, kind, wanted in _TYPES:
        for name in names:
            value = getattr(request, name)
            if not isinstance(value, kind):
                yield f"{name} is a {type(value).__name__}; use {wanted}"
    for i, name in enumerate(request.tracks if isinstance(request.tracks, tuple) else ()):
        if not isinstance(name, str):
            yield f"track {i} is a {type(name).__name__}; use a name"


_TEXTS = ("caption", "lyrics", "instruction")
_TYPES = (
    ((*_TEXTS, "task", "language", "keyscale", "timesignature", "keeping"), str, "text"),
    (("instrumental", "cover_codes", "tell_span"), bool, "True or False"),
    (("tracks", "references", "codes"), tuple, "a tuple"),
)


def _check_text(request: Request) -> Iterator[str]:
    for name in _TEXTS:
        if any("\ud800" <= c <= "\udfff" for c in getattr(request, name)):
            yield f"{name} holds half a surrogate pair, which is no character"
    if request.instrumental and request.lyrics:
        yield "an instrumental has no lyrics; leave out one of the two"


def _check_music(request: Request) -> Iterator[str]:
    yield from _one_of("task", request.task, edits.TASKS)
    yield from _one_of("language", request.language, prompt.LANGUAGES)
    if request.timesignature != "":
        yield from _one_of("timesignature", request.timesignature, TIME_SIGNATURES)
    if request.keyscale != "" and request.keyscale not in KEYS:
        yield f"keyscale is {show(request.keyscale)}; write it like 'C major' or 'F# minor'"
    if request.bpm is not None:
        yield from _whole("bpm", request.bpm, MIN_BPM, MAX_BPM)


def _check_length(request: Request) -> Iterator[str]:
    if request.duration is not None:
        yield from _number("duration", request.duration, MIN_SECONDS, MAX_SECONDS)
        if request.source is not None:
            yield "duration is the source's own; leave it out, or extend the source by a span"
    if isinstance(request.source, np.ndarray) and request.source.ndim == 2:
        seconds = len(request.source) / units.SAMPLE_RATE
        if seconds > MAX_SECONDS:
            yield f"the source lasts {seconds:.1f} s; {MAX_SECONDS:g} s fit"
    if len(request.codes) > MAX_SECONDS * CODES_PER_SECOND:
        yield f"{len(request.codes)} codes last longer than {MAX_SECONDS:g} s"
    elif request.codes and _is_real(request.duration) and request.duration <= MAX_SECONDS:
        fitting = math.ceil(request.duration * CODES_PER_SECOND)
        if len(request.codes) > fitting:
            yield (
                f"{len(request.codes)} codes last longer than the duration of "
                f"{request.duration:g} s, which holds {fitting}; cut them, or leave it out"
            )


def _check_audio(request: Request) -> Iterator[str]:
    sounds = {f"reference {i}": sound for i, sound in enumerate(request.references)}
    if request.source is not None:
        sounds["source"] = request.source
    for name, sound in sounds.items():
        if not isinstance(sound, np.ndarray) or sound.ndim != 2 or sound.shape[1:] != (2,):
            shape = getattr(sound, "shape", type(sound).__name__)
            yield f"{name} is {shape}; use an array [samples, 2] at {units.SAMPLE_RATE} Hz"
        elif not np.issubdtype(sound.dtype, np.floating):
            yield f"{name} holds {sound.dtype}; use float32 within -1 .. 1"
        elif len(sound) < units.SAMPLES_PER_FRAME:
            yield f"{name} holds {len(sound)} samples; {units.SAMPLES_PER_FRAME} make a frame"
        elif not np.isfinite(sound).all():
            yield f"{name} holds values that are not finite"
        elif np.abs(sound).max() > 1.0:
            yield f"{name} reaches {np.abs(sound).max():.3g}; scale it to -1 .. 1"
        elif np.abs(sound).max() < 1e-6:  # the release's threshold of silence
            yield f"{name} is silent"


def _check_task(request: Request) -> Iterator[str]:
    needs = request.task in SOURCE_TASKS
    if needs and request.source is None:
        yield f"task {request.task!r} needs a source"
    if request.task == "text2music" and request.source is not None:
        yield "text2music hears no source; use cover, or give the song as a reference"
    known = [name for name in request.tracks if name in prompt.TRACK_NAMES]
    for name in request.tracks:
        if name not in prompt.TRACK_NAMES:
            yield f"unknown track {show(name)}; the model knows {', '.join(prompt.TRACK_NAMES)}"
    most = {"extract": 1, "lego": 1, "complete": len(prompt.TRACK_NAMES)}.get(request.task, 0)
    if len(known) > most:
        yield f"task {show(request.task)} takes at most {most} tracks, got {len(known)}"
    if len(set(known)) < len(known):
        yield f"tracks are {show(request.tracks)}; name each once"
    if request.codes and request.task != "text2music":
        yield f"codes stand in for a source in text2music, not in {show(request.task)}"


def _check_codes(request: Request) -> Iterator[str]:
    for code in request.codes:
        if isinstance(code, bool) or not isinstance(code, numbers.Integral):
            yield f"code {show(code)} is no whole number"
            return
        if not 0 <= code < NUM_CODES:
            yield f"code {show(code)} lies outside 0 to {NUM_CODES - 1}"
            return


def _check_span(request: Request) -> Iterator[str]:
    if request.span is None:
        if request.task == "repaint":
            yield "task 'repaint' needs a span, (start, end) in seconds"
        if not request.tell_span:
            yield "tell_span=False is for requests with a span"
        return
    if request.task not in edits.SPAN_TASKS:
        yield f"task {show(request.task)} generates the whole song; leave the span out"
        return
    if not isinstance(request.span, tuple) or len(request.span) != 2:
        yield f"span is {show(request.span)}; use (start, end) in seconds"
        return
    start, end = request.span
    wrong = list(_number("span's start", start, -MAX_SECONDS, MAX_SECONDS))
    if end is not None:
        wrong += _number("span's end", end, -MAX_SECONDS, 2 * MAX_SECONDS)
    if not wrong and isinstance(request.source, np.ndarray):
        length = len(request.source) / units.SAMPLE_RATE
        if start >= (length if end is None else end):
            wrong.append(f"the span from {start:g} s to {end} s is empty or reversed")
        elif start >= length or (end is not None and end <= 0):
            wrong.append(f"the span from {start:g} s to {end} s does not touch the source")
        elif request.seconds > MAX_SECONDS:
            wrong.append(f"with its span the song lasts {request.seconds:.1f} s; 600 s fit")
    yield from wrong


def _check_strengths(request: Request) -> Iterator[str]:
    for name, plain in (("cover_strength", 1.0), ("cover_noise", 0.0)):
        value = getattr(request, name)
        wrong = list(_number(name, value, 0.0, 1.0))
        if not wrong and value != plain and request.task != "cover" and not request.codes:
            wrong.append(f"{name} is for covers")
        yield from wrong
    if not request.cover_codes and request.task != "cover":
        yield "cover_codes=False is for covers"
    yield from _one_of("keeping", request.keeping, tuple(KEEPING))
    if request.keeping != "balanced" and request.task != "repaint":
        yield f"keeping is for repaint, not for {show(request.task)}"
    yield from _whole("seed", request.seed, 0, 2**32 - 1)


_CHECKS: tuple[Check, ...] = (
    _check_text,
    _check_music,
    _check_length,
    _check_audio,
    _check_task,
    _check_codes,
    _check_span,
    _check_strengths,
)
