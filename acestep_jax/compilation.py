"""Keeps compiled programs between processes, so that only a first run compiles."""

import os
import pathlib

import jax

VARIABLE = "ACESTEP_JAX_CACHE"
"""Environment variable: another folder for the cache, or "off"."""


def cache_folder() -> pathlib.Path | None:
    """Says where compiled programs are kept: $ACESTEP_JAX_CACHE, else ~/.cache/acestep_jax.

    Returns:
      The folder, or None if the variable says "off".
    """
    chosen = os.environ.get(VARIABLE, "")
    if chosen.lower() == "off":
        return None
    if chosen:
        return pathlib.Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "acestep_jax" / "compiled"


def enable_cache(min_seconds: float = 0.5) -> pathlib.Path | None:
    """Makes JAX keep what it compiles; called by every command, before the first compilation.

    A folder already chosen through `JAX_COMPILATION_CACHE_DIR` stays chosen.

    Args:
      min_seconds: programs that compile faster are not kept.

    Returns:
      The folder in use, or None if the cache is off.
    """
    folder = cache_folder()
    if folder is None:
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen:
        return pathlib.Path(chosen)
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", min_seconds)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder
