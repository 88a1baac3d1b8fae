"""The planner's prompts: ChatML with one of four instructions, each part ours or the user's.

All four tasks share one shape, `system(instruction) user(...) assistant(...)`, and differ in the
sentence and in what the user's turn holds. The strings are byte-exact copies of the release's: its
weights have never seen others.
"""

from collections.abc import Sequence

from acestep_jax.tasks.planning.vocabulary import User
from acestep_jax.tasks.prompt import INSTRUMENTAL

INSTRUCTIONS = {
    "generate": "Generate audio semantic tokens based on the given conditions:",
    "understand": (
        "Understand the given musical conditions and describe the audio semantics accordingly:"
    ),
    "inspire": "Expand the user's input into a more detailed and specific musical description:",
    "format": "Format the user's input into a more detailed and specific musical description:",
}
NO_INPUT = "NO USER INPUT"
"""Stands for an empty user's turn: what condition dropout puts there in training."""
EMPTY_THOUGHT = "<think>\n\n</think>"

Parts = list[str]
"""Pieces of a prompt; those of type `User` are a user's text."""


def opening(task: str, user: Sequence[str]) -> Parts:
    """Writes a prompt up to the assistant's turn, which is left open.

    Args:
      task: one of `INSTRUCTIONS`.
      user: parts of the user's turn.
    """
    system = f"<|im_start|>system\n# Instruction\n{INSTRUCTIONS[task]}\n\n<|im_end|>\n"
    return [
        f"{system}<|im_start|>user\n",
        *user,
        "<|im_end|>\n<|im_start|>assistant\n",
    ]


def is_meaningful(negative: str) -> bool:
    """Tells a negative prompt from its placeholder."""
    return negative.strip() not in ("", NO_INPUT)


def _song(caption: str, lyrics: str, end: str = "\n") -> Parts:
    return ["# Caption\n", User(caption), "\n\n# Lyric\n", User(lyrics), end]


def plan_prompt(caption: str, lyrics: str) -> Parts:
    """Asks for metadata: the first phase."""
    return opening("generate", _song(caption, lyrics))


def plan_negative(lyrics: str, negative: str = NO_INPUT) -> Parts:
    """Writes what guidance of the first phase leads away from; the release takes none there."""
    if is_meaningful(negative):
        return opening("generate", _song(negative, lyrics))
    return opening("generate", ["# Lyric\n", User(lyrics), "\n"])


def code_prompt(caption: str, lyrics: str, cot: str, *, closed: bool = False) -> Parts:
    """Asks for the codes behind a finished chain of thought: the second phase.

    Args:
      caption: the user's own, even where the plan has a rewritten one.
      lyrics: as they are sung.
      cot: from `blueprint.write_cot`.
      closed: end the assistant's turn before the codes, as the first releases did.
    """
    inner = cot.removeprefix("<think>").removesuffix("</think>")
    thought = ["<think>", User(inner), "</think>\n\n"]
    return [*opening("generate", _song(caption, lyrics)), *thought, _turn_end(closed)]


def code_negative(
    caption: str, lyrics: str, negative: str = NO_INPUT, *, closed: bool = False
) -> Parts:
    """Writes what guidance of the second phase leads away from: no thought, and no user's text.

    The closed layout keeps caption and lyrics (a negative prompt replaces the caption), so that
    guidance strengthens the plan alone.
    """
    meant = is_meaningful(negative)
    user: Parts = [User(negative)] if meant else [NO_INPUT]
    if closed:
        user = _song(negative if meant else caption, lyrics)
    return [*opening("generate", user), f"{EMPTY_THOUGHT}\n\n", _turn_end(closed)]


def _turn_end(closed: bool) -> str:
    return "<|im_end|>\n" if closed else ""


def understand_prompt(codes: Sequence[int]) -> Parts:
    """Asks what a song is like and sings; without codes the model makes up an example."""
    text = "".join(f"<|audio_code_{code}|>" for code in codes)
    return opening("understand", [text or NO_INPUT])


def inspire_prompt(query: str, *, instrumental: bool = False) -> Parts:
    """Asks for a whole song's description from a few words."""
    user = User(query) if query.strip() else NO_INPUT
    return opening("inspire", [user, f"\n\ninstrumental: {str(instrumental).lower()}"])


def format_prompt(caption: str, lyrics: str) -> Parts:
    """Asks for caption and lyrics in good form."""
    caption = caption if caption.strip() else NO_INPUT
    lyrics = lyrics if lyrics.strip() else INSTRUMENTAL
    return opening("format", _song(caption, lyrics, end=""))
