"""What surrounds the steps of every run: folder, log, checkpoints, signals, profiler.

    with loop.Loop(config) as run:
        state, start = run.restore_or_init(init, shardings, batches, source=(trained,))
        for step in run.steps(start):
            state, metrics = train_step(state, next(batches))
            run.end_step(step, state, metrics, batches)

SIGTERM and Ctrl-C finish the step, save, and stop; the same command then resumes. With several
processes one of them is enough to be told: all stop after the same step.
"""

import json
import os
import pathlib
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from acestep_jax.data import ledger
from acestep_jax.data.batch import Batch
from acestep_jax.training import checkpoint as checkpoint_lib
from acestep_jax.training import cli, flops, processes
from acestep_jax.training import config as config_lib
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import metrics as metrics_lib
from acestep_jax.training.state import TrainState
from acestep_jax.typing import Params
from acestep_jax.units import SAMPLE_RATE


class Interrupted(SystemExit):
    """The run was asked to stop, and has saved; the exit status is that of the signal."""


class Loop:
    """The surroundings of one run; a context manager."""

    def __init__(self, config: config_lib.Run, *, examples_per_step: int | None = None) -> None:
        """Prepares the run's folder.

        Args:
          config: the run, with its workdir.
          examples_per_step: for the log, of steps that are not `counted` with a batch among their
            arguments; by default data.batch_size, and with data.buckets nothing.
        """
        self.config = config
        self.workdir = pathlib.Path(config.workdir or f"runs/{config.name}")
        self._metrics: metrics_lib.Metrics | None = None
        usual = 0 if config.data.buckets else config.data.batch_size
        self._examples = usual if examples_per_step is None else examples_per_step
        self._signal: int | None = None
        self._earlier_handlers: dict[int, Any] = {}
        self.checkpoints = checkpoint_lib.Checkpoints(
            self.workdir,
            config=cli.to_json(config),
            keep=config.keep,
            keep_period=config.keep_period,
            before_save=self._check_metrics,
        )

    def __enter__(self) -> Self:
        # SIGTERM of one process among several is JAX's to hear: it tells the others
        alone = jax.process_count() == 1
        for number in (signal.SIGTERM, signal.SIGINT) if alone else (signal.SIGINT,):
            self._earlier_handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._restore_handlers()
        if self._metrics is not None:
            self._metrics.__exit__(error)
        if error is None or issubclass(error, (SystemExit, metrics_lib.NonFiniteLoss)):
            self.checkpoints.close()

    @property
    def metrics(self) -> metrics_lib.Metrics:
        """The log, from `restore_or_init` on."""
        if self._metrics is None:
            raise RuntimeError("the log opens where the run begins: call restore_or_init first.")
        return self._metrics

    def restore_or_init(
        self,
        init: Callable[..., TrainState],
        shardings: Callable[[TrainState], TrainState] | None = None,
        batches: checkpoint_lib.Batches | None = None,
        source: tuple[Any, ...] = (),
    ) -> tuple[TrainState, int]:
        """Resumes or begins, as `Checkpoints.restore_or_init`, and opens the log there."""
        state, start = self.checkpoints.restore_or_init(init, shardings, batches, source)
        self._metrics = metrics_lib.Metrics(
            self.workdir,
            num_steps=self.config.num_steps,
            log_every=self.config.log_every,
            start=start,
            examples_per_step=self._examples,
            num_devices=mesh_lib.make_mesh(self.config.mesh).size,
            last_good=self._last_good,
        )
        return state, start

    def counted(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps a compiled step, so that the log tells what it computes a second.

        Counted are its floating-point operations, and the songs of the batch among its arguments.
        """
        known: dict[Any, flops.Work] = {}

        def run(*args: Any) -> Any:
            leaves, tree = jax.tree.flatten(args)
            shapes = (tree, tuple(np.shape(leaf) for leaf in leaves))
            if shapes not in known:
                known[shapes] = _work(step, args)
            self.metrics.work(known[shapes])
            return step(*args)

        return run

    def listen(
        self,
        done: int,
        listener: Callable[[Params], Mapping[str, np.ndarray]],
        parts: Params,
        *,
        at_end: bool = True,
    ) -> None:
        """Keeps samples to hear every `listen_every` steps and at the end.

        Args:
          done: steps done.
          listener: parts -> {name: audio [W, channels]}; called on every process, when it is time.
          parts: {part: parameters} to hear.
          at_end: False where a report ends the run.
        """
        every = self.config.listen_every
        if (at_end and done == self.config.num_steps) or (every and done % every == 0):
            for name, audio in listener(parts).items():
                self.metrics.audio(done, name, audio, SAMPLE_RATE)

    def steps(self, start: int) -> Iterator[int]:
        """Counts from `start` to num_steps, tracing the steps the configuration asks for."""
        config = self.config
        if start < config.num_steps:
            self.metrics.say(f"Compiling, then training from step {start} to {config.num_steps}.")
        profiling = False
        for step in range(start, config.num_steps):
            if step == config.profile_start:
                jax.profiler.start_trace(str(self.workdir / "profile"))
                profiling = True
            yield step
            if profiling and step + 1 >= config.profile_start + config.profile_steps:
                self._check_metrics()  # the traced steps are done
                jax.profiler.stop_trace()
                profiling = False
        self._restore_handlers()  # what follows the steps can be stopped at once

    def end_step(
        self,
        step: int,
        state: TrainState,
        metrics: Mapping[str, Any],
        batches: checkpoint_lib.Batches | None = None,
    ) -> None:
        """Logs a step, saves when it is time, and stops if a signal came.

        Args:
          step: the number that `steps` gave; step + 1 are done.
          state: the state after it.
          metrics: its scalars.
          batches: the iterator whose position belongs to the checkpoint.

        Raises:
          NonFiniteLoss: if a metric is not finite.
          CheckpointError: if a save failed.
          Interrupted: after the final save, if a signal came.
        """
        done = step + 1
        self.metrics.write(done, metrics)
        self.checkpoints.check()
        interrupted = self._should_stop(done)
        if done % self.config.save_every == 0 or done == self.config.num_steps or interrupted:
            self.checkpoints.save(state, batches)
            self._note_data(done, batches)
        if interrupted:
            self.checkpoints.wait()
            logging.warning("Stopped and saved after step %d; the same command resumes.", done)
            raise Interrupted(128 + (self._signal or signal.SIGTERM))

    def _note_data(self, done: int, batches: Any) -> None:
        """Logs what all processes have read since they started, where the batches count it.

        With every checkpoint: there the processes meet anyway.
        """
        if not hasattr(batches, "counts"):
            return
        summary = ledger.summarise(map(json.loads, processes.gather(batches.counts())))
        self.metrics.note(done, summary)
        bad = summary[f"data/{ledger.BAD}"]
        if done == self.config.num_steps and bad:
            logging.warning("%d songs could not be trained on; the log above names them.", bad)

    def _last_good(self) -> int | None:
        self.checkpoints.wait()  # one may be on its way
        return self.checkpoints.last_good()

    def _check_metrics(self) -> None:
        if self._metrics is not None:
            self._metrics.flush()

    def _on_signal(self, number: int, _: Any) -> None:
        if self._signal is not None and number == signal.SIGINT:  # a second Ctrl-C does not wait
            raise KeyboardInterrupt
        self._signal = number
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        # os.write: the signal may have come in the middle of a write to the stream
        text = f"\n{signal.Signals(number).name}: finishing this step and saving ...\n"
        os.write(2, text.encode())

    def _restore_handlers(self) -> None:
        for number, handler in self._earlier_handlers.items():
            signal.signal(number, handler)
        self._earlier_handlers = {}

    def _should_stop(self, done: int) -> bool:
        if jax.process_count() == 1:
            return self._signal is not None
        # All processes must stop after the same step
        return multihost_utils.reached_preemption_sync_point(done)


def _work(step: Callable[..., Any], args: tuple[Any, ...]) -> flops.Work:
    leaves = jax.tree.leaves(args, is_leaf=lambda x: isinstance(x, Batch))
    batches = [leaf.latents.shape for leaf in leaves if isinstance(leaf, Batch)]
    return flops.Work(
        operations=flops.count(step, *args),
        examples=sum(size for size, *_ in batches),
        frames=sum(size * frames for size, frames, _ in batches),
    )
