"""Is the shipped student as good as its teacher, under measures that training never saw?

    python -m experiments.distill.evaluate [--quick] [--student FOLDER] [--prompts 256]
    python -m experiments.distill.evaluate --student FOLDER --others FOLDER FOLDER    (three seeds)

Held-out prompts; the reference is the teacher with 50 guided steps. For the student with 4, 6 and 8
steps at shifts 1, 2 and 3, and the undistilled teacher with 8: the energy distance of latent
windows and the Frechet distance of log-mel statistics to the reference, the first also as a ratio
to the undistilled teacher's; then the diversity of seeds, and how often tempo and key are those of
the prompt (adherence.py). All with 95 % intervals over prompts (measures.py); the teacher against
itself, from other noise, shows how small a distance can be.
`--quick` takes 32 prompts. The last line is one JSON object.
"""

import argparse
import functools
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from acestep_jax import compilation
from acestep_jax.typing import Params
from configs.nano import distill as recipe
from experiments.distill import adherence, measures, players, seeds
from experiments.distill.measures import Distances, Interval, Moments

STEPS, SHIFTS = (8, 6, 4), (1.0, 2.0, 3.0)
TARGET_RATIO, TARGET_DIVERSITY = 0.5, 0.9


class Songs:
    """What one system made of every prompt; decoded once, when it is first listened to."""

    def __init__(self, latents: np.ndarray) -> None:
        self.latents = latents
        """[N, T, C]."""

    @functools.cached_property
    def audio(self) -> np.ndarray:
        """[N, W, 2]."""
        return players.decode(self.latents)


class Reference(NamedTuple):
    """The teacher's guided songs, twice from other noise, and what is known of them.

    Attributes:
      songs, again: from independent noise.
      within: distances within `songs`, [N, N].
      mel: of `songs`, or None without sound.
    """

    songs: Songs
    again: Songs
    within: np.ndarray
    mel: Moments | None


def make_reference(
    stage: players.Stage, *, steps: int, guidance: float, shift: float, sound: bool = True
) -> Reference:
    """Samples the teacher twice."""
    first, second = (
        Songs(players.sample(stage, stage.teacher, steps, shift, guidance=guidance, seed=seed))
        for seed in (0, 1)
    )
    mel = measures.log_mel_moments(first.audio) if sound else None
    within = measures.song_distances(first.latents, first.latents)
    return Reference(first, second, within, mel)


def judge(songs: Songs, reference: Reference) -> tuple[dict[str, list[float]], Distances]:
    """Measures one set of songs, made from noise that the reference did not begin with."""
    count, numbers = len(songs.latents), {}
    pairs = measures.distances(songs.latents, reference.songs.latents, reference.within)
    numbers["energy"] = rounded(measures.bootstrap(lambda w: measures.energy(pairs, w), count))
    if reference.mel is not None:
        theirs, ours = reference.mel, measures.log_mel_moments(songs.audio)
        frechet = measures.bootstrap(lambda w: measures.frechet(ours, theirs, w), count, draws=200)
        numbers["frechet"] = rounded(frechet)
    return numbers, pairs


def ratio(ours: Distances, theirs: Distances) -> Interval:
    """Divides two energy distances to one reference, resampled together."""

    def statistic(weights: np.ndarray) -> float:
        return measures.energy(ours, weights) / measures.energy(theirs, weights)

    return measures.bootstrap(statistic, len(ours.across))


def rounded(interval: Interval) -> list[float]:
    """Gives [value, low, high] with four digits."""
    return [round(value, 4) for value in interval]


def evaluate(
    stage: players.Stage,
    students: Sequence[Params],
    reference: Reference,
    grid: Sequence[tuple[int, float]],
) -> dict[str, Any]:
    """Measures students at every (steps, shift), beside the undistilled teacher with 8 steps.

    The first is the one that is reported; with others, of other seeds, `over_students` follows.
    """
    again, _ = judge(reference.again, reference)
    rows: list[dict[str, Any]] = [{"system": "teacher again", **again}]
    undistilled = {}
    for shift in sorted({shift for _, shift in grid}):
        songs = Songs(players.sample(stage, stage.teacher, 8, shift, seed=2))
        numbers, undistilled[shift] = judge(songs, reference)
        rows.append({"system": "undistilled", "steps": 8, "shift": shift, **numbers})
        print(line(rows[-1]), flush=True)
    asked = None if reference.mel is None else adherence.hits(reference.songs.audio, stage.asked)
    measured = [
        measure_student(stage, student, reference, undistilled, asked, grid) for student in students
    ]
    first = measured[0]
    over = {"students": over_students(measured)} if len(measured) > 1 else {}
    return first | {"rows": rows + first["rows"]} | over


def measure_student(
    stage: players.Stage,
    student: Params,
    reference: Reference,
    undistilled: Mapping[float, Distances],
    asked: Mapping[str, np.ndarray] | None,
    grid: Sequence[tuple[int, float]],
) -> dict[str, Any]:
    """Measures a student over the grid, and its diversity and adherence: 8 steps at shift 3.

    `asked` tells which of the teacher's songs do as asked; without sound it is None.
    """
    usual = Songs(players.sample(stage, student, 8, 3.0, seed=2))
    rows = []
    for steps, shift in grid:
        made = usual
        if (steps, shift) != (8, 3.0):
            made = Songs(players.sample(stage, student, steps, shift, seed=2))
        numbers, pairs = judge(made, reference)
        share = rounded(ratio(pairs, undistilled[shift]))
        row = {"system": "student", "steps": steps, "shift": shift, **numbers, "ratio": share}
        rows.append(row)
        print(line(row), flush=True)
    other = players.sample(stage, student, 8, 3.0, seed=3)
    found = {"rows": rows, "diversity": diversity(usual.latents, other, reference)}
    if asked is not None:
        found["adherence"] = adherent(adherence.hits(usual.audio, stage.asked), asked)
    return found


def over_students(measured: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Gathers what each student measured: {"8 steps, shift 1, ratio": {"each", "mean"}, ...}.

    A mean is [mean, low, high] by Student's t over students.
    """
    each: dict[str, list[float]] = {}
    for student in measured:
        named = {
            f"{place(row)}, {name}": row[name][0]
            for row in student["rows"]
            for name in ("ratio", "frechet")
            if name in row
        } | {"diversity": student["diversity"][0]}
        for name, row in student.get("adherence", {}).items():
            named[f"{name} as asked, less the teacher's"] = row["difference"][0]
        for name, value in named.items():
            each.setdefault(name, []).append(value)
    return seeds.gather(each)


def place(row: Mapping[str, Any]) -> str:
    """Names where a row was measured."""
    return f"{row['steps']} steps, shift {row['shift']:g}"


def diversity(first: np.ndarray, second: np.ndarray, reference: Reference) -> list[float]:
    """Compares how far two seeds of a prompt are apart, [N, T, C] each, with the teacher's."""
    ours = measures.seed_distances(first, second)
    theirs = measures.seed_distances(reference.songs.latents, reference.again.latents)
    count = len(ours)
    return rounded(measures.bootstrap(lambda w: measures.diversity(ours, theirs, w), count))


def adherent(
    student: Mapping[str, np.ndarray], teacher: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Compares how often tempo and key are those asked for."""
    found = {}
    for name in ("tempo", "key"):
        theirs, ours = teacher[name], student[name]
        if not np.isfinite(theirs).any():
            continue  # no prompt names one
        found[name] = {
            "count": int(np.isfinite(theirs).sum()),
            "teacher": rounded(adherence.share(theirs)),
            "student": rounded(adherence.share(ours)),
            "difference": rounded(adherence.difference(ours, theirs)),
        }
    return found


def verdict(found: Mapping[str, Any]) -> dict[str, bool]:
    """Holds the numbers against the targets: half the distance at 8 steps, diversity kept.

    With students of several seeds their means are held against them, too.
    """
    eight = [row for row in found["rows"] if row["system"] == "student" and row["steps"] == 8]
    shares, kept = [row["ratio"][0] for row in eight], [found["diversity"][0]]
    for name, students in found.get("students", {}).items():
        eighth = name.startswith("8 steps") and name.endswith("ratio")
        shares += [students["mean"][0]] if eighth else []
        kept += [students["mean"][0]] if name == "diversity" else []
    return {
        "at most half as far as the undistilled": all(share <= TARGET_RATIO for share in shares),
        "diversity kept": min(kept) >= TARGET_DIVERSITY,
    } | {
        f"{name} as asked, no worse than the teacher": row["difference"][2] >= 0
        for name, row in found.get("adherence", {}).items()
    }


def line(row: Mapping[str, Any]) -> str:
    """Writes a row for people."""
    numbers = (
        f"{k} {v[0]:.4f} ({v[1]:.4f} to {v[2]:.4f})" for k, v in row.items() if type(v) is list
    )
    where = f"{place(row)}: " if "steps" in row else ""
    return f"{row['system']}, {where}{'; '.join(numbers)}"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluates, prints a line a row, and one JSON object last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="32 prompts, within five minutes")
    parser.add_argument("--teacher", default=players.TEACHER)
    parser.add_argument("--student", default=players.STUDENT)
    parser.add_argument("--others", nargs="*", default=[], help="students of other seeds")
    parser.add_argument("--shards", default="", help="of the prompts; those in the package")
    parser.add_argument("--prompts", type=int, default=0, help="256, or 32 with --quick")
    parser.add_argument("--teacher_steps", type=int, default=50)
    absorbed = recipe.get_config().guidance_scale
    parser.add_argument(
        "--guidance", type=float, default=absorbed, help=f"of the teacher: {absorbed}"
    )
    parser.add_argument("--steps", type=int, nargs="*", default=STEPS)
    parser.add_argument("--shifts", type=float, nargs="*", default=SHIFTS)
    parser.add_argument("--no_sound", action="store_true", help="leave the Frechet distance out")
    options = parser.parse_args(arguments)
    compilation.enable_cache()
    begin, prompts = time.monotonic(), options.prompts or (32 if options.quick else 256)
    students = [players.load_student(where) for where in (options.student, *options.others)]
    stage = players.open_stage(options.teacher, prompts, min(16, prompts), options.shards)
    reference = make_reference(
        stage,
        steps=options.teacher_steps,
        guidance=options.guidance,
        shift=3.0,
        sound=not options.no_sound,
    )
    found = evaluate(stage, students, reference, players.grid(options.steps, options.shifts))
    found |= {"prompts": prompts, "targets": verdict(found)}
    found["seconds"] = round(time.monotonic() - begin, 1)
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
