"""Finds a checkpoint: a folder, or a repository on the Hugging Face hub or in its cache."""

import os
import re
from pathlib import Path

_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(?P<sub>(/[\w.-]+)*)(@(?P<revision>[\w./-]+))?")
# Weights, configurations and tokenizers; never the .py files that some repositories carry.
_WANTED = ("*.json", "*.safetensors", "*.pt", "*.txt", "*.jinja")


def resolve(where: str | os.PathLike) -> Path:
    """Turns a folder or a hub id into a folder on this machine.

    Args:
      where: a folder; or "owner/repository", optionally with a folder inside the repository and a
        revision: "ACE-Step/acestep-v15-base", "ACE-Step/Ace-Step1.5/acestep-v15-turbo@main".
        With HF_HUB_OFFLINE=1 in the environment only the local cache is asked.

    Raises:
      FileNotFoundError: if there is no such folder and the hub or its cache does not have it.
    """
    folder = Path(where).expanduser()
    if folder.is_dir():
        return folder
    match = _HUB_ID.fullmatch(str(where))
    if folder.exists() or not match:
        raise FileNotFoundError(
            f"{where} is neither a folder nor a hub id such as ACE-Step/acestep-v15-base."
        )
    return _download(match["repo"], match["sub"].strip("/"), match["revision"])


def _download(repo: str, subfolder: str, revision: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    try:
        root = huggingface_hub.snapshot_download(
            repo,
            revision=revision,
            allow_patterns=[f"{subfolder}/{name}" if subfolder else name for name in _WANTED],
            local_files_only=offline,
        )
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError, ValueError) as error:
        state = "offline, and not in the local cache" if offline else "not reachable"
        raise FileNotFoundError(
            f"{repo} is no folder here and {state}; download it first, or give the path of a "
            f"folder. ({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error
    folder = Path(root) / subfolder
    if not folder.is_dir():
        raise FileNotFoundError(f"{repo} was found, but it has no folder {subfolder}.")
    return folder
