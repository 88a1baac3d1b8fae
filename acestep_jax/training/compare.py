"""The report of a distillation: few steps beside many, from the same prompts and the same noise.

Sampled are: the teacher with many guided steps, which is the reference; the teacher as it is with
few unguided steps, which is what distillation starts from; the student with the same few.

Distances to the reference are of two kinds. The *pair* errors compare songs that grew from the same
noise: zero only if the student follows the teacher's ODE, which distribution matching does not ask
for. The *law* distances compare sets of songs: zero if a listener could not tell the sets apart.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from acestep_jax.data import transforms
from acestep_jax.data.batch import Batch
from acestep_jax.nn.model import Networks
from acestep_jax.nn.vae import VAE
from acestep_jax.ops import distances, stft, timesteps
from acestep_jax.sampling import flow, sampler
from acestep_jax.sampling.steering import Rule, Steering
from acestep_jax.training import game as game_lib
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import metrics as metrics_lib
from acestep_jax.training import models, processes, report
from acestep_jax.training.game import Game
from acestep_jax.training.recipes.distill import Distill
from acestep_jax.training.scene import Scene
from acestep_jax.training.state import TrainState
from acestep_jax.typing import Array, Params

WINDOW_FRAMES = 8
"""Latent frames of a window whose law is compared: a third of a second."""
SPECTRUM_WINDOW = 2048


@dataclasses.dataclass(frozen=True)
class System:
    """One way of sampling: a name, whose parameters, steps, guidance, and the first item's seed."""

    name: str
    params: Params
    num_steps: int
    guidance_scale: float = 1.0
    first_seed: int = 0
    guidance_rule: Rule = "cfg"


def systems(config: Distill, teacher: Params, student: Params) -> list[System]:
    """Lists what is compared. The first is the reference, the last the reference from other noise.

    That last row shows how small each distance can be between sets of this size.
    """
    plan = config.evaluation
    name = f"teacher, {plan.teacher_steps} guided steps"
    guidance = {"guidance_scale": config.guidance_scale, "guidance_rule": config.guidance_rule}
    reference = System(name, teacher, plan.teacher_steps, **guidance)
    again = dataclasses.replace(reference, name="the same, other noise", first_seed=10_000)
    few = [
        System(f"{name}, {count} steps", params, count)
        for name, params in (("undistilled teacher", teacher), ("student", student))
        for count in plan.student_steps
    ]
    return [reference, *few, again]


def sample(networks: Networks, system: System, scene: Scene, shift: float) -> Array:
    """Samples every prompt of the scene; item i starts from the noise of seed first_seed + i."""
    items, frames, channels = scene.real.shape
    seeds = system.first_seed + jnp.arange(items)
    noise = flow.initial_noise(flow.item_keys(seeds), frames, channels)
    run = sampler.make_sampler(networks.dit)
    guided = system.guidance_scale != 1.0
    times = timesteps.time_grid(system.num_steps, shift)
    return run(
        system.params,
        noise,
        scene.tokens,
        scene.mask,
        scene.context,
        scene.frame_mask,
        times,
        null=scene.null,
        steering=Steering(rule=system.guidance_rule, scale=system.guidance_scale)
        if guided
        else None,
    )


def captions(batch: Batch, tokenizer: pathlib.Path) -> list[str]:
    """Reads the captions back from the tokens of a batch; `tokenizer` is its folder."""
    reader = transforms.load_tokenizer(str(tokenizer))
    texts = [reader.decode(list(map(int, ids))) for ids in np.asarray(batch.text_tokens)]
    return [text.partition("# Caption")[2].partition("#")[0].strip() or text for text in texts]


def decode(vae: VAE, params: Params, latents: Array) -> np.ndarray:
    """Decodes songs one after another: [B, T, C] -> [B, 1920 T, 2]."""
    one = jax.jit(lambda p, z: vae.apply({"params": p}, z[None], method="decode")[0])
    return np.stack([np.asarray(one(params, song)) for song in latents])


def log_spectra(audio: np.ndarray) -> Array:
    """Log magnitudes of the sum of the channels, in third octaves: [B, frames, bands].

    Below -80 dB of full scale everything counts as silence.
    """
    spectra = jnp.abs(stft.stft(jnp.asarray(audio).sum(-1, keepdims=True), SPECTRUM_WINDOW))[:, 0]
    thirds = 2 ** np.arange(1.0, np.log2(spectra.shape[-1]), 1 / 3)
    edges = np.unique(np.round(thirds).astype(int))
    bands = [spectra[..., low:high].mean(-1) for low, high in itertools.pairwise(edges)]
    return jnp.log(jnp.maximum(jnp.stack(bands, axis=-1), 1e-4))


def measure(latents: Array, reference: Array, other: Array, real: Array) -> dict[str, float]:
    """Compares sampled latents [B, T, C] with the reference's and with real songs.

    Pairs are those with `reference`, of the same noise; laws are compared with `other`, made by the
    same system from other noise: the estimate of a distance of laws wants independent sets.
    """

    def law(x: Array, y: Array) -> Array:
        cut = [distances.windows(z, WINDOW_FRAMES) for z in (x, y)]
        return distances.energy_distance(*cut)

    return {
        "pair error": float(jnp.mean(distances.relative_error(latents, reference))),
        "law": float(law(latents, other)),
        "law to real songs": float(law(latents, real)),
        "spread": float(distances.spread(latents)),
    }


def measure_sound(audio: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Compares sounds [B, W, 2] with the reference's by their spectra in third octaves."""
    ours, theirs = log_spectra(audio), log_spectra(reference)
    to_decibels = 20 / np.log(10)
    profile = jnp.mean(ours, axis=(0, 1)) - jnp.mean(theirs, axis=(0, 1))
    return {
        "pair, dB": float(jnp.mean(jnp.abs(ours - theirs)) * to_decibels),
        "mean spectrum, dB": float(jnp.mean(jnp.abs(profile)) * to_decibels),
    }


def compare(
    config: Distill, networks: Networks, teacher: Params, student: Params, scene: Scene
) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """Samples every system and measures it.

    Returns:
      {system: {measure: number}}, and {system: audio [B, W, 2]} if there is an autoencoder.
    """
    plan = config.evaluation
    listed = systems(config, teacher, student)
    latents = {s.name: processes.whole(sample(networks, s, scene, plan.shift)) for s in listed}
    (first, *_, last), real = latents, processes.whole(scene.real)
    table = {
        name: measure(x, latents[first], latents[first if name == last else last], real)
        for name, x in latents.items()
    }
    if not config.model.vae_weights:
        return table, {}
    vae, params = models.load_vae(config.model)
    audio = {name: decode(vae, params, x) for name, x in latents.items()}
    for name, sound in audio.items():
        table[name] |= measure_sound(sound, audio[first])
    return table, audio


def conclude(
    game: Game,
    state: TrainState,
    frozen: Params,
    mesh: jax.sharding.Mesh,
    workdir: pathlib.Path,
) -> None:
    """Compares the finished student with its teacher on held-out prompts, and reports."""
    config, networks = game.config, game.networks
    held_out = next(models.open_batches(config, "validation", config.evaluation.num_items))
    batch = mesh_lib.place_batch(held_out, mesh)
    scene = jax.jit(functools.partial(game_lib.encode, game))(frozen, batch)
    student = game_lib.parts(game, state, frozen)["dit"]
    table, audio = compare(config, networks, frozen["teacher"], student, scene)
    if jax.process_index() == 0:
        prompts = captions(held_out, models.tokenizer_folder(config.model))
        logging.warning("Report: %s", write_report(config, workdir, table, audio, prompts))


def write_report(
    config: Distill,
    workdir: pathlib.Path,
    table: Mapping[str, Mapping[str, float]],
    audio: Mapping[str, np.ndarray],
    prompts: Sequence[str],
) -> pathlib.Path:
    """Writes `report.html` in the run's folder.

    Args:
      config: the run.
      workdir: its folder, with the metrics.
      table: from `compare`.
      audio: from `compare`.
      prompts: what each item was asked to be.
    """
    columns = list(next(iter(table.values())))
    rows = [[name, *(numbers[c] for c in columns)] for name, numbers in table.items()]
    series = metrics_lib.read_metrics(workdir)
    parts = {name: points for name, points in series.items() if name.startswith("loss/")}
    health = {
        name: points
        for name, points in series.items()
        if not name.startswith(("loss/", "time/")) and not name.endswith("/lr")
    }
    pieces = []
    if audio:
        count = min(config.evaluation.num_players, len(prompts))
        shown = dict(list(audio.items())[:-1])  # the last only shows how small distances can be
        grid = {(i, j): sounds[i] for j, sounds in enumerate(audio.values()) for i in range(count)}
        players = report.players(
            prompts[:count], list(shown), grid, caption="A row has one prompt and one noise."
        )
        pieces.append(report.section("Listen", players))
    pieces += [
        report.section("Distances", report.table(["", *columns], rows, caption=_CAPTION)),
        report.section("Loss parts", report.charts(parts)),
        report.section("Health of the distillation", report.charts(health, caption=_HEALTH)),
    ]
    path = workdir / "report.html"
    lead = (
        f"A student of {config.step_law} unguided steps, after {config.num_steps} iterations, from "
        f"a teacher guided with strength {config.guidance_scale:g}."
    )
    report.write(path, f"Distillation: {config.name}", *pieces, lead=lead)
    return path


_CAPTION = (
    "Against the first row. Pair error: mean squared difference of latents grown from the same "
    "noise, over the variance; unrelated songs are about 2 apart. Law: energy distance between "
    "windows of a third of a second, to the teacher's songs from other noise and to real songs; "
    "zero for equal laws. Spread: mean distance between songs of different prompts and seeds. dB: "
    "log spectra in third octaves, frame by frame, and averaged over all songs first. The last row "
    "shows how small the distances of laws can be between sets of this size."
)
_HEALTH = (
    "dm_gap falls, then levels off; a discriminator right in 55 to 80 of 100 pairs teaches; "
    "gan_over_dm between 0.05 and 0.3 lets it correct without leading."
)
