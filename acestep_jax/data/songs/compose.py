"""New songs: words of our own, set to melodies made from motifs over common chord loops.

The words come from small tables of phrases written for this project, with their syllables marked.
A melody takes its rhythm from the words, starts its bars on chord tones, moves mostly by step, and
repeats its first phrase as songs do.
"""

import numpy as np

from acestep_jax.data.songs import notation

_PLACES = (
    "o-ver the ri-ver|down by the har-bor|un-der the moon-light|out on the high-way|"
    "deep in the cit-y|home in the val-ley|up on the moun-tain|here in the sum-mer rain|"
    "back to the o-cean|a-cross the gol-den fields|in-to the morn-ing|"
    "be-hind the win-dow|a-long the sil-ver shore|in-side the old café|"
    "be-yond the last train|through all the sea-sons"
)
_ACTS = (
    "I am walk-ing slow-ly|we are run-ning free|you are call-ing my name|"
    "I will wait for you|we will dance all night|stars are fall-ing down|"
    "time is stand-ing still|I hear the en-gines hum|the lights be-gin to glow|"
    "my heart is beat-ing loud|we found a bet-ter way|the wind is at my back|"
    "no-bo-dy knows our song|I wrote it down in blue|the ra-di-o plays on|"
    "a thou-sand birds take off"
)
_CHORUS = (
    "sing it a-gain to-night|hold on a lit-tle more|I'm com-ing home|ne-ver let it go|"
    "shine a light on me|we are the ones who stay|car-ry me a-way|o-pen up your heart|"
    "one more time with me|all of the co-lors of the sky|turn the mu-sic up|"
    "this is where we be-long"
)

_LOOPS = {
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 4, 4), (0, 2, 3, 4)),
    "minor": ((0, 5, 2, 6), (0, 3, 6, 2), (0, 5, 3, 4), (0, 6, 5, 6)),
    "dorian": ((0, 3, 0, 3), (0, 6, 3, 0)),
}
"""Chord loops as scale degrees counted from 0."""


def _phrases(table: str) -> list[str]:
    return table.split("|")


def compose_tune(seed: int, metre: int) -> notation.Tune:
    """Writes a song of one verse and one chorus, four lines each.

    Args:
      seed: the same seed gives the same song.
      metre: units a bar: 3, 4 or 6.

    Returns:
      A tune whose lines are two bars long each.
    """
    rng = np.random.default_rng([seed, 7919])
    mode = str(rng.choice(["major", "major", "minor", "minor", "dorian"]))
    loop = _LOOPS[mode][int(rng.integers(len(_LOOPS[mode])))]
    lines = []
    for section, base in (("verse", 0), ("chorus", 4)):
        texts = _section_words(section, rng)
        motif = rng.integers(-1, 3, size=16)
        for i, text in enumerate(texts):
            # lines 1 and 3 share their contour, as most songs do
            contour = motif if i % 2 == 0 else np.roll(motif, 3)
            chords = loop[(2 * i) % 4 : (2 * i) % 4 + 2]
            last = i == len(texts) - 1
            lines.append(_set_line(text, section, mode, metre, chords, base, contour, last=last))
    return notation.Tune(
        name=f"composed_{seed}",
        title=f"Composed song {seed}",
        language="en",
        mode=mode,
        metre=metre,
        pickup=0.0,
        lines=tuple(lines),
    )


def _section_words(section: str, rng: np.random.Generator) -> list[str]:
    """Draws four lines: places and acts in turn for a verse, a refrain for a chorus."""
    if section == "verse":
        places = rng.permutation(_phrases(_PLACES))[:2]
        acts = rng.permutation(_phrases(_ACTS))[:2]
        return [str(line) for pair in zip(acts, places, strict=True) for line in pair]
    refrain = rng.permutation(_phrases(_CHORUS))[:3]
    return [str(refrain[0]), str(refrain[1]), str(refrain[0]), str(refrain[2])]


def _set_line(
    text: str,
    section: str,
    mode: str,
    metre: int,
    chords: tuple[int, ...],
    base: int,
    contour: np.ndarray,
    *,
    last: bool,
) -> notation.TuneLine:
    """Sets one line of words over two bars."""
    words = notation.parse_words(text)
    count = sum(len(word) for word in words)
    rhythm = _rhythm(count, metre)
    scale = notation.MODES[mode]
    notes, degree = [], chords[0] + base
    for i, (start, length) in enumerate(rhythm):
        bar = min(1, int(start // metre))
        degree = _next_degree(degree, chords[bar], int(contour[i % 16]), start % metre == 0)
        degree = int(np.clip(degree, -3 + base, 8 + base // 2))
        if last and i == count - 1:
            degree = 7 * round(degree / 7)
        pitch = scale[degree % 7] + 12 * (degree // 7)
        notes.append(notation.Note(start, length, pitch, carried=False))
    return notation.TuneLine(tuple(notes), words, section)


def _next_degree(degree: int, chord: int, step: int, on_beat: bool) -> int:
    """Moves by step; on the first beat of a bar to the nearest tone of the chord."""
    moved = degree + step
    if not on_beat:
        return moved
    tones = [chord + tone + 7 * octave for tone in (0, 2, 4) for octave in (-1, 0, 1)]
    return min(tones, key=lambda tone: (abs(tone - moved), tone))


def _rhythm(count: int, metre: int) -> list[tuple[float, float]]:
    """Spreads `count` syllables over two bars: (start, length) pairs, the last one held.

    Onsets lie on a grid of half units (units in 6/8), evenly spread and rounded down, so that they
    keep a pulse; the last note ends half a unit before the line does, for breath.
    """
    step = 1.0 if metre == 6 else 0.5
    slots = int(2 * metre / step)
    usable = max(count, int(slots * 0.8))
    onsets = sorted({int(i * usable / count) for i in range(count)})
    if len(onsets) < count or onsets[-1] >= slots:
        raise ValueError(f"{count} syllables do not fit two bars of {metre} units")
    ends = [*onsets[1:], slots]
    return [
        (a * step, (b - a) * step - (step / 2 if i == count - 1 else 0))
        for i, (a, b) in enumerate(zip(onsets, ends, strict=True))
    ]
