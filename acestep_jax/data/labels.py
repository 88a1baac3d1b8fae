"""What is known about one song: caption, metadata, words with times, stems, origin.

A song on disk is `NAME.flac` with `NAME.json` beside it, which holds the fields of `SongLabels`.
Unknown facts are None and are written as "N/A" into prompts, as the release does.
"""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

from acestep_jax.tasks import prompt

SPLITS = ("train", "validation", "test")


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


def _problems(labels: SongLabels) -> list[str]:
    """Lists what contradicts itself."""
    problems = []
    if labels.split not in SPLITS:
        problems.append(f"split is {labels.split!r}, must be one of {SPLITS}")
    if not labels.captions:
        problems.append("there is no caption")
    if labels.instrumental and (labels.words or labels.lines):
        problems.append("an instrumental has words")
    for word in labels.words:
        if not 0 <= word.start < word.end <= labels.seconds:
            problems.append(f"word {word.text!r} at {word.start}-{word.end} s is outside the song")
        if not 0 <= word.line < len(labels.lines):
            problems.append(f"word {word.text!r} belongs to line {word.line}, which is missing")
    unknown = sorted(set(labels.stems) - set(prompt.TRACK_NAMES))
    if unknown:
        problems.append(f"stems {unknown} are not among {prompt.TRACK_NAMES}")
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
    """Builds labels from parsed JSON."""
    fields = dict(values)
    fields["captions"] = tuple(fields["captions"])
    fields["lines"] = tuple(Line(**line) for line in fields.get("lines", ()))
    fields["words"] = tuple(Word(**word) for word in fields.get("words", ()))
    fields["chords"] = tuple((float(start), str(name)) for start, name in fields.get("chords", ()))
    return SongLabels(**fields)
