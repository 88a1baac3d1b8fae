"""The report of a distillation, `report.html`: sounds, distances, losses, and what is not well."""

import functools
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from absl import logging

from acestep_jax.training import compare, health, models, report, sound
from acestep_jax.training import game as game_lib
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import metrics as metrics_lib
from acestep_jax.training.game import Game
from acestep_jax.training.health import Finding
from acestep_jax.training.recipes.distill import Distill
from acestep_jax.training.state import TrainState
from acestep_jax.typing import Params

Table = Mapping[str, Mapping[str, float]]
Audio = Mapping[str, np.ndarray]


def conclude(
    game: Game,
    state: TrainState,
    frozen: Params,
    mesh: jax.sharding.Mesh,
    workdir: pathlib.Path,
) -> None:
    """Compares the finished student with its teacher on held-out prompts, and reports.

    What is not well is said on the screen too.
    """
    config, networks = game.config, game.networks
    held_out = next(models.open_batches(config, "validation", config.evaluation.num_items))
    batch = mesh_lib.place_batch(held_out, mesh)
    scene = jax.jit(functools.partial(game_lib.encode, game))(frozen, batch)
    student = game_lib.parts(game, state, frozen)["dit"]
    table, audio = compare.compare(config, networks, frozen["teacher"], student, scene)
    if jax.process_index() != 0:
        return
    prompts = compare.captions(held_out, models.tokenizer_folder(config.model))
    path, findings = write(config, workdir, table, audio, prompts)
    for finding in findings:
        if finding.warning:
            logging.warning("Not well: %s", finding.warning)
    logging.warning("Report: %s", path)


def write(
    config: Distill,
    workdir: pathlib.Path,
    table: Table,
    audio: Audio,
    prompts: Sequence[str],
) -> tuple[pathlib.Path, list[Finding]]:
    """Writes `report.html` in the run's folder; gives its path and the diagnostics.

    Args:
      config: the run.
      workdir: its folder, with the metrics.
      table: from `compare.compare`.
      audio: from there, or empty.
      prompts: what each item was asked to be.
    """
    series = metrics_lib.read_metrics(workdir)
    findings = health.check(series)
    pieces = [_listen(config, audio, prompts), _sounds(audio)] if audio else []
    pieces += [_distances(table), _health(series, findings), _losses(series)]
    lead = (
        f"A student of {config.step_law} unguided steps, after {config.num_steps} iterations, from "
        f"a teacher guided with strength {config.guidance_scale:g}."
    )
    path = workdir / "report.html"
    report.write(path, f"Distillation: {config.name}", *pieces, lead=lead)
    return path, findings


def _listen(config: Distill, audio: Audio, prompts: Sequence[str]) -> str:
    count = min(config.evaluation.num_players, len(prompts))
    shown = dict(list(audio.items())[:-1])  # the last only shows how small distances can be
    grid = {(i, j): songs[i] for j, songs in enumerate(shown.values()) for i in range(count)}
    caption = "A row has one prompt and one noise."
    return report.section(
        "Listen", report.players(prompts[:count], list(shown), grid, caption=caption)
    )


def _sounds(audio: Audio) -> str:
    """Draws spectra and loudness; a chart takes the first six systems."""
    first = dict(list(audio.items())[:6])
    spectra = {name: sound.spectrum_curve(songs) for name, songs in first.items()}
    levels = {name: sound.loudness_curve(songs) for name, songs in first.items()}
    drawn = (
        report.chart(spectra, title="Mean spectrum, dB", x_label="octaves above 1 kHz"),
        report.chart(levels, title="Loudness, dB of full scale", x_label="seconds"),
    )
    return report.section("Spectra and loudness", *drawn, lead=_SOUNDS)


def _distances(table: Table) -> str:
    columns = list(next(iter(table.values())))
    rows = [[name, *(numbers[c] for c in columns)] for name, numbers in table.items()]
    return report.section("Distances", report.table(["", *columns], rows, caption=_DISTANCES))


def _health(series: Mapping[str, Sequence[health.Point]], findings: Sequence[Finding]) -> str:
    warnings = [report.text(f"Warning: {f.warning}") for f in findings if f.warning]
    columns = ["diagnostic", "last quarter", "healthy", ""]
    watched = {d.name: series[d.name] for d, _ in findings}
    others = {
        name: points
        for name, points in series.items()
        if name not in watched
        and not name.startswith(("loss/", "time/", "memory/"))
        and not name.endswith("/lr")
    }
    return report.section(
        "Health of the distillation",
        *(warnings or [report.text("No diagnostic leaves its healthy range.")]),
        report.table(columns, health.rows(findings), caption=_HEALTH) if findings else "",
        report.charts(watched | others),
    )


def _losses(series: Mapping[str, Sequence[health.Point]]) -> str:
    parts = {name: points for name, points in series.items() if name.startswith("loss/")}
    return report.section("Loss parts", report.charts(parts))


_SOUNDS = (
    "Third octaves of all songs of a system, up to a constant, and the level of successive moments "
    "of 0.4 s. A student that is louder or brighter than its teacher's first curve is saturating."
)
_DISTANCES = (
    "Against the first row. Pair error: mean squared difference of latents grown from the same "
    "noise, over the variance; unrelated songs are about 2 apart. Law: energy distance between "
    "windows of a third of a second, to the teacher's songs from other noise and to real songs; "
    "zero for equal laws. Spread: mean distance between songs of different prompts and seeds. dB: "
    "log spectra in third octaves, frame by frame, and averaged over all songs first; loudness of "
    "full scale. The last row shows how small the distances of laws can be between sets of this "
    "size."
)
_HEALTH = (
    "dm_gap falls, then levels off; fake_over_teacher below 1: the fake score knows the student's "
    "songs better than the teacher; a discriminator right in 55 to 80 of 100 pairs teaches; "
    "gan_over_dm between 0.05 and 0.3 lets it correct without leading; channel_std_ratio: the "
    "student's deviation over that of real songs."
)
