"""Checksums of the files of a folder, written with them and verified when they are read."""

import concurrent.futures
import hashlib
import json
import pathlib

FILE = "checksums.json"
"""Name of the list, in the folder it describes."""


def write(folder: pathlib.Path) -> None:
    """Lists the checksum of every file of a folder, in the folder."""
    (folder / FILE).write_text(json.dumps(_checksums(folder), indent=1))


def _checksums(folder: pathlib.Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and _is_content(path))

    def digest(path: pathlib.Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        digests = pool.map(digest, files)
    names = [str(path.relative_to(folder)) for path in files]
    return dict(zip(names, digests, strict=True))


def _is_content(path: pathlib.Path) -> bool:
    # Orbax writes its own bookkeeping once more after the commit
    return path.name not in (FILE, "_CHECKPOINT_METADATA")


def verify(folder: pathlib.Path) -> str:
    """Compares a checkpoint's files with the checksums recorded when it was written.

    Returns:
      An empty string, or what is wrong.
    """
    recorded_file = folder / FILE
    if not recorded_file.is_file():
        return f"{FILE} is missing"
    try:
        recorded = json.loads(recorded_file.read_text())
    except ValueError:
        return f"{FILE} cannot be read"
    found = _checksums(folder)
    problems = [f"{name} is missing" for name in recorded if name not in found]
    problems += [
        f"{name} has changed"
        for name in found
        if name in recorded and recorded[name] != found[name]
    ]
    return ", ".join(problems[:4])
