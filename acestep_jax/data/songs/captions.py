"""Describes a score in words: several captions a song, all true, in varied wording."""

import numpy as np

from acestep_jax.data.songs import score as score_lib

_VOICES = {
    "female": ("a female voice", "female vocals", "a woman singing"),
    "male": ("a male voice", "male vocals", "a man singing"),
    "child": ("a child's voice", "childlike vocals", "a child singing"),
}
_METRES = {3: "waltz time", 4: "common time", 6: "a swaying 6/8"}
_LANGUAGES = {
    "en": "English",
    "de": "German",
    "fr": "French",
    "it": "Italian",
    "es": "Spanish",
    "nl": "Dutch",
    "sv": "Swedish",
    "pl": "Polish",
    "ja": "Japanese",
}
_TEMPLATES = (
    "{mood} {style} with {instruments}{voice}",
    "A {mood}, {mood2} {style} track featuring {instruments}{voice}",
    "{style} in {key}, {bpm} BPM, {instruments}{voice}",
    "{instruments}{voice}. {Mood} {style}, {tempo} tempo, {metre}",
    "{tempo} {style} song, {mood} and {mood2}, in {metre}{voice}",
    "{style}, {mood}, {instruments}, {key}{voice}",
    "{article} {mood} arrangement in the style of {style}: {instruments}{voice}, {bpm} BPM",
    "{style}, {tempo}, {mood2}{voice}",
)


def describe(
    score: score_lib.Score, singer: str | None, count: int, rng: np.random.Generator
) -> tuple[str, ...]:
    """Writes `count` captions.

    Args:
      score: what is played.
      singer: a key of the voice table, None for instrumental music.
      count: at most the number of templates.
      rng: draws templates and words.
    """
    chosen = rng.permutation(len(_TEMPLATES))[:count]
    return tuple(_fill(_TEMPLATES[i], score, singer, rng) for i in chosen)


def _fill(
    template: str, score: score_lib.Score, singer: str | None, rng: np.random.Generator
) -> str:
    mood, mood2 = (str(word) for word in rng.permutation(score.style.moods)[:2])
    text = template.format(
        style=score.style.name,
        mood=mood,
        Mood=mood.capitalize(),
        mood2=mood2,
        article="An" if mood[0] in "aeiou" else "A",
        instruments=_instruments(score, rng),
        voice=_voice(score, singer, rng),
        key=score.keyscale,
        bpm=score.bpm,
        tempo=_tempo_word(score.bpm),
        metre=_METRES[score.tune.metre],
    )
    return text[0].upper() + text[1:]


def _instruments(score: score_lib.Score, rng: np.random.Generator) -> str:
    """Two to all of the instruments, drums by name of the kit, joined as one says it."""
    names = list(score.instruments) + (["drums"] if score.strokes else [])
    count = int(rng.integers(min(2, len(names)), len(names) + 1))
    chosen = [names[i] for i in sorted(rng.permutation(len(names))[:count])]
    return chosen[0] if count == 1 else ", ".join(chosen[:-1]) + " and " + chosen[-1]


def _voice(score: score_lib.Score, singer: str | None, rng: np.random.Generator) -> str:
    if singer is None:
        return str(rng.choice([", instrumental", ", no vocals", ", instrumental music"]))
    words = _VOICES[singer]
    phrase = words[int(rng.integers(len(words)))]
    language = _LANGUAGES[score.tune.language]
    return f", {phrase} in {language}" if rng.random() < 0.4 else f", {phrase}"


def _tempo_word(bpm: int) -> str:
    """Slow below 76, then moderate, upbeat from 108, fast from 132."""
    steps = ((76, "slow"), (108, "moderate"), (132, "upbeat"))
    return next((word for limit, word in steps if bpm < limit), "fast")
