"""Clips and sheets that do not fit any more, by a known amount.

The sheet is what a model is asked to sing, the clip is what is sung. Either can be spoilt:

    unsung    words that nobody sings are put into the sheet        (the song drops words)
    unasked   words of the sheet are taken out                      (the song sings too many)
    swapped   words of the sheet change places
    replaced  words of the sheet become others
    shifted   the clip is rotated: what was sung last comes first
    stretched the clip's time runs unevenly; words and their order stay

The damage of all of them is the word error rate between the sheet and what is sung, in order: how
many words must be put in, taken out or replaced, for each word of the sheet. Of `stretched` it is
zero, whatever the grade: a score that falls there is no measure of the words alone.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from acestep_jax.units import FRAME_RATE
from experiments.alignment.clips import Clip

Sheet = list[list[str]]
"""Lines of words; a tag is a line of one word."""


@dataclasses.dataclass(frozen=True, eq=False)
class Spoilt:
    """A clip under a sheet.

    Attributes:
      clip: perhaps changed.
      sheet: what it is scored under.
      damage: word error rate.
    """

    clip: Clip
    sheet: str
    damage: float


def error_rate(asked: Sequence[str], sung: Sequence[str]) -> float:
    """Counts the edits from one list of words to another, for each word that is asked for."""
    row = list(range(len(sung) + 1))
    for i, word in enumerate(asked, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(sung, 1):
            change = before + (word != other)
            before, row[j] = row[j], min(change, row[j] + 1, row[j - 1] + 1)
    return row[-1] / max(len(asked), 1)


def split(sheet: str) -> Sheet:
    """Takes a sheet apart."""
    lines = sheet.split("\n")
    return [[line] if line.startswith("[") else line.split(" ") for line in lines]


def join(sheet: Sheet) -> str:
    """Puts a sheet together; lines without words are left out."""
    return "\n".join(" ".join(line) for line in sheet if line)


def words_of(sheet: Sheet) -> list[str]:
    """Lists the words, without tags."""
    return [word for line in sheet for word in line if not word.startswith("[")]


def _places(sheet: Sheet) -> list[tuple[int, int]]:
    return [
        (i, j)
        for i, line in enumerate(sheet)
        for j, word in enumerate(line)
        if not word.startswith("[")
    ]


def _some(sheet: Sheet, grade: float, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Draws the places of a share of the words."""
    places = _places(sheet)
    chosen = rng.permutation(len(places))[: round(grade * len(places))]
    return [places[i] for i in chosen]


def unsung(sheet: Sheet, grade: float, strangers: list[str], rng: np.random.Generator) -> None:
    """Puts as many strange words in as a share of the words."""
    for i, j in sorted(_some(sheet, grade, rng), reverse=True):
        sheet[i].insert(j, str(rng.choice(strangers)))


def unasked(sheet: Sheet, grade: float, strangers: list[str], rng: np.random.Generator) -> None:
    """Takes a share of the words out, but never the last one."""
    del strangers
    for i, j in sorted(_some(sheet, grade, rng)[: len(_places(sheet)) - 1], reverse=True):
        del sheet[i][j]


def swapped(sheet: Sheet, grade: float, strangers: list[str], rng: np.random.Generator) -> None:
    """Passes a share of the words around."""
    del strangers
    places = _some(sheet, grade, rng)
    words = [sheet[i][j] for i, j in places]
    for (i, j), word in zip(places, words[1:] + words[:1], strict=True):
        sheet[i][j] = word


def replaced(sheet: Sheet, grade: float, strangers: list[str], rng: np.random.Generator) -> None:
    """Makes strange words of a share of the words."""
    for i, j in _some(sheet, grade, rng):
        sheet[i][j] = str(rng.choice(strangers))


def shifted(clip: Clip, grade: float) -> Clip:
    """Rotates a clip by up to half of its length, words and all."""
    frames = len(clip.latents)
    by = round(grade * frames / 2)
    seconds, whole = by / FRAME_RATE, frames / FRAME_RATE
    moved = sorted(((word.start + seconds) % whole, i) for i, word in enumerate(clip.words))
    words = tuple(clip.words[i] for _, i in moved)
    return dataclasses.replace(clip, latents=np.roll(clip.latents, by, axis=0), words=words)


def stretched(clip: Clip, grade: float) -> Clip:
    """Lets time run as (t / T)^(1 + grade): slow at first, then fast."""
    frames = len(clip.latents)
    warped = ((np.arange(frames) + 0.5) / frames) ** (1 + grade) * frames
    return dataclasses.replace(clip, latents=clip.latents[warped.astype(int)])


_SHEETS: dict[str, Callable[..., None]] = {
    "unsung": unsung,
    "unasked": unasked,
    "swapped": swapped,
    "replaced": replaced,
}
_CLIPS: dict[str, Callable[[Clip, float], Clip]] = {"shifted": shifted, "stretched": stretched}
KINDS = (*_SHEETS, *_CLIPS)
"""All ways to spoil a clip or its sheet."""


def spoil(
    kind: str, clip: Clip, grade: float, strangers: list[str], rng: np.random.Generator
) -> Spoilt:
    """Spoils a clip or its sheet.

    Args:
      kind: one of KINDS.
      clip: with its own sheet.
      grade: from 0, nothing, to 1.
      strangers: words of other songs.
      rng: chooses.
    """
    sheet = split(clip.lyrics)
    if kind in _CLIPS:
        clip = _CLIPS[kind](clip, grade)
    else:
        _SHEETS[kind](sheet, grade, strangers, rng)
    sung = [word.text for word in clip.words]
    return Spoilt(clip, join(sheet), error_rate(words_of(sheet), sung))
