"""Checkpoints: the only file that touches Orbax.

A checkpoint is a folder `<workdir>/checkpoints/<steps done>` with the items `params` (parameters
and averages), `optimizer` (optimizer states, step, key, extra) and `meta` (configuration, position
in the data). It is written aside, in the background; its last file lists the checksum of every
other one, and then one rename makes it a checkpoint. A kill or a full disk before the rename leaves
the earlier checkpoints as they were; damage after it is found when the checksums are verified.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.sharding import SingleDeviceSharding

from acestep_jax.training import checksums, processes
from acestep_jax.training.optim import path_name
from acestep_jax.training.state import TrainState
from acestep_jax.typing import Params


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written, or none that can be read."""


class Batches(Protocol):
    """An iterator over batches whose position can be saved: JSON-able state out and in."""

    def get_state(self) -> Any:
        """Gives the position after the last batch handed out."""

    def set_state(self, state: Any) -> None:
        """Goes back to a position."""


class Checkpoints:
    """The checkpoints of one run: saves in the background, restores the newest whole one."""

    def __init__(
        self,
        workdir: str | pathlib.Path,
        *,
        config: Mapping[str, Any] | None = None,
        keep: int = 2,
        keep_period: int = 0,
        before_save: Callable[[], None] = lambda: None,
    ) -> None:
        """Opens `<workdir>/checkpoints`.

        Args:
          workdir: the run's folder.
          config: the resolved configuration as JSON-able values, saved with every checkpoint.
          keep: how many of the newest to keep.
          keep_period: besides, keep every checkpoint whose step this divides; 0 for none.
          before_save: called first; the run passes its finite check, so that no broken state is
            ever saved.
        """
        self.folder = pathlib.Path(workdir).absolute() / "checkpoints"
        self._config = dict(config or {})
        self._before_save = before_save
        self._saving: int | None = None
        _quieten_orbax()
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_names=("params", "optimizer", "meta"),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                keep_period=keep_period or None,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_checksums),
            ),
        )

    def last_good(self) -> int | None:
        """Gives the step of the newest finished checkpoint, or None."""
        return _newest(self.folder)

    # Saving

    def save(self, state: TrainState, batches: Batches | None = None) -> None:
        """Starts saving; returns when the state is copied and may be donated.

        An earlier save that still runs is waited for. A step that is saved already is left as it
        is.

        Raises:
          CheckpointError: if this save cannot start or the earlier one failed.
        """
        self._before_save()
        self.wait()
        step = int(state.step)
        if self.last_good() == step:
            return
        self._saving = step
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(_params_item(state)),
                    optimizer=ocp.args.StandardSave(_optimizer_item(state)),
                    meta=ocp.args.JsonSave(self._meta(state, batches)),
                ),
                force=True,
            )
        except Exception as error:
            raise self._failure(error) from error

    def check(self) -> None:
        """Raises CheckpointError if the save in the background has failed."""
        try:
            self._manager.check_for_errors()
        except Exception as error:
            raise self._failure(error) from error

    def wait(self) -> None:
        """Waits until the save in the background is done, and raises if it failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failure(error) from error
        self.check()

    def close(self) -> None:
        """Waits for the last save and lets the folder go."""
        self.wait()
        self._manager.close()

    def _meta(self, state: TrainState, batches: Batches | None) -> dict[str, Any]:
        return {
            "config": self._config,
            "data": processes.gather(batches.get_state()) if batches is not None else None,
            "arrays": _signature(state),
            "processes": jax.process_count(),
        }

    def _write_checksums(self) -> None:
        """Runs in the background when every item is written, before the rename that commits."""
        if jax.process_index() != 0:
            return
        for folder in self.folder.glob(f"{self._saving}.orbax-checkpoint-tmp*"):
            checksums.write(folder)

    def _failure(self, error: Exception) -> CheckpointError:
        """Removes what a failed save left, which frees the disk, and says where the run stands."""
        _remove_unfinished(self.folder)
        good = self.last_good()
        where = "there is no earlier checkpoint" if good is None else f"step {good} is still whole"
        return CheckpointError(
            f"saving step {self._saving} in {self.folder} failed; {where}. "
            f"Free the disk and run the same command again to resume. Cause: {error}"
        )

    # Restoring

    def restore_or_init(
        self,
        init: Callable[..., TrainState],
        shardings: Callable[[TrainState], TrainState] | None = None,
        batches: Batches | None = None,
        source: tuple[Any, ...] = (),
    ) -> tuple[TrainState, int]:
        """Restores the newest whole checkpoint, or makes the first state.

        Args:
          init: makes the state before the first step from `source`; traced for its shapes, and
            compiled if there is no checkpoint, so that each device makes its own share alone.
          shardings: the placement of a state, given its shapes; the first device by default. It
            need not be the one that the checkpoint was saved from.
          batches: set to its saved position.
          source: arrays that the state starts from, such as loaded parameters.

        Returns:
          The state and the number of steps done.

        Raises:
          CheckpointError: if all checkpoints are damaged, or the newest has other shapes.
        """
        shapes = jax.eval_shape(init, *source)
        places = shardings(shapes) if shardings else jax.tree.map(lambda _: _first_device(), shapes)
        step = self._newest_whole()
        if step is None:
            return _make(init, source, places if shardings else None), 0
        target = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, places
        )
        meta = self._read_meta(step)
        self._compare(step, meta["arrays"], _signature(shapes))
        if batches is not None:
            batches.set_state(self._position(step, meta["data"]))
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(_params_item(target)),
                optimizer=ocp.args.StandardRestore(_optimizer_item(target)),
            ),
        )
        state = TrainState(**items["params"], **items["optimizer"])
        logging.warning("Resuming after step %d from %s.", step, self.folder)
        return state, step

    def _position(self, step: int, states: list[str] | None) -> Any:
        if not states:
            raise CheckpointError(f"checkpoint {step} was saved without a position in the data.")
        try:
            return processes.own(states)
        except ValueError as error:
            raise CheckpointError(f"checkpoint {step}: {error}") from error

    def _read_meta(self, step: int) -> dict[str, Any]:
        restore = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self._manager.restore(step, args=restore)["meta"]

    def _newest_whole(self) -> int | None:
        """Finds the newest checkpoint whose checksums agree; sets damaged ones aside, aloud."""
        damaged = []
        while (step := self.last_good()) is not None:
            problem = processes.agree(
                checksums.verify(self.folder / str(step)) if jax.process_index() == 0 else ""
            )
            if not problem:
                return step
            damaged.append(step)
            if jax.process_index() == 0:
                aside = self.folder / f"damaged-{step}"
                shutil.rmtree(aside, ignore_errors=True)
                (self.folder / str(step)).rename(aside)
            processes.agree("")  # nobody looks before it is renamed
            self._manager.reload()
            logging.error(
                "Checkpoint %d in %s is damaged (%s); trying the one before it.",
                step,
                self.folder,
                problem,
            )
        if damaged:
            raise CheckpointError(
                f"every checkpoint in {self.folder} is damaged (steps {damaged}, now damaged-*); "
                "use --resume fresh to start again."
            )
        return None

    def _compare(self, step: int, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
        # Parameters first: they say most
        names = sorted({*saved, *wanted}, key=lambda name: (not name.startswith("params"), name))
        differing = [
            f"{name}: saved {saved.get(name, 'nothing')}, wanted {wanted.get(name, 'nothing')}"
            for name in names
            if saved.get(name) != wanted.get(name)
        ]
        if differing:
            shown = "; ".join(differing[:8]) + ("; ..." if len(differing) > 8 else "")
            raise CheckpointError(
                f"checkpoint {step} in {self.folder} is of another network or optimizer: "
                f"{len(differing)} arrays differ: {shown}."
            )


def load_all(workdir: str | pathlib.Path, step: int | None = None) -> dict[str, dict[str, Params]]:
    """Loads the parameters of a run without its optimizer state.

    Args:
      workdir: the run's folder.
      step: which checkpoint; the newest by default.

    Returns:
      {"params": {network: parameters}, "average": {network: parameters}}, on the first device.

    Raises:
      CheckpointError: if there is no such checkpoint, or it is damaged.
    """
    folder = pathlib.Path(workdir).absolute() / "checkpoints"
    step = _newest(folder) if step is None else step
    if step is None:
        raise CheckpointError(f"{folder} holds no checkpoint; has the run saved one?")
    problem = checksums.verify(folder / str(step))
    if problem:
        raise CheckpointError(f"checkpoint {step} in {folder} is damaged: {problem}.")
    _quieten_orbax()
    handler = ocp.Checkpointer(ocp.StandardCheckpointHandler())
    item = folder / str(step) / "params"
    described: Any = handler.metadata(item).item_metadata
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_first_device()), described.tree
    )
    return handler.restore(item, args=ocp.args.StandardRestore(target))


def load_params(
    workdir: str | pathlib.Path, network: str, *, average: bool = True, step: int | None = None
) -> Params:
    """Loads one network's parameters from a run.

    Args:
      workdir: the run's folder.
      network: its name in the training state.
      average: the moving average where there is one.
      step: which checkpoint; the newest by default.

    Raises:
      CheckpointError: as `load_all`, and if there is no such network.
    """
    groups = load_all(workdir, step)
    if network not in groups["params"]:
        raise CheckpointError(
            f"{workdir} has no network {network!r}, only {list(groups['params'])}."
        )
    averages = (groups["average"] or {}) if average else {}
    return averages.get(network, groups["params"][network])


def digest(workdir: str | pathlib.Path, step: int) -> str:
    """Hashes all that a checkpoint holds: every array of the state, and the position in the data.

    Two checkpoints with the same digest continue alike, bit for bit, on the same hardware.
    """
    folder = pathlib.Path(workdir).absolute() / "checkpoints" / str(step)
    _quieten_orbax()
    handler = ocp.Checkpointer(ocp.StandardCheckpointHandler())
    items = {name: handler.restore(folder / name) for name in ("params", "optimizer")}
    flat, _ = jax.tree_util.tree_flatten_with_path(items)
    found = hashlib.sha256()
    for name, leaf in sorted(((path_name(path), leaf) for path, leaf in flat), key=lambda x: x[0]):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        found.update(f"{name} {array.dtype}{list(array.shape)}".encode() + array.tobytes())
    meta = ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(folder / "meta")
    found.update(json.dumps(meta["data"], sort_keys=True).encode())
    return found.hexdigest()


def _quieten_orbax() -> None:
    """Drops its log, where a failure is told many times; `_failure` tells it once."""
    logging.get_absl_logger().addFilter(_not_from_orbax)  # once, however often


def _not_from_orbax(record: Any) -> bool:
    return "orbax" not in pathlib.Path(record.pathname).parts


def _make(
    init: Callable[..., TrainState], source: tuple[Any, ...], places: TrainState | None
) -> TrainState:
    """Makes a state where it will stay: made eagerly it would lie whole on every device first."""
    if jax.process_count() > 1:  # what a process has to itself is the same on all: a host's array
        source = jax.tree.map(
            lambda x: np.asarray(x) if getattr(x, "is_fully_addressable", True) else x, source
        )
    return jax.jit(init, out_shardings=places)(*source)


def _first_device() -> SingleDeviceSharding:
    return SingleDeviceSharding(jax.local_devices()[0])


def steps_on_disk(workdir: str | pathlib.Path) -> list[int]:
    """Lists the finished checkpoints of a run, oldest first."""
    return _steps(pathlib.Path(workdir) / "checkpoints")


def _steps(folder: pathlib.Path) -> list[int]:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if re.fullmatch(r"\d+", name))


def _newest(folder: pathlib.Path) -> int | None:
    return max(_steps(folder), default=None)


def _remove_unfinished(folder: pathlib.Path) -> None:
    """Removes the folders of saves that failed.

    Orbax reports the first item that fails while it may still write the others, which makes their
    folders anew: nothing must appear for half a second, or five seconds must have passed.
    """
    last_seen = started = time.monotonic()
    while time.monotonic() - last_seen < 0.5 and time.monotonic() - started < 5:
        for unfinished in folder.glob("*.orbax-checkpoint-tmp*"):
            last_seen = time.monotonic()
            shutil.rmtree(unfinished, ignore_errors=True)
        time.sleep(0.05)


def _params_item(state: TrainState) -> dict[str, Any]:
    return {"params": state.params, "average": state.average}


def _optimizer_item(state: TrainState) -> dict[str, Any]:
    names = ("step", "optimizer", "key", "extra")
    return {name: getattr(state, name) for name in names}


def _signature(state: TrainState) -> dict[str, Any]:
    """Maps every array of a state to "dtype[shape]"."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    flat, _ = jax.tree_util.tree_flatten_with_path(fields)
    return {path_name(path): f"{x.dtype}{list(x.shape)}" for path, x in flat}
