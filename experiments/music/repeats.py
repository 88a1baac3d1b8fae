"""Does generated music repeat at the tempo that its prompt names?

    python -m experiments.music.repeats [--weights FOLDER] [--text_weights FOLDER] [--clips 48]

A judge of tempo must choose one and is silent about how clear it was. Here a beat is measured
before it is clear enough to be heard: the onsets of the channels that tell levels (rises from frame
to frame, configs/nano/vae_levels.py) are correlated with themselves one beat later, for the beat of
the prompt's own tempo and, by chance, for those of the other prompts. Beside it stands the highest
correlation at any tempo. The clips that the prompts describe show what there is to reach. Printed
are means with 95 % intervals over clips, for prompts as they are and for bare ones, of metadata
alone; the last line is one JSON object.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax import compilation
from acestep_jax.data import transforms
from acestep_jax.training import compare, models
from acestep_jax.training import scene as scene_lib
from acestep_jax.training.compare import System
from acestep_jax.training.config import Data, Model
from acestep_jax.training.recipes.distill import Distill
from acestep_jax.units import FRAME_RATE
from configs.nano import vae_levels
from experiments.distill.adherence import read_prompt

BATCH = 16
SLOWEST, FASTEST = 50.0, 210.0
"""Beats a minute between which the highest correlation is looked for."""


def repetition(levels: np.ndarray) -> np.ndarray:
    """Correlates the onsets of `levels` [N, T] with themselves, [N, T - 1]: 1 at lag 0."""
    onsets = np.diff(levels, axis=1)
    onsets = onsets - onsets.mean(axis=1, keepdims=True)
    length = onsets.shape[1]
    spectrum = np.abs(np.fft.rfft(onsets, 2 * length, axis=1)) ** 2
    products = np.fft.irfft(spectrum, axis=1)[:, :length]
    means = products / (length - np.arange(length))  # fewer pairs at longer lags
    return means / np.maximum(means[:, :1], 1e-12)


def at_tempi(curves: np.ndarray, tempi: np.ndarray) -> np.ndarray:
    """Reads every curve [N, L] one beat later at every tempo [M]: [N, M]."""
    beats = 60 / tempi * FRAME_RATE
    return np.stack([np.interp(beats, np.arange(curves.shape[1]), curve) for curve in curves])


def measure(latents: np.ndarray, tempi: np.ndarray) -> dict[str, list[float]]:
    """Gives [mean, half of its 95 % interval] of what repeats in [N, T, C].

    Returns:
      {"own": one beat later at the own tempo, "others": at those of the others, "highest": at any}.
    """
    count = vae_levels.get_config().level_channels
    curves = repetition(latents[..., -count:].mean(axis=-1))
    table = at_tempi(curves, tempi)
    own = np.diagonal(table)
    others = (table.sum(axis=1) - own) / (len(tempi) - 1)
    first, last = (int(60 / tempo * FRAME_RATE) for tempo in (FASTEST, SLOWEST))
    rows = {"own": own, "others": others, "highest": curves[:, first : last + 1].max(axis=1)}
    half = {name: 1.96 * x.std(ddof=1) / len(x) ** 0.5 for name, x in rows.items()}
    return {name: [round(float(x.mean()), 3), round(half[name], 3)] for name, x in rows.items()}


def listen(
    model: Model, data: Data, clips: int, systems: Sequence[System]
) -> dict[str, dict[str, list[float]]]:
    """Measures the songs that held-out prompts describe, and what `systems` make of the prompts."""
    loaded = models.load(model)
    batches = models.open_batches(Distill(name="repeats", model=model, data=data), "validation")
    reader = transforms.load_tokenizer(str(models.tokenizer_folder(model)))
    encode = jax.jit(lambda params, batch: scene_lib.encode(loaded.networks, params, batch))
    made: dict[str, list[np.ndarray]] = {}
    tempi: list[float] = []
    for first in range(0, clips, data.batch_size):
        batch = next(batches)
        texts = reader.decode_batch(np.asarray(batch.text_tokens).tolist())
        named = [read_prompt(text).tempo for text in texts]
        told = np.array([tempo is not None for tempo in named])
        tempi += [tempo for tempo in named if tempo is not None]
        scene = encode(loaded.params, jax.tree.map(jnp.asarray, batch))
        made.setdefault("songs", []).append(np.asarray(scene.real)[told])
        for system in systems:
            own = dataclasses.replace(system, params=loaded.params["dit"], first_seed=first)
            songs = compare.sample(loaded.networks, own, scene, shift=3.0)
            made.setdefault(system.name, []).append(np.asarray(songs)[told])
    return {name: measure(np.concatenate(parts), np.array(tempi)) for name, parts in made.items()}


def main(arguments: Sequence[str] | None = None) -> dict:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="asset:nano/acestep-v15-nano")
    parser.add_argument("--text_weights", default="asset:nano/text_encoder")
    parser.add_argument("--shards", default="", help="of the prompts; those in the package")
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--guidance", type=float, nargs="*", default=[1.0, 2.5])
    options = parser.parse_args(arguments)
    compilation.enable_cache()
    model = Model(weights=options.weights, text_weights=options.text_weights)
    data = Data(shards=options.shards, batch_size=min(BATCH, options.clips), num_frames=128)
    data = dataclasses.replace(data, start_at="chords", metadata_dropout=0.0)
    systems = [System(f"guidance {g:g}", {}, options.steps, g) for g in options.guidance]
    found = {}
    for name, bare in (("prompts", 0.0), ("bare prompts", 1.0)):
        told = dataclasses.replace(data, bare_share=bare)
        found[name] = listen(model, told, options.clips, systems)
        for system, row in found[name].items():
            cells = "   ".join(
                f"{key} {mean:.3f} ± {half:.3f}" for key, (mean, half) in row.items()
            )
            print(f"{name}, {system}: {cells}", flush=True)
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
