"""Caption, lyrics and metadata rendered as the text that the DiT's text encoder reads.

Two streams condition the DiT. The *caption prompt* (at most 256 tokens) holds instruction, caption
and metadata and passes through the whole text encoder; the *lyric prompt* (at most 2,048 tokens)
holds language and lyrics and is read as embedding rows alone. Both templates are byte-exact copies
of the release's wire format: the weights have never seen another.

A `<|endoftext|>` ends both templates, and the tokenizer's post-processor appends a second one.
"""

from collections.abc import Sequence

MAX_CAPTION_TOKENS = 256
"""Longer caption prompts are cut on the right by the release."""
MAX_LYRIC_TOKENS = 2048
"""Longer lyric prompts are cut on the right by the release."""

INSTRUMENTAL = "[Instrumental]"
"""The lyrics of a piece without singing."""

TRACK_NAMES = (
    "woodwinds",
    "brass",
    "fx",
    "synth",
    "strings",
    "percussion",
    "keyboard",
    "guitar",
    "bass",
    "drums",
    "backing_vocals",
    "vocals",
)
"""Stems the model knows by name."""

_LANGUAGE_CODES = """
ar az bg bn ca cs da de el en es fa fi fr he hi hr ht hu id is it ja ko la lt ms ne nl no pa pl pt
ro ru sa sk sr sv sw ta te th tl tr uk ur vi yue zh unknown
"""
LANGUAGES = tuple(_LANGUAGE_CODES.split())
"""Codes the release accepts as the language of the lyrics."""

_INSTRUCTIONS = {
    "text2music": "Fill the audio semantic mask based on the given conditions:",
    "repaint": "Repaint the mask area based on the given conditions:",
    "cover": "Generate audio semantic tokens based on the given conditions:",
}
_TRACK_INSTRUCTIONS = {
    "extract": ("Extract the {} track from the audio:", "Extract the track from the audio:"),
    "lego": (
        "Generate the {} track based on the audio context:",
        "Generate the track based on the audio context:",
    ),
    "complete": ("Complete the input track with {}:", "Complete the input track:"),
}


def task_instruction(task: str, tracks: Sequence[str] = ()) -> str:
    """Writes the sentence that tells the model which of the six tasks it is doing.

    Args:
      task: text2music, cover, repaint, extract, lego or complete.
      tracks: stem names; one for extract and lego, any number for complete, none elsewhere.

    Returns:
      The instruction, track names in capitals and joined by " | " as the release writes them.

    Raises:
      ValueError: for an unknown task, or for tracks that the task does not take.
    """
    if task in _INSTRUCTIONS:
        if tracks:
            raise ValueError(f"task {task!r} takes no track names, got {list(tracks)}.")
        return _INSTRUCTIONS[task]
    if task not in _TRACK_INSTRUCTIONS:
        known = [*_INSTRUCTIONS, *_TRACK_INSTRUCTIONS]
        raise ValueError(f"unknown task {task!r}; the model knows {known}.")
    if task != "complete" and len(tracks) > 1:
        raise ValueError(f"task {task!r} takes one track name, got {list(tracks)}.")
    with_tracks, without = _TRACK_INSTRUCTIONS[task]
    return with_tracks.format(" | ".join(name.upper() for name in tracks)) if tracks else without


def metadata_block(
    *,
    bpm: int | None = None,
    timesignature: str | None = None,
    keyscale: str | None = None,
    duration: float | str | None = None,
) -> str:
    """Lists the musical metadata, `N/A` where unknown; ends with a newline.

    Args:
      bpm: beats a minute.
      timesignature: "2", "3", "4" or "6", the numerator alone.
      keyscale: for instance "C major" or "F# minor".
      duration: seconds, truncated to an integer; a string passes through; None becomes 30 seconds
        (the release's fallback).
    """
    if duration is None:
        duration = 30
    length = duration if isinstance(duration, str) else f"{int(duration)} seconds"
    return (
        f"- bpm: {bpm or 'N/A'}\n"
        f"- timesignature: {timesignature or 'N/A'}\n"
        f"- keyscale: {keyscale or 'N/A'}\n"
        f"- duration: {length}\n"
    )


def caption_prompt(
    caption: str,
    *,
    instruction: str = _INSTRUCTIONS["text2music"],
    bpm: int | None = None,
    timesignature: str | None = None,
    keyscale: str | None = None,
    duration: float | str | None = None,
) -> str:
    """Renders the caption stream: instruction, caption, metadata, end of text.

    Args:
      caption: what the music is like, in free text.
      instruction: the task's sentence; a colon is appended where it lacks one.
      bpm, timesignature, keyscale, duration: as in `metadata_block`.
    """
    if not instruction.endswith(":"):
        instruction += ":"
    metas = metadata_block(
        bpm=bpm, timesignature=timesignature, keyscale=keyscale, duration=duration
    )
    return (
        f"# Instruction\n{instruction}\n\n# Caption\n{caption}\n\n# Metas\n{metas}<|endoftext|>\n"
    )


def lyric_prompt(lyrics: str, language: str = "unknown") -> str:
    """Renders the lyric stream: language, lyrics, end of text.

    Args:
      lyrics: the words with their section tags, or `INSTRUMENTAL`.
      language: one of `LANGUAGES`.
    """
    return f"# Languages\n{language}\n\n# Lyric\n{lyrics}<|endoftext|>"
