"""Bad input: counted, named, and skipped by a rule that the user sets; never trained on."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping

RULES = ("skip", "error")


class TooManyBadFiles(RuntimeError):
    """More files failed than the caller allows; the message lists them."""


@dataclasses.dataclass
class SkipList:
    """Counts and names what was skipped; refuses to go on when it is too much.

    Attributes:
      max_share: the share of all files seen that may be bad.
      grace: this many bad files are always allowed, so that one of three does not stop a run.
      on_bad: "skip", or "error" to stop at the first one.
      good: files without fault.
      reasons: of files that were skipped whole.
      parts: reasons why a part of a good file was left out, for instance one stem.
    """

    max_share: float = 0.1
    grace: int = 2
    on_bad: str = "skip"
    good: int = 0
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    parts: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.on_bad not in RULES:
            raise ValueError(f"on_bad is {self.on_bad!r}, must be one of {RULES}.")

    def skip(self, name: str, reason: Exception | str) -> None:
        """Names a bad file on the terminal and remembers why it was skipped.

        Raises:
          TooManyBadFiles: if the rule is to stop at the first.
        """
        unique = name
        for copy in range(2, len(self.reasons) + 3):  # two rows may share a name, itself a fault
            if unique not in self.reasons:
                break
            unique = f"{name} ({copy})"
        self.reasons[unique] = str(reason)
        if self.on_bad == "error":
            raise TooManyBadFiles(f"{name}: {reason}. Repair or remove it, or skip bad files.")
        print(f"skipped {name}: {reason}", flush=True)

    def leave_out(self, name: str, parts: Mapping[str, str]) -> None:
        """Names parts of a good file that are left out."""
        for part, reason in parts.items():
            self.parts[f"{name}/{part}"] = reason
            print(f"left out {name}/{part}: {reason}", flush=True)

    def finish(self) -> None:
        """Says how many files were skipped, or raises if their share is above `max_share`."""
        bad, seen = len(self.reasons), self.good + len(self.reasons)
        listing = "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items())
        if bad > max(self.grace, self.max_share * seen):
            raise TooManyBadFiles(
                f"{bad} of {seen} files are bad, more than {self.max_share:.0%}: {listing}. "
                "Repair or remove them, or allow a larger share."
            )
        if bad:
            print(f"{bad} of {seen} files skipped: {listing}", flush=True)

    def save(self, path: pathlib.Path) -> None:
        """Writes one JSON object a line for everything that was skipped or left out."""
        rows = [
            {"name": name, "reason": reason, "left_out": what}
            for what, reasons in (("song", self.reasons), ("part", self.parts))
            for name, reason in reasons.items()
        ]
        text = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)
        write_whole(path, text.encode())


def write_whole(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that is there whole or not at all, whenever the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
