"""The blueprint of a song: its metadata, written and read as the planner's chain of thought.

    <think>
    bpm: 120
    caption: A calm piano piece with
      soft strings.
    duration: 88
    keyscale: F# minor
    language: en
    timesignature: 4
    </think>

Writing is PyYAML's emitter, as in the release. Reading is the release's line reader, not YAML: a
line that starts in the first column with `name:` begins a field, indented lines continue it.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

FIELDS = ("bpm", "caption", "duration", "genres", "keyscale", "language", "timesignature")
"""In the order in which they are written."""
WRITTEN = tuple(name for name in FIELDS if name != "genres")
"""Those that a plan carries into the second phase."""
_LYRIC_HEAD = re.compile(r"^#\s*Lyri[c|cs]?\s*\n", re.IGNORECASE)  # the release's, class and all


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blueprint:
    """What a song is to be like; None where nothing is known.

    Attributes:
      bpm: beats a minute.
      caption: in one line.
      duration: seconds.
      genres: free text.
      keyscale: as "F# minor".
      language: a code such as "en", or "unknown".
      timesignature: "2", "3", "4" or "6".
    """

    bpm: int | None = None
    caption: str | None = None
    duration: int | None = None
    genres: str | None = None
    keyscale: str | None = None
    language: str | None = None
    timesignature: str | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Blueprint":
        """Builds one from `parse_fields`; numbers that are none, and "N/A", become None."""
        known = {name: values.get(name) for name in FIELDS}
        for name, value in known.items():
            if value in ("", "N/A"):
                known[name] = None
        for name in ("bpm", "duration"):
            if not isinstance(known[name], int):
                known[name] = None
        return cls(**known)

    def known(self) -> dict[str, Any]:
        """Gives the fields that have a value."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}

    def filled(self, other: "Blueprint") -> "Blueprint":
        """Gives this blueprint with what it lacks taken from another."""
        return Blueprint(**{**other.known(), **self.known()})


def write_cot(values: Mapping[str, Any]) -> str:
    """Writes metadata as a chain of thought, think tags included.

    Args:
      values: of `WRITTEN` names; None is left out, "4/4" becomes 4, digits become numbers.
    """
    import yaml

    chosen = {name: values[name] for name in WRITTEN if values.get(name) is not None}
    chosen = canonical(chosen)
    text = ""
    if chosen:
        text = yaml.dump(chosen, allow_unicode=True, sort_keys=True).strip()
    return f"<think>\n{text}\n</think>"


def canonical(values: Mapping[str, Any]) -> dict[str, Any]:
    """Gives values as chains of thought have them: "4/4" becomes 4, digits become numbers."""
    chosen = dict(values)
    signature = chosen.get("timesignature")
    if isinstance(signature, str) and signature.endswith("/4"):
        chosen["timesignature"] = signature.split("/")[0]
    for name, value in chosen.items():
        if isinstance(value, str) and value.isdigit():
            chosen[name] = int(value)
    return chosen


def reasoning_of(text: str) -> str:
    """Finds the chain of thought: between think tags, reasoning tags, or before the codes."""
    for tag in ("think", "reasoning"):
        found = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        if found and found.group(1).strip():
            return found.group(1).strip()
    return text.split("<|audio_code_")[0].strip()


def parse_fields(reasoning: str, *, unquote: bool = True) -> dict[str, Any]:
    """Reads a chain of thought.

    Args:
      reasoning: the text between the tags.
      unquote: take off one pair of quotes around a value, as YAML wrote it; the release keeps it.

    Returns:
      {name: value} of known fields: whole numbers for bpm and duration where they are, else text.
    """
    raw: dict[str, str] = {}
    name = ""
    for line in reasoning.split("\n"):
        if line.strip().startswith("<"):
            continue
        if line and not line[0].isspace() and ":" in line:
            name, value = line.split(":", 1)
            name = name.strip().lower()
            raw[name] = value if value.strip() else ""
        elif line.startswith((" ", "\t")) and name:
            raw[name] += "\n" + line
    return {name: _typed(name, raw[name], unquote) for name in FIELDS if raw.get(name, "").strip()}


def _typed(name: str, value: str, unquote: bool) -> Any:
    if name == "caption":
        value = " ".join(line.strip() for line in value.split("\n") if line.strip())
    value = value.strip()
    if unquote and len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1].replace("''", "'") if value[0] == "'" else value[1:-1]
    if name in ("bpm", "duration"):
        try:
            return int(value)
        except ValueError:
            return value
    return value


def read_codes(text: str, num_codes: int) -> tuple[int, ...]:
    """Reads `<|audio_code_7|>` wherever it stands; numbers beyond the last code become the last.

    That is how the release reads codes that are given as text; codes of our own making are
    numbers, and out-of-range ones are refused.
    """
    found = (int(number) for number in re.findall(r"<\|audio_code_(\d+)\|>", text))
    return tuple(min(code, num_codes - 1) for code in found)


def parse_lyrics(text: str) -> str:
    """Finds what follows the chain of thought, without its heading and the end of the turn."""
    if "</think>" not in text:
        return ""
    lyrics = text.split("</think>", 1)[1].strip()
    lyrics = _LYRIC_HEAD.sub("", lyrics)
    return re.sub(r"<\|im_end\|>\s*$", "", lyrics).strip()
