"""Numbers of a run: JSON lines, TensorBoard, a line of progress, and the finite check.

Values stay on the device until they are ready: `write` starts their copy and looks at those of
earlier steps, so the device never waits for the log. Every value of every step is checked.
"""

import collections
import json
import math
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Self, TextIO

import jax
import numpy as np

from acestep_jax.training import files, flops, media
from acestep_jax.training.flops import Work

MAX_LAG = 2
"""The host runs at most this many steps ahead of the values it has checked."""


class NonFiniteLoss(FloatingPointError):
    """A loss, norm or other metric became infinite or NaN."""


class Metrics:
    """The log of one run; only the first process writes, all of them check."""

    def __init__(
        self,
        workdir: str | pathlib.Path,
        *,
        num_steps: int,
        log_every: int = 10,
        start: int = 0,
        examples_per_step: int = 0,
        num_devices: int = 1,
        last_good: Callable[[], int | None] = lambda: None,
        stream: TextIO | None = None,
    ) -> None:
        """Opens `metrics.jsonl` and `tensorboard/` in the run's folder.

        Args:
          workdir: the run's folder.
          num_steps: where the run ends, for the time left.
          log_every: steps averaged in one line.
          start: steps done already; later lines of an interrupted run are dropped.
          examples_per_step: for the rate, over all devices, where `work` does not tell.
          num_devices: among which the operations that `work` tells are shared.
          last_good: gives the step of the last checkpoint, for the message of the finite check.
          stream: where progress goes; standard error by default.
        """
        self._workdir = pathlib.Path(workdir)
        self._num_steps = num_steps
        self._log_every = log_every
        self._start = start
        self._num_devices = num_devices
        self._peak = flops.peak(jax.local_devices()[0])
        self._usual = Work(examples=examples_per_step)
        self._new_work, self._line_work = Work(), Work()
        self._last_good = last_good
        self._stream = stream or sys.stderr
        self._pending: collections.deque[tuple[int, dict[str, Any], Work]] = collections.deque()
        self._window: dict[str, list[float]] = {}
        self._begun = self._line_begun = time.monotonic()
        self._line_step = start
        self._first_step_done: tuple[int, float] | None = None
        self._file: TextIO | None = None
        self._board: Any = None
        if jax.process_index() == 0:
            self._open(pathlib.Path(workdir))

    def _open(self, workdir: pathlib.Path) -> None:
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / "metrics.jsonl"
        if path.is_file():
            _drop_lines_after(path, self._start)
        self._file = path.open("a", buffering=1)
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            return  # JSON lines hold the same numbers
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=self._start or None)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Takes the scalars of one step.

        Args:
          step: steps done, this one included.
          values: {name: scalar}; the loss parts are named "loss/<part>", for the progress line.

        Raises:
          NonFiniteLoss: if a value of this or an earlier step is not finite.
        """
        values = dict(values)
        for value in values.values():
            if isinstance(value, jax.Array):
                value.copy_to_host_async()
        work = self._new_work if self._new_work.examples else self._new_work + self._usual
        self._pending.append((step, values, work))
        self._new_work = Work()
        while len(self._pending) > MAX_LAG or (self._pending and _ready(self._pending[0][1])):
            self._take()

    def work(self, done: Work) -> None:
        """Counts work towards the next step written."""
        self._new_work += done

    def flush(self) -> None:
        """Waits for the values of all steps so far and checks them.

        Raises:
          NonFiniteLoss: as `write`.
        """
        while self._pending:
            self._take()

    def close(self) -> None:
        """Flushes, and closes the files."""
        self.flush()
        self._close_files()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self.close()
        else:
            self._close_files()

    def _close_files(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def say(self, words: str) -> None:
        """Tells what is happening between lines of progress."""
        if jax.process_index() == 0:
            start = "\r\x1b[K" if self._stream.isatty() else ""
            self._stream.write(f"{start}{words}\n")
            self._stream.flush()

    def note(self, step: int, values: Mapping[str, float]) -> None:
        """Writes numbers at once, as evaluations do: a line of their own, not averaged."""
        self._record(step, {name: float(value) for name, value in values.items()})

    def audio(self, step: int, name: str, audio: np.ndarray, sample_rate: int) -> None:
        """Keeps a sound [W, channels]: `samples/<step>/<name>.wav`, and in TensorBoard.

        Louder than full scale, it is turned down as a whole.
        """
        if jax.process_index() != 0:
            return
        audio, _ = media.loudest_within_full_scale(np.asarray(audio, np.float32))
        path = self._workdir / "samples" / f"{step:06}" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, media.wav(audio, sample_rate))
        if self._board is not None:
            self._board.add_audio(name, audio, step, sample_rate=sample_rate)

    def _take(self) -> None:
        step, values, work = self._pending.popleft()
        numbers = {name: float(np.asarray(value)) for name, value in values.items()}
        self._check(step, numbers)
        now = time.monotonic()
        self._line_work += work
        first = self._first_step_done is None
        if first:  # its time is mostly compilation
            self._first_step_done = (step, now)
            self._window["time/first_step_seconds"] = [now - self._begun]
        for name, number in numbers.items():
            self._window.setdefault(name, []).append(number)
        if step % self._log_every == 0 or step == self._num_steps:
            self._line(step, now)
        elif first:  # the rates of the first line leave compilation out
            self._line_step, self._line_begun, self._line_work = step, now, Work()

    def _check(self, step: int, numbers: Mapping[str, float]) -> None:
        broken = [
            f"{name} = {number}" for name, number in numbers.items() if not math.isfinite(number)
        ]
        if not broken:
            return
        good = self._last_good()
        if good is None:
            advice = "no checkpoint was saved before it"
        else:
            advice = f"the last good checkpoint is that of step {good}"
        raise NonFiniteLoss(
            f"step {step}: {', '.join(broken)}; {advice}. Lower the learning rate or clip_norm, "
            "or look at the batch of this step."
        )

    def _line(self, step: int, now: float) -> None:
        means = {name: float(np.mean(numbers)) for name, numbers in self._window.items()}
        self._window = {}
        seconds = max(1e-9, now - self._line_begun)
        timing = {"time/step_seconds": seconds / max(1, step - self._line_step)}
        timing |= self._line_work.rates(seconds, self._num_devices, self._peak)
        self._line_work = Work()
        self._line_step, self._line_begun = step, now
        self._record(step, means | timing | _memory())
        if jax.process_index() == 0:
            self._progress(step, means, timing, now)

    def _record(self, step: int, numbers: Mapping[str, float]) -> None:
        if self._file is not None:
            self._file.write(json.dumps({"step": step} | dict(numbers)) + "\n")
        if self._board is not None:
            for name, number in numbers.items():
                self._board.add_scalar(name, number, step)

    def _progress(
        self, step: int, means: Mapping[str, float], timing: Mapping[str, float], now: float
    ) -> None:
        losses = {n.removeprefix("loss/"): v for n, v in means.items() if n.startswith("loss")}
        parts = [f"step {step}/{self._num_steps}"]
        parts += [f"{name} {value:.4g}" for name, value in losses.items()]
        if "time/examples_per_second" in timing:
            parts.append(f"{timing['time/examples_per_second']:.3g} examples/s")
        parts.append(f"{_duration(self._seconds_left(step, now))} left")
        line = "  ".join(parts)
        if self._stream.isatty():
            end = "\n" if step == self._num_steps else ""
            self._stream.write(f"\r\x1b[K{line}{end}")
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def _seconds_left(self, step: int, now: float) -> float:
        since_step, since = self._first_step_done or (step, now)
        if step == since_step:
            since_step, since = self._start, self._begun
        return (now - since) / max(1, step - since_step) * (self._num_steps - step)


def _memory() -> dict[str, float]:
    """Measures peaks in GiB: of the first device where it keeps count, and of this process."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30  # Linux counts in KiB
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" not in stats:
        return {"memory/host_peak_gib": host}
    device = stats["peak_bytes_in_use"] / 2**30
    return {"memory/host_peak_gib": host, "memory/device_peak_gib": device}


def _ready(values: Mapping[str, Any]) -> bool:
    return all(value.is_ready() for value in values.values() if isinstance(value, jax.Array))


def _drop_lines_after(path: pathlib.Path, step: int) -> None:
    """Forgets lines that an interrupted run wrote after the checkpoint it resumes from."""
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:  # the line that a kill cut short
            continue
    files.write_atomically(path, "".join(kept))


def read_metrics(workdir: str | pathlib.Path) -> dict[str, list[tuple[int, float]]]:
    """Reads `metrics.jsonl` of a run as {name: [(step, value)]}."""
    series: dict[str, list[tuple[int, float]]] = {}
    for line in (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        step = values.pop("step")
        for name, value in values.items():
            series.setdefault(name, []).append((step, value))
    return series


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
