"""The format of a parity folder: cases, tolerances, checkpoints.

A folder holds `manifest.json` (a list of cases), `cases/<id>.{in,out}.npz` and checkpoints in the
official layout, perhaps also as diffusers saves them. A case names an operation, a checkpoint,
parameters, inputs, and a rule for each output:

  {"kind": "float", "rel": r}   ||got - want|| <= r ||want||  and  max|got - want| <= 10 r max|want|
                                ("mask": name restricts it to where that expected array is not zero)
  {"kind": "exact"}             all equal

Outputs marked optional are intermediate values: they are reported where a case fails, to find the
fault, and fail nothing themselves.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from acestep_jax import weights
from acestep_jax.nn.config import Qwen3Config, VAEConfig

Arrays = dict[str, np.ndarray]

DIGESTS = "diffusers.sha256.json"
"""Lists the files of the diffusers checkpoints, where a folder keeps only their configurations."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One entry of a manifest.

    Attributes:
      folder: where the manifest is.
      entry: the entry as parsed.
    """

    folder: Path
    entry: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Name of the case."""
        return self.entry["id"]

    @property
    def op(self) -> str:
        """Operation, a key of the table in `parity_operations`."""
        return self.entry["op"]

    @property
    def params(self) -> Mapping[str, Any]:
        """Settings of the operation, named as in the official code."""
        return self.entry["params"]

    def checkpoint(self, layout: str) -> Path:
        """Finds the checkpoint; what diffusers has no other form of is the same in both layouts."""
        if layout == "diffusers" and "checkpoint_diffusers" in self.entry:
            return self.folder / self.entry["checkpoint_diffusers"]
        return self.folder / self.entry["checkpoint"]

    def inputs(self) -> Arrays:
        """Reads the inputs."""
        return read_arrays(self.folder / self.entry["inputs"])

    def expected(self) -> Arrays:
        """Reads the expected outputs, and the masks that rules mention."""
        return read_arrays(self.folder / self.entry["expected"])


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How an output compares with what was expected.

    Attributes:
      name: of the output.
      passed: whether its rule holds.
      error: relative distance in the 2-norm, or the share of unequal elements for exact rules.
      worst: largest absolute difference over the largest magnitude; nan for exact rules.
      allowed: bound on `error`; ten times as much bounds `worst`.
      optional: whether it may differ.
    """

    name: str
    passed: bool
    error: float
    worst: float
    allowed: float
    optional: bool

    def __str__(self) -> str:
        sign = "ok" if self.passed else "differs"
        return f"{self.name} {self.error:.2e} (allowed {self.allowed:.0e}) {sign}"


def read_cases(folder: Path) -> list[Case]:
    """Reads a folder's manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    return [Case(folder, entry) for entry in manifest["cases"]]


def complete(
    folder: Path, target: Path, digests: Mapping[str, str]
) -> Iterator[tuple[str, list[str]]]:
    """Saves what a folder lacks of its diffusers checkpoints, from the official ones.

    Args:
      folder: with configurations alone under `diffusers`.
      target: gets those checkpoints whole, and links to everything else.
      digests: {file below the folder: SHA-256 of what diffusers wrote}.

    Yields:
      Each checkpoint's name, and its files of another digest.
    """
    for entry in folder.iterdir():
        if entry.name != "diffusers":
            (target / entry.name).symlink_to(entry.resolve())
    for name in sorted({str(Path(*Path(file).parts[:2])) for file in digests}):
        official = load_model(folder / "checkpoints" / Path(name).name)
        weights.save_model(target / name, official, layout="diffusers")
        files = [file for file in digests if file.startswith(f"{name}/")]
        yield name, [file for file in files if _digest(target / file) != digests[file]]


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_arrays(file: Path) -> Arrays:
    """Reads an npz file whole; Python objects in it are refused."""
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def compare(case: Case, got: Mapping[str, Any]) -> list[Outcome]:
    """Applies every rule of a case, required outputs first.

    Raises:
      KeyError: if a required output is missing.
    """
    expected, outcomes = case.expected(), []
    for name, rule in case.entry["outputs"].items():
        optional = rule.get("optional", False)
        if optional and name not in got:
            continue
        mask = expected[rule["mask"]] if "mask" in rule else None
        numbers = measure(np.asarray(got[name]), expected[name], rule["kind"], mask)
        allowed = rule.get("rel", 0.0)
        passed = numbers[0] <= allowed and not numbers[1] > 10 * allowed
        outcomes.append(Outcome(name, passed, *numbers, allowed, optional))
    return sorted(outcomes, key=lambda outcome: outcome.optional)


def measure(
    got: np.ndarray, want: np.ndarray, kind: str, mask: np.ndarray | None
) -> tuple[float, float]:
    """Computes (error, worst) as `Outcome` defines them; a wrong shape is infinitely wrong."""
    if got.shape != want.shape:
        return float("inf"), float("inf")
    if kind == "exact":
        return float(np.mean(got != want)) if want.size else 0.0, float("nan")
    if kind != "float":
        raise ValueError(f"unknown rule {kind!r}; a rule is float or exact.")
    got, want = got.astype(np.float64), want.astype(np.float64)
    if mask is not None:
        got, want = got[mask != 0], want[mask != 0]
    if not np.isfinite(got).all():
        return float("inf"), float("inf")
    difference, floor = got - want, np.finfo(np.float64).tiny
    norm = np.linalg.norm(difference) / max(np.linalg.norm(want), floor)
    worst = np.abs(difference).max(initial=0) / max(np.abs(want).max(initial=0), floor)
    return float(norm), float(worst)


@functools.lru_cache(maxsize=4)
def load_model(folder: Path) -> weights.Model:
    """Loads a diffusion package, once for all of its cases."""
    return weights.load_model(folder)


@functools.lru_cache(maxsize=4)
def load_vae(folder: Path) -> weights.Network[VAEConfig]:
    """Loads an autoencoder."""
    return weights.load_vae(folder)


@functools.lru_cache(maxsize=4)
def load_qwen3(folder: Path) -> weights.Network[Qwen3Config]:
    """Loads a text encoder or planner."""
    return weights.load_qwen3(folder)
