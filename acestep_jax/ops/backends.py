"""The kind of device that a program is written for: the attached one, or one that is assumed.

Few operations have a faster form for one kind of device. A program that is compiled for devices
that are not there (`training/rehearsal.py`) must take the form that it will take on them.
"""

import contextlib
import contextvars
from collections.abc import Generator

import jax

_ASSUMED: contextvars.ContextVar[str | None] = contextvars.ContextVar("backend", default=None)


def current() -> str:
    """Names the kind of device: cpu, gpu or tpu."""
    return _ASSUMED.get() or jax.default_backend()


@contextlib.contextmanager
def assume(name: str | None) -> Generator[None]:
    """Lets what is traced inside take the form for another kind of device; None changes nothing."""
    token = _ASSUMED.set(name or _ASSUMED.get())
    try:
        yield
    finally:
        _ASSUMED.reset(token)
