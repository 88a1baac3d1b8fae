"""Traditional songs: melody and words from before 1900, in the notation of `notation.py`.

The melodies were set down from memory of the songs themselves; the words are those of their first
printings (years beside the titles) or of oral tradition. `tunes.txt` holds them; each entry: a head
"name | title | language | mode | metre | pickup", then for every line the section, the melody and
the words, separated by `;`. Bar lines are checked in the tests.
"""

import functools
import pathlib

from acestep_jax.data.songs import notation

_TABLE = pathlib.Path(__file__).with_name("tunes.txt")


@functools.cache
def traditional_tunes() -> tuple[notation.Tune, ...]:
    """Reads the table of songs."""
    return tuple(tune for tune, _ in tunes_with_melodies())


def tunes_with_melodies() -> list[tuple[notation.Tune, list[str]]]:
    """Every tune with its melodies as written, for checking the bar lines."""
    return [_parse(block) for block in _TABLE.read_text(encoding="utf-8").strip().split("\n\n")]


def _parse(block: str) -> tuple[notation.Tune, list[str]]:
    head, *rows = block.splitlines()
    name, title, language, mode, metre, pickup = (part.strip() for part in head.split("|"))
    parts = [[part.strip() for part in row.split(";")] for row in rows]
    tune = notation.Tune(
        name=name,
        title=title,
        language=language,
        mode=mode,
        metre=int(metre),
        pickup=float(pickup),
        lines=tuple(
            notation.make_line(melody, text, mode, section) for section, melody, text in parts
        ),
    )
    return tune, [melody for _, melody, _ in parts]
