"""The two doors, and what counts as having passed: a song, or a clear error and nothing else.

A case is told apart by (seed, index) alone, so that one that failed can be run again by itself.
"""

import contextlib
import dataclasses
import io
import json
import pathlib
import signal
import tempfile
from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from acestep_jax import generate, songfiles, units
from acestep_jax.data.audio import BadAudio
from acestep_jax.tasks.pipeline import Pipeline, Song
from acestep_jax.tasks.request import BadRequest
from acestep_jax.tasks.settings import Settings
from experiments.fuzz import sounds, values
from experiments.fuzz.values import Fields, Rng, choose

FAST = Settings(steps=2, shift=3.0)
_LONGEST_MESSAGE = 20_000
_PYTHON_SHARE = 0.5
_SETTINGS_SHARE = 0.1
_ODD_SHARE = 0.1


class Failure(AssertionError):
    """A case that ended neither in a song nor in a clear error."""


def run_case(pipe: Pipeline, seed: int, index: int, seconds: int) -> str:
    """Runs one case: "song", or "refused: " and why.

    Raises:
      Failure: if it ended otherwise; so does whatever else escaped.
    """
    rng = np.random.default_rng([seed, index])
    door = knock_in_python if rng.random() < _PYTHON_SHARE else knock_by_command
    with time_limit(seconds):
        return door(pipe, rng)


@contextlib.contextmanager
def time_limit(seconds: int) -> Generator[None]:
    """Raises Failure in the main thread after so much processor time, or ten times that of any.

    A machine shared with others is slow without hanging; what waits for ever uses no processor.
    """

    def stop(*_: Any) -> None:
        raise Failure(f"hangs: nothing after {seconds} s of processor time, or ten times as long")

    numbers, timers = (signal.SIGPROF, signal.SIGALRM), (signal.ITIMER_PROF, signal.ITIMER_REAL)
    handlers = [signal.signal(number, stop) for number in numbers]
    before = [
        signal.setitimer(timer, limit)
        for timer, limit in zip(timers, (seconds, 10 * seconds), strict=True)
    ]
    try:
        yield
    finally:
        for timer, left in zip(timers, before, strict=True):
            signal.setitimer(timer, *left)  # of whoever was waiting already
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)


# The Python door ----------------------------------------------------------------------------------


def knock_in_python(pipe: Pipeline, rng: Rng) -> str:
    """Builds a request and settings, and makes the song."""
    fields = values.spoil(rng, values.sensible(rng))
    draw: Callable[[Rng], Any] = sounds.usable if rng.random() < 0.7 else sounds.hostile
    plain = isinstance(fields["task"], str) and fields["task"] == "text2music"
    if not plain or rng.random() < 0.05:
        fields["source"] = draw(rng)
    if rng.random() < 0.2:
        fields["references"] = (draw(rng),)
    try:
        settings = _settings(rng)
        song = pipe(settings=settings, **fields)
    except (BadRequest, ValueError) as error:
        return _refusal(error)
    check_song(song)
    return "song"


def _settings(rng: Rng) -> Settings:
    if rng.random() > _SETTINGS_SHARE:
        return FAST
    name = choose(rng, tuple(values.SETTINGS))
    return dataclasses.replace(FAST, **{name: choose(rng, values.SETTINGS[name])})


def _refusal(error: Exception) -> str:
    """Accepts an error that says something; one that escaped from a library says it differently."""
    text = str(error)
    ours = isinstance(error, BadRequest | BadAudio | songfiles.BadCall)
    if not ours and not (type(error) is ValueError and text.endswith(".")):
        raise error
    if not 10 <= len(text) <= _LONGEST_MESSAGE:
        raise Failure(f"unclear: a message of {len(text)} characters: {text[:200]!r}") from error
    return f"refused: {text}"


def check_song(song: Song) -> None:
    """Demands sound of the right length, finite and within full scale."""
    frames = len(song.latents)
    if song.audio.shape != (frames * units.SAMPLES_PER_FRAME, 2):
        raise Failure(f"the sound is {song.audio.shape}, its latents {song.latents.shape}")
    if not np.isfinite(song.audio).all() or np.abs(song.audio).max() > 1:
        raise Failure("the sound is not finite or exceeds full scale")
    if abs(frames / units.FRAME_RATE - song.request.seconds) > 0.2:
        raise Failure(f"{frames} frames for {song.request.seconds} s")


# The command --------------------------------------------------------------------------------------


def knock_by_command(pipe: Pipeline, rng: Rng) -> str:
    """Writes sounds and perhaps a file of requests, and runs the command on them."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        arguments = _by_file(rng, folder) if rng.random() < 0.5 else _by_arguments(rng, folder)
        if rng.random() < _ODD_SHARE:
            arguments += _odd(rng, folder)
        shown, said = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(said):
            try:
                status = generate.main(arguments, load=lambda *_, **__: pipe)
            except SystemExit as stop:  # of the parser of arguments
                status = stop.code
        check_command(status, folder / "out", shown.getvalue(), said.getvalue())
    return "song" if status == 0 else "refused: " + said.getvalue().strip().splitlines()[-1]


def _odd(rng: Rng, folder: pathlib.Path) -> list[str]:
    """Adds an adapter that is none, a folder that is a file, or an option that cannot be."""
    kind = choose(rng, ("lora", "out", "option", "option"))
    if kind == "out":
        (folder / "out").write_bytes(b"")
        return []
    (folder / "folder").mkdir()
    (folder / "text.safetensors").write_bytes(rng.bytes(int(rng.integers(100))))
    if kind == "lora":
        return ["--lora", str(folder / choose(rng, values.LORA))]
    return list(choose(rng, values.OPTIONS))


def _spoiled_with_sound(rng: Rng, folder: pathlib.Path, name: str) -> Fields:
    fields = values.spoil(rng, values.sensible(rng))
    plain = isinstance(fields["task"], str) and fields["task"] == "text2music"
    if not plain or rng.random() < 0.05:
        fields["source"] = sounds.write(rng, folder, f"source_{name}")
    if rng.random() < 0.2:
        fields["references"] = [sounds.write(rng, folder, f"reference_{name}")]
    return fields


def _by_file(rng: Rng, folder: pathlib.Path) -> list[str]:
    entries = [_spoiled_with_sound(rng, folder, str(i)) for i in range(choose(rng, (1, 1, 1, 2)))]
    if rng.random() < 0.1:
        entries[0]["out"] = choose(rng, values.OUTS)
    entries = [{name: _writable(value) for name, value in entry.items()} for entry in entries]
    text = json.dumps(entries, default=repr, ensure_ascii=rng.random() < 0.5)
    content = text.encode("utf-8", "replace")
    damage = rng.random()
    if rng.random() < 0.15:
        content = choose(rng, values.FILES)
    elif damage < 0.1:
        content = content[: int(rng.integers(len(content)))]
    elif damage < 0.15:
        content = rng.bytes(50) + content
    path = folder / choose(rng, ("requests.json", "requests.yaml"))
    path.write_bytes(content)
    return ["--requests", str(path), "--out", str(folder / "out"), *_FAST_ARGUMENTS]


def _by_arguments(rng: Rng, folder: pathlib.Path) -> list[str]:
    fields = _spoiled_with_sound(rng, folder, "a")
    ending = choose(rng, (*songfiles.FORMATS,) * 3 + (".aac", "", ".FLAC"))
    arguments = ["--out", str(folder / "out" / f"song{ending}"), *_FAST_ARGUMENTS]
    for name, value in fields.items():
        if name == "codes":  # only in files
            continue
        if name in _FLAGS:
            option, when = _FLAGS[name]
            arguments += [option] if value is when else []
        elif isinstance(value, tuple | list):
            arguments += [f"--{name}", *map(_printed, value)]
        else:
            arguments += [f"--{name}={_printed(value)}"]
    return arguments


_FLAGS = {
    "instrumental": ("--instrumental", True),
    "cover_codes": ("--no_cover_codes", False),
    "tell_span": ("--hide_span", False),
}
_FAST_ARGUMENTS = ["--steps", "2", "--rule", "none", "--guidance", "1"]


def _printed(value: Any) -> str:
    return str(_writable(value)).replace("\x00", "")  # no argument of a process can hold it


def _writable(value: Any) -> Any:
    """Replaces whole numbers of more digits than Python writes; `values.FILES` has one."""
    return "9" * 5000 if isinstance(value, int) and abs(value) > 10**4000 else value


def check_command(status: Any, out: pathlib.Path, shown: str, said: str) -> None:
    """Demands whole files that say what made them, or one clear line and no file."""
    import soundfile

    files = sorted(path for path in out.rglob("*") if path.is_file())
    if status == 2:
        if files:
            raise Failure(f"refused, and yet there are {[file.name for file in files]}")
        if "Traceback" in said or len(said.strip()) < 10:
            raise Failure(f"unclear: {said[-500:]!r}")
        return
    if status != 0:
        raise Failure(f"status {status!r}: {said[-500:]!r}")
    if len(files) != len(shown.strip().splitlines()) or not files:
        raise Failure(f"{shown!r}, but there are {[file.name for file in files]}")
    for file in files:
        with soundfile.SoundFile(file) as sound:
            samples = sound.read()
            if not len(samples) or not np.isfinite(samples).all():
                raise Failure(f"{file.name} holds no sound")
        made = songfiles.read_made(file)
        if made["settings"]["steps"] != FAST.steps:
            raise Failure(f"{file.name} says that something else made it: {made['settings']}")
