"""Lyrics sheets as people write them: plain text, LRC with line times, LRC with word times.

    [verse]                          a tag: a section's name, here for all kinds
    Little snow upon the hill        plain text: no times; lines are spread over the song
    [00:12.50]Little snow            LRC: when a line begins; an empty one ends the line before
    [00:12.50]<00:12.50>Little <00:13.10>snow <00:14.00>    enhanced LRC: when each word begins

Times that are spread say so (`Sheet.timed`): each line gets a share of the song by its letters.
"""

import dataclasses
import re

from acestep_jax.data.labels import Line, Word
from acestep_jax.tasks import prompt

_CLOCK = r"(\d{1,3}):(\d{1,2}(?:[.:]\d{1,3})?)"
_STAMPS = re.compile(rf"\s*((?:\[{_CLOCK}\]\s*)+)")
_STAMP = re.compile(rf"\[{_CLOCK}\]")
_WORD_STAMP = re.compile(rf"<{_CLOCK}>")
_FACT = re.compile(r"\[(ar|al|ti|au|by|re|ve|la|le|length|tool|offset|#):\s*([^\]]*)\]", re.I)
_TAG = re.compile(r"\[[^\]]+\]")


@dataclasses.dataclass(frozen=True)
class Sheet:
    """The lyrics of a song: lines with tags, words, and whether their times are known."""

    lines: tuple[Line, ...] = ()
    words: tuple[Word, ...] = ()
    timed: bool = True
    instrumental: bool = False


def parse_sheet(text: str, seconds: float) -> Sheet:
    """Reads a lyrics sheet of any of the three kinds.

    Args:
      text: the sheet; `[Instrumental]` alone stands for music without words.
      seconds: length of the song.

    Raises:
      ValueError: if lines with and without times are mixed, or words with and without.
    """
    rows = [row.strip() for row in text.splitlines()]
    rows = [row for row in rows if row and not _FACT.fullmatch(row)]
    if [row.lower() for row in rows] == [prompt.INSTRUMENTAL.lower()]:
        return Sheet(instrumental=True)
    stamped = [row for row in rows if _STAMPS.match(row)]
    if not stamped:
        return Sheet(_spread(rows, seconds), timed=not rows)
    loose = [row for row in rows if not _STAMPS.match(row) and not _TAG.fullmatch(row)]
    if loose:
        raise ValueError(f"lyrics mix lines with times and without, for instance {loose[0]!r}")
    return _timed_sheet(rows, seconds, _offset(text))


def _spread(rows: list[str], seconds: float) -> tuple[Line, ...]:
    letters = sum(len(row) for row in rows if not _TAG.fullmatch(row))
    lines, sung = [], 0
    for row in rows:
        start = sung
        sung += 0 if _TAG.fullmatch(row) else len(row)
        times = (seconds * n / letters if letters else 0.0 for n in (start, sung))
        lines.append(Line(row, *times))
    return _end_tags(lines, seconds)


def _offset(text: str) -> float:
    """Seconds that all stamps come late: LRC's offset, in milliseconds, shifts words earlier."""
    found = re.search(r"\[offset:\s*([+-]?\d+)\s*\]", text, re.I)
    return -int(found.group(1)) / 1000 if found else 0.0


def _timed_sheet(rows: list[str], seconds: float, offset: float) -> Sheet:
    entries: list[tuple[float, int, str]] = []  # start, order on the sheet, text
    tags: list[tuple[int, str]] = []
    for order, row in enumerate(rows):
        match = _STAMPS.match(row)
        if match is None:
            tags.append((order, row))
            continue
        content = row[match.end() :].strip()
        for stamp in _STAMP.finditer(match.group(1)):  # several stamps: a line sung several times
            entries.append((_seconds(stamp, offset), order, content))
    entries += [(_next_start(entries, order, seconds), order, tag) for order, tag in tags]
    entries.sort(key=lambda entry: entry[:2])
    return _with_ends(entries, seconds, offset)


def _next_start(entries: list[tuple[float, int, str]], order: int, seconds: float) -> float:
    later = [entry for entry in entries if entry[1] > order]
    return min(later, key=lambda entry: entry[1])[0] if later else seconds


def _with_ends(entries: list[tuple[float, int, str]], seconds: float, offset: float) -> Sheet:
    """Ends each line where the next begins; an empty line is only such an end."""
    lines: list[Line] = []
    words: list[Word] = []
    bare = []
    for i, (start, _, content) in enumerate(entries):
        if not content:
            continue
        end = next((e[0] for e in entries[i + 1 :] if not _TAG.fullmatch(e[2])), seconds)
        found = _words(content, len(lines), end, offset)
        words += found
        text = " ".join(word.text for word in found) or content
        if not found and not _TAG.fullmatch(text):
            bare.append(text)
        lines.append(Line(text, start, end))
    if words and bare:
        raise ValueError(f"some lines have word times, others do not, for instance {bare[0]!r}")
    return Sheet(_end_tags(lines, seconds), tuple(words))


def _words(content: str, line: int, end: float, offset: float) -> list[Word]:
    """Cuts `<00:01.00>one <00:02.00>two <00:03.00>` into words with times."""
    stamps = list(_WORD_STAMP.finditer(content))
    words = []
    for i, stamp in enumerate(stamps):
        after = stamps[i + 1] if i + 1 < len(stamps) else None
        text = content[stamp.end() : after.start() if after else None].strip()
        if text:
            last = _seconds(after, offset) if after else end
            words.append(Word(text, _seconds(stamp, offset), last, line))
    return words


def _seconds(stamp: re.Match, offset: float) -> float:
    minutes, seconds = stamp.groups()[-2:]
    return int(minutes) * 60 + float(seconds.replace(":", ".")) + offset


def _end_tags(lines: list[Line], seconds: float) -> tuple[Line, ...]:
    """Lets every tag last until the next one, or to the end of the song."""
    ended, end = [], seconds
    for line in reversed(lines):
        if _TAG.fullmatch(line.text):
            line, end = Line(line.text, line.start, max(end, line.start)), line.start
        ended.append(line)
    return tuple(reversed(ended))
