"""What is known about one song: caption, metadata, words with times, stems, origin.

A song on disk is `NAME.flac` with `NAME.json` beside it, which holds the fields of `SongLabels`.
Unknown facts are None and are written as "N/A" into prompts, as the release does.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
import re
from typing import Any

from acestep_jax.tasks import prompt

SPLITS = ("train", "validation", "test")
BPM_RANGE = (30, 300)
TIME_SIGNATURES = ("2", "3", "4", "6")
KEYSCALE = re.compile(r"[A-G][#b]? (major|minor)")
"""What the release's prompts and planner know; other values would be new words to it."""


@dataclasses.dataclass(frozen=True)
class Word:
    """One sung word: its text, the lyric line it belongs to, and its seconds in the song."""

    text: str
    start: float
    end: float
    line: int


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the lyrics sheet: a sung line or a tag such as `[verse]`, with its seconds."""

    text: str
    start: float
    end: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class SongLabels:
    """The labels of one song.

    Attributes:
      name: unique among all songs of a folder, also the file's stem.
      group: songs that share a tune or a source; a split never divides a group.
      seconds: length of the audio.
      captions: descriptions in different words, all true.
      bpm, keyscale, timesignature: e.g. 104, "D minor", "3" (beats a bar); None if unknown.
      language: of the lyrics, ISO 639-1, "unknown" if there are none.
      lines: the lyrics sheet in order, tags included; empty for music without words.
      words: sung words with times; empty if unknown. `instrumental` tells the two cases apart.
      timed: whether the times of `lines` are known; false where they were spread over the song.
      chords: (start seconds, chord name) pairs; empty if unknown.
      stems: track name to the audio file, relative to this one's folder.
      licence, artist, title, source: where the audio comes from.
    """

    name: str
    group: str
    split: str
    seconds: float
    captions: tuple[str, ...]
    bpm: int | None = None
    keyscale: str | None = None
    timesignature: str | None = None
    language: str = "unknown"
    instrumental: bool = False
    lines: tuple[Line, ...] = ()
    words: tuple[Word, ...] = ()
    timed: bool = True
    chords: tuple[tuple[float, str], ...] = ()
    stems: dict[str, str] = dataclasses.field(default_factory=dict)
    licence: str = ""
    artist: str = ""
    title: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        problems = _problems(self)
        if problems:
            raise ValueError(f"labels of {self.name!r}: " + "; ".join(problems))

    @property
    def lyrics(self) -> str:
        """The lyrics sheet as text; `[Instrumental]` for music without words."""
        if self.instrumental:
            return prompt.INSTRUMENTAL
        return "\n".join(line.text for line in self.lines)


def retold(labels: SongLabels, bpm: int | None, keyscale: str | None) -> SongLabels:
    """Tells a song at another tempo and in another key, in its captions too; None changes none."""
    captions = labels.captions
    if bpm is not None:
        tempo = re.compile(rf"\b{labels.bpm}(?= ?bpm\b)", re.IGNORECASE)
        captions = tuple(tempo.sub(str(bpm), caption) for caption in captions)
    if keyscale is not None and labels.keyscale is not None:
        captions = tuple(caption.replace(labels.keyscale, keyscale) for caption in captions)
    return dataclasses.replace(
        labels,
        captions=captions,
        bpm=labels.bpm if bpm is None else bpm,
        keyscale=labels.keyscale if keyscale is None else keyscale,
    )


_NUMBER = (int, float)


def _problems(labels: SongLabels) -> list[str]:
    """Lists what has the wrong type or range, or contradicts itself."""
    problems = [
        f"{name} is {getattr(labels, name)!r}, must be text"
        for name in ("name", "group", "split", "language", "licence", "artist", "title", "source")
        if not isinstance(getattr(labels, name), str)
    ]
    if not isinstance(labels.seconds, int | float) or not 0 < labels.seconds < math.inf:
        return [*problems, f"seconds is {labels.seconds!r}, must be a positive number"]
    problems += name_problems(labels.name)
    if labels.split not in SPLITS:
        problems.append(f"split is {labels.split!r}, must be one of {SPLITS}")
    if not labels.captions:
        problems.append("there is no caption")
    if not all(isinstance(caption, str) and caption.strip() for caption in labels.captions):
        problems.append("a caption is empty or no text")
    problems += _metadata_problems(labels) + _lyrics_problems(labels)
    unknown = sorted(set(labels.stems) - set(prompt.TRACK_NAMES))
    if unknown:
        problems.append(f"stems {unknown} are not among {prompt.TRACK_NAMES}")
    return problems


def name_problems(name: Any) -> list[str]:
    """Says why a name cannot also name files: it must not lead out of its folder."""
    usable = isinstance(name, str) and name not in ("", ".", "..") and not name.startswith("-")
    if usable and not re.search(r"[/\\\x00-\x1f]", name) and len(name.encode()) <= 180:
        return []
    return [f"name {name!r} is no file name (no / or \\, not empty, at most 180 bytes)"]


def _metadata_problems(labels: SongLabels) -> list[str]:
    problems = []
    low, high = BPM_RANGE
    bpm, key = labels.bpm, labels.keyscale
    if bpm is not None and (type(bpm) is not int or not low <= bpm <= high):
        problems.append(f"bpm is {bpm!r}, must be a whole number from {low} to {high}")
    if key is not None and not (isinstance(key, str) and KEYSCALE.fullmatch(key)):
        problems.append(f"keyscale is {key!r}, must be like 'C major' or 'F# minor'")
    if labels.timesignature not in (None, *TIME_SIGNATURES):
        problems.append(f"timesignature is {labels.timesignature!r}, not in {TIME_SIGNATURES}")
    if labels.language not in prompt.LANGUAGES:
        problems.append(f"language is {labels.language!r}, must be a code such as 'en'")
    for name in ("instrumental", "timed"):
        if type(getattr(labels, name)) is not bool:
            problems.append(f"{name} is {getattr(labels, name)!r}, must be true or false")
    return problems


def _lyrics_problems(labels: SongLabels) -> list[str]:
    problems = []
    if labels.instrumental and (labels.words or labels.lines):
        problems.append("an instrumental has words")
    for kind, spans in (("word", labels.words), ("line", labels.lines)):
        for span in spans:
            # spelled out: loaders parse hundreds of words a song, at every read
            numbers = isinstance(span.start, _NUMBER) and isinstance(span.end, _NUMBER)
            if not numbers or not isinstance(span.text, str):
                problems.append(f"{kind} {span} must be text with two numbers of seconds")
                return problems
    for word in labels.words:
        if not 0 <= word.start < word.end <= labels.seconds:
            problems.append(f"word {word.text!r} at {word.start}-{word.end} s is outside the song")
        if type(word.line) is not int or not 0 <= word.line < len(labels.lines):
            problems.append(f"word {word.text!r} belongs to line {word.line}, which is missing")
    for line in labels.lines:
        # the end of a file may lose a little to resampling
        if not 0 <= line.start <= line.end <= labels.seconds + 0.1:
            problems.append(f"line {line.text!r} at {line.start}-{line.end} s is outside the song")
    for start, name in labels.chords:
        if not 0 <= start <= labels.seconds:
            problems.append(f"chord {name!r} at {start} s is outside the song")
    return problems


def split_of(group: str) -> str:
    """Assigns a group to train, validation or test for good: 90, 5 and 5 %, by hash."""
    bucket = int(hashlib.sha256(group.encode()).hexdigest(), 16) % 20
    return {0: "validation", 1: "test"}.get(bucket, "train")


def with_stems(labels: SongLabels, stems: dict[str, str]) -> SongLabels:
    """Returns the labels with the given stem files."""
    return dataclasses.replace(labels, stems=stems)


def first_seconds(labels: SongLabels, seconds: float) -> SongLabels:
    """Keeps what the labels say of the first `seconds`; all of it where the song is no longer."""
    if seconds >= labels.seconds:
        return labels
    # words name lines by number, so the sheet may lose lines at its end alone
    begun = [i for i, line in enumerate(labels.lines) if line.start < seconds]
    lines = labels.lines[: max(begun, default=-1) + 1]
    return dataclasses.replace(
        labels,
        seconds=seconds,
        lines=tuple(
            Line(line.text, min(line.start, seconds), min(line.end, seconds)) for line in lines
        ),
        words=tuple(word for word in labels.words if word.end <= seconds),
        chords=tuple(chord for chord in labels.chords if chord[0] < seconds),
    )


def save_labels(path: pathlib.Path, labels: SongLabels) -> None:
    """Writes labels as JSON with sorted keys: equal labels give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dataclasses.asdict(labels), ensure_ascii=False, indent=1, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def load_labels(path: pathlib.Path) -> SongLabels:
    """Reads what `save_labels` wrote.

    Raises:
      ValueError: if the file is not UTF-8 JSON, or lacks fields, or contradicts itself.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return labels_from_dict(values)
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path.name}: not a song's labels ({error})") from error


def labels_from_dict(values: dict[str, Any]) -> SongLabels:
    """Builds labels from parsed JSON.

    Raises:
      KeyError, TypeError, ValueError: if fields are missing, unknown, or not what they must be.
    """
    fields = dict(values)
    for name in ("captions", "lines", "words", "chords"):
        if not isinstance(fields.get(name, ()), list | tuple):
            raise TypeError(f"{name} is {fields[name]!r}, must be a list")
    fields["captions"] = tuple(fields["captions"])
    fields["lines"] = tuple(Line(**line) for line in fields.get("lines", ()))
    fields["words"] = tuple(Word(**word) for word in fields.get("words", ()))
    fields["chords"] = tuple((float(start), str(name)) for start, name in fields.get("chords", ()))
    return SongLabels(**fields)
