"""The report of a training run that changes a model: before and after, side by side.

Both are sampled from the same prompts and the same noise, so that what one hears is the change.
"""

import pathlib
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from acestep_jax.nn.model import Networks
from acestep_jax.training import compare, models, report
from acestep_jax.training import metrics as metrics_lib
from acestep_jax.training import scene as scene_lib
from acestep_jax.training.recipes.lora import TrainLoRA
from acestep_jax.typing import Params


def sample(
    config: TrainLoRA, networks: Networks, parts: Params, systems: Mapping[str, Params]
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Samples held-out prompts with several parameters of the DiT.

    Args:
      config: its `listening` says how.
      networks: the modules.
      parts: the other parts of the model.
      systems: {name: the DiT's parameters}.

    Returns:
      The prompts' captions, and {name: latents [B, T, C]}.
    """
    plan = config.listening
    batch = next(models.open_batches(config, "validation", batch_size=plan.num_items))
    scene = scene_lib.encode(
        networks, parts, batch, mask_padding=config.model.mask_padding, silence_latent=None
    )
    latents = {
        name: np.asarray(
            compare.sample(
                networks,
                compare.System(name, params, plan.num_steps, plan.guidance_scale),
                scene,
                plan.shift,
            )
        )
        for name, params in systems.items()
    }
    return compare.captions(batch, models.tokenizer_folder(config.model)), latents


def write_report(
    config: TrainLoRA,
    networks: Networks,
    parts: Params,
    systems: Mapping[str, Params],
    workdir: pathlib.Path,
    after: Mapping[str, float],
    before: Mapping[str, float],
) -> pathlib.Path:
    """Samples, decodes, and writes `report.html`.

    Args:
      config, networks, parts, systems: as for `sample`; without an autoencoder there is no sound.
      workdir: the run's folder, with its metrics.
      after, before: measured errors, by name; empty if none were measured.
    """
    prompts, latents = sample(config, networks, parts, systems)
    pieces = []
    if config.model.vae_weights:
        vae, params = models.load_vae(config.model)
        audio = {name: compare.decode(vae, params, jnp.asarray(x)) for name, x in latents.items()}
        grid = {(i, j): x[i] for j, x in enumerate(audio.values()) for i in range(len(prompts))}
        players = report.players(
            prompts, list(audio), grid, caption="A row has one prompt and one noise."
        )
        pieces.append(report.section("Listen", players))
    if after:
        rows = [[name, before[name], after[name]] for name in after]
        table = report.table(["", "before", "after"], rows, caption=_ERRORS)
        pieces.append(report.section("Held-out error of the velocity", table))
    series = metrics_lib.read_metrics(workdir)
    shown = {name: points for name, points in series.items() if not name.startswith("time/")}
    pieces.append(report.section("Training", report.charts(shown)))
    path = workdir / "report.html"
    report.write(path, f"Adapters: {config.name}", *pieces, lead=_lead(config))
    return path


def _lead(config: TrainLoRA) -> str:
    spec, plan = config.adapter, config.listening
    return (
        f"Adapters of rank {spec.rank} in {', '.join(spec.targets)}, after {config.num_steps} "
        f"steps; sampled with {plan.num_steps} steps, guidance {plan.guidance_scale:g}."
    )


_ERRORS = (
    "Mean squared error on songs that were not trained on: eval, of the style; control, others. "
    "Averaged over ten levels of t, and at each; the same noise before and after."
)
