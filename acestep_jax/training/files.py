"""Files that are either whole or absent."""

import os
import pathlib
import tempfile


def write_atomically(path: str | pathlib.Path, content: str | bytes) -> None:
    """Writes a file so that a kill leaves the old content or the new, never a part.

    The content reaches the disk before the name does.
    """
    path = pathlib.Path(path)
    data = content.encode() if isinstance(content, str) else content
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise
