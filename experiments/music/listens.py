"""Does a diffusion model listen to the tempo that its prompt names?

    python -m experiments.music.listens [--weights FOLDER] [--text_weights FOLDER] [--clips 96]

Long before generated music has a beat, a model that reads tempi errs more where the tempo is wrong.
Held-out clips that begin on a chord are noised to several levels, and the velocity is predicted
with the clip's own prompt and with one whose tempo is about 30 % off, all else being equal. Printed
is by how much the squared error grows, with its 95 % interval over clips, for the channels that
tell levels (configs/nano/vae_levels.py), where a beat shows most, and for the others. A model that
does not listen gives zero. The last line is one JSON object.
"""

import argparse
import dataclasses
import json
import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from acestep_jax import compilation
from acestep_jax.data import transforms
from acestep_jax.data.batch import Batch
from acestep_jax.ops import flow
from acestep_jax.training import models
from acestep_jax.training import scene as scene_lib
from acestep_jax.training.config import Data, Model
from acestep_jax.training.recipes.distill import Distill
from acestep_jax.typing import Array, Params
from configs.nano import vae_levels
from experiments.distill.adherence import read_prompt

BATCH = 48
TIMES = (0.3, 0.5, 0.7, 0.9)
FACTOR = 1.3
"""Slow tempi grow by it, fast ones shrink; it relates no two metrical levels of one tempo."""


def other_tempo(text: str) -> str:
    """Rewrites a caption prompt with another tempo; one that names none stays as it is."""
    tempo = read_prompt(text).tempo
    if tempo is None:
        return text
    old, new = f"{tempo:.0f}", f"{tempo * FACTOR if tempo < 110 else tempo / FACTOR:.0f}"
    text = re.sub(rf"^- bpm: {old}$", f"- bpm: {new}", text, flags=re.MULTILINE)
    return re.sub(rf"\b{old}(?= ?bpm\b)", new, text, flags=re.IGNORECASE)


def with_other_tempi(batch: Batch, tokenizer: tokenizers.Tokenizer) -> tuple[Batch, np.ndarray]:
    """Rewrites the prompts of a batch; tells which of them name a tempo, [B]."""
    tokens, masks = np.array(batch.text_tokens), np.array(batch.text_mask)
    named = np.zeros(len(tokens), bool)
    for i, (row, mask) in enumerate(zip(tokens, masks, strict=True)):
        text = tokenizer.decode(row[mask].tolist(), skip_special_tokens=False)
        named[i] = other_tempo(text) != text
        ids = tokenizer.encode(other_tempo(text), add_special_tokens=False).ids[: len(row)]
        tokens[i, : len(ids)], masks[i] = ids, np.arange(len(row)) < len(ids)
    return dataclasses.replace(batch, text_tokens=tokens, text_mask=masks), named


def measure(model: Model, data: Data, clips: int) -> np.ndarray:
    """Measures how much the error grows: [clips that name a tempo, times, (levels, others)]."""
    loaded = models.load(model)
    tokenizer = transforms.load_tokenizer(str(models.tokenizer_folder(model)))
    first = loaded.networks.config.audio_acoustic_hidden_dim
    first -= vae_levels.get_config().level_channels

    @jax.jit
    def errors(params: Params, batch: Batch) -> Array:
        scene = scene_lib.encode(loaded.networks, params, batch)
        noise = jax.random.normal(jax.random.key(0), scene.real.shape)
        velocity = scene_lib.field(loaded.networks, params["dit"], scene)

        def at(t: Array) -> Array:
            times = jnp.full(scene.real.shape[:1], t)
            predicted = velocity(flow.interpolate(scene.real, noise, times), times)
            each = jnp.mean((predicted - flow.velocity_target(scene.real, noise)) ** 2, axis=1)
            return jnp.stack([each[:, first:].mean(-1), each[:, :first].mean(-1)], axis=-1)

        return jnp.moveaxis(jax.lax.map(at, jnp.array(TIMES)), 0, 1)

    data = dataclasses.replace(data, batch_size=min(clips, BATCH))
    batches = models.open_batches(Distill(name="listens", model=model, data=data), "validation")
    found = []
    for _ in range(-(-clips // data.batch_size)):
        batch = next(batches)
        other, named = with_other_tempi(batch, tokenizer)
        own, wrong = (errors(loaded.params, jax.tree.map(jnp.asarray, b)) for b in (batch, other))
        found.append(np.asarray(wrong - own)[named])
    return np.concatenate(found)


def main(arguments: Sequence[str] | None = None) -> dict:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="asset:nano/acestep-v15-nano")
    parser.add_argument("--text_weights", default="asset:nano/text_encoder")
    parser.add_argument("--shards", default="", help="of the clips; those in the package")
    parser.add_argument("--clips", type=int, default=96)
    parsed = parser.parse_args(arguments)
    compilation.enable_cache()
    model = Model(weights=parsed.weights, text_weights=parsed.text_weights)
    data = Data(shards=parsed.shards, num_frames=128, start_at="chords")
    grown = measure(model, data, parsed.clips).astype(float)
    means, half = grown.mean(axis=0), 1.96 * grown.std(axis=0, ddof=1) / len(grown) ** 0.5
    print(f"{len(grown)} clips: the error grows by (levels, other channels)")
    for t, mean, reach in zip(TIMES, means, half, strict=True):
        cells = (f"{m:+.4f} ± {r:.4f}" for m, r in zip(mean, reach, strict=True))
        print(f"t = {t:.1f}   " + "   ".join(cells))
    results = {
        "clips": len(grown),
        "times": TIMES,
        "levels": np.round([means[:, 0], half[:, 0]], 5).tolist(),
        "others": np.round([means[:, 1], half[:, 1]], 5).tolist(),
    }
    print(json.dumps(results))
    return results


if __name__ == "__main__":
    main()
