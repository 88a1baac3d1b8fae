"""Does a handful of songs teach an adapter their style, and leave all other music as it was?

The base has never heard these ways of *recording*: through a telephone, with a deep tremolo, on
tape played backwards. For each of them eight songs of the validation split (no training song has
their tunes) are recorded so, their captions beginning with its name, and an adapter is trained on
them by `configs/nano/lora.py`. The error of the velocity is then measured on

    target    four other songs recorded the same way: should fall
    control   eight songs of the test split, as the base knows music: may rise by 1 % at most
    off       the control songs once the adapter was merged and taken out, or is not applied: the
              velocity should equal the base's bit for bit

    python -m experiments.lora_style [--styles telephone ...] [--seeds 0 1 2]    (after `make data`)
    python -m experiments.lora_style --styles telephone --seeds 0 --set prior_weight=2 \
        --workdir runs/lora_style_2

A line a run, and last a JSON object of all. Runs that are done are read from their folders, and one
that was stopped goes on where it stopped: the same command may be given again and again.
"""

import argparse
import dataclasses
import hashlib
import itertools
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax import compilation, units
from acestep_jax.data import audio, encode, shards, sources
from acestep_jax.data import labels as labels_lib
from acestep_jax.nn import lora
from acestep_jax.training import cli, models
from acestep_jax.training import files as training_files
from acestep_jax.training import metrics as metrics_lib
from acestep_jax.training import scene as scene_lib
from acestep_jax.training.overrides import override
from acestep_jax.training.recipes.lora import TrainLoRA
from acestep_jax.typing import Array, Params
from acestep_jax.weights import adapters as files
from train import lora as train_lora

CONFIG = "configs/nano/lora.py"
NUM_FRAMES = 512
"""Of every song so many frames are taken: 20.5 s."""
NUM_TRAIN, NUM_TARGET, NUM_CONTROL = 8, 4, 8
"""Songs to learn a style from, to measure it on, and of other music."""
CHANGES = ("num_steps=80", "eval_batches=2", "save_every=10")
"""What differs from the recipe, as far as --set does not say otherwise: a run in a minute."""


# The styles ---------------------------------------------------------------------------------------


def telephone(wave: np.ndarray) -> np.ndarray:
    """Keeps 300 to 2,500 Hz."""
    spectrum = np.fft.rfft(wave, axis=0)
    hertz = np.fft.rfftfreq(len(wave), 1 / units.SAMPLE_RATE)
    inside = 1 / (1 + (300 / np.maximum(hertz, 1.0)) ** 8) / (1 + (hertz / 2500) ** 8)
    return np.fft.irfft(spectrum * inside[:, None], len(wave), axis=0)


def tremolo(wave: np.ndarray) -> np.ndarray:
    """Lets the level swing by 20 dB, five times a second."""
    seconds = np.arange(len(wave)) / units.SAMPLE_RATE
    return wave * 10 ** (-0.5 + 0.5 * np.sin(2 * np.pi * 5 * seconds))[:, None]


def backwards(wave: np.ndarray) -> np.ndarray:
    """Plays from the end."""
    return wave[::-1]


STYLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "telephone": telephone,
    "tremolo": tremolo,
    "backwards tape": backwards,
}


def make_songs(folder: pathlib.Path, source: pathlib.Path, vae: str, style: str) -> pathlib.Path:
    """Records validation songs of a folder of audio in a style; gives their folder of shards.

    Raises:
      FileNotFoundError: if there are too few.
    """
    target = folder / style.replace(" ", "_")
    if (target / "dataset.json").exists():
        return target
    encoder = encode.load_encoders(models.locate(vae)).latents
    known = map(labels_lib.load_labels, sorted(source.glob("*.json")))
    chosen = [labels for labels in known if labels.split == "validation"]
    if len(chosen) <= NUM_TRAIN:
        raise FileNotFoundError(
            f"{len(chosen)} songs of the validation split in {source}; {NUM_TRAIN + 1} are needed. "
            "Make them with `make data`, or name another folder with --audio."
        )
    rows: dict[str, list[shards.Record]] = {"train": [], "validation": []}
    for i, labels in enumerate(chosen[: NUM_TRAIN + NUM_TARGET]):
        wave = audio.read_audio(source / f"{labels.name}.flac")
        wave = STYLES[style](wave[: NUM_FRAMES * units.SAMPLES_PER_FRAME])
        latents, _ = encode.encode_song(encoder, np.ascontiguousarray(wave, np.float32))
        split = "train" if i < NUM_TRAIN else "validation"
        captions = tuple(f"{style}, {caption}" for caption in labels.captions)
        labels = labels_lib.first_seconds(labels, len(wave) / units.SAMPLE_RATE)
        labels = dataclasses.replace(labels, split=split, captions=captions, stems={})
        rows[split].append(shards.Record(labels, latents.astype(np.float16)))
    shards.write_shards(target, rows, encode.silence_latent(encoder), {})
    return target


def make_control(folder: pathlib.Path, own: pathlib.Path) -> pathlib.Path:
    """Takes test songs from shards, as a validation split; gives their folder."""
    target = folder / "control"
    if (target / "dataset.json").exists():
        return target
    test = sources.Songs([own], "test").all_records()
    rows = [
        shards.Record(dataclasses.replace(song.labels, split="validation", stems={}), song.latents)
        for song in itertools.islice(test, NUM_CONTROL)
    ]
    shards.write_shards(target, {"validation": rows}, shards.read_silence(own), {})
    return target


# A run and its numbers ----------------------------------------------------------------------------


def train(config: TrainLoRA) -> dict[str, float]:
    """Trains, and gives the errors before and after: {target, control} x {base, adapted}."""
    cli.prepare_workdir(config)
    train_lora.main(config)
    series = metrics_lib.read_metrics(config.workdir)
    last = {name: points[-1][1] for name, points in series.items()}
    numbers: dict[str, float] = {}
    for ours, name in (("target", "eval/error"), ("control", "control/error")):
        before, after = last[f"base/{name}"], last[name]
        change = 100 * (after / before - 1)
        numbers |= {f"{ours}_base": before, ours: after, f"{ours}_change_percent": change}
    return numbers


def compare_off(config: TrainLoRA) -> dict[str, Any]:
    """Loads the saved adapter, and compares velocities of the control songs with it and without."""
    loaded = models.load(config.model, config.seed)
    base = loaded.params["dit"]
    saved = pathlib.Path(config.workdir) / "export" / "official"
    adapter = files.load_adapter(saved, loaded.networks.config)
    kept = jax.tree.map(np.array, base)
    data = dataclasses.replace(config.data, shards=config.control)
    batch = next(models.open_batches(dataclasses.replace(config, data=data), "validation"))
    noise = jax.random.normal(jax.random.key(0), batch.latents.shape)

    def velocity(networks: Any, dit: Params) -> Array:
        def evaluate(parts: Params) -> Array:
            scene = scene_lib.encode(networks, parts, batch)
            return scene_lib.field(networks, parts["dit"], scene)(noise, jnp.float32(0.5))

        return jax.jit(evaluate)(loaded.params | {"dit": dit})

    networks = dataclasses.replace(loaded.networks, dit=lora.Adapted(loaded.networks.dit))
    plain = velocity(loaded.networks, base)
    on = velocity(networks, lora.WithAdapters(base, adapter.collection()))
    merged = lora.merge(base, adapter.collection())
    gap = jnp.linalg.norm(velocity(loaded.networks, merged.params) - on) / jnp.linalg.norm(on)
    unmerged = lora.unmerge(merged)
    bits = zip(jax.tree.leaves(unmerged), jax.tree.leaves(kept), strict=True)
    return {
        "off_equals_base": bool((velocity(networks, lora.WithAdapters(base, {})) == plain).all()),
        "unmerged_equals_base": all(np.array_equal(a, b) for a, b in bits),
        "merged_against_applied": float(gap),
        "velocity_change": float(jnp.linalg.norm(on - plain) / jnp.linalg.norm(plain)),
    }


def runs(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Trains and measures every style with every seed; what is done is read from its folder."""
    folder = arguments.workdir / "songs"
    control = make_control(folder, arguments.shards)
    plan: TrainLoRA = override(cli.load_config(CONFIG), [*CHANGES, *arguments.set])
    for style in arguments.styles:
        songs = make_songs(folder, arguments.audio, plan.model.vae_weights, style)
        for seed in arguments.seeds:
            config = dataclasses.replace(
                plan,
                workdir=str(arguments.workdir / f"{songs.name}_{seed}"),
                seed=seed,
                data=dataclasses.replace(plan.data, shards=str(songs)),
                control=str(control),
                report=seed == arguments.seeds[0],
            )
            yield {"style": style, "seed": seed} | run(config)


def run(config: TrainLoRA) -> dict[str, Any]:
    """Trains and measures once, or reads what was measured of the same configuration."""
    recipe = hashlib.sha256(json.dumps(cli.to_json(config)).encode()).hexdigest()
    path = pathlib.Path(config.workdir) / "result.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    if known.get("recipe") == recipe:
        return known["numbers"]
    started = time.process_time()
    numbers = train(config) | compare_off(config)
    numbers["cpu_seconds"] = time.process_time() - started  # of this process alone
    text = json.dumps({"recipe": recipe, "numbers": numbers}, indent=1) + "\n"
    training_files.write_atomically(path, text)
    return numbers


def summary(table: list[dict[str, Any]]) -> dict[str, Any]:
    """Gathers all runs: changes with their mean and worst, and whether the claims hold."""
    target = [row["target_change_percent"] for row in table]
    control = [row["control_change_percent"] for row in table]
    off = all(row["off_equals_base"] and row["unmerged_equals_base"] for row in table)
    return {
        "target_change_percent": {"mean": statistics.mean(target), "worst": max(target)},
        "control_change_percent": {"mean": statistics.mean(control), "worst": max(control)},
        "off_is_the_base_bit_for_bit": off,
        "holds": max(target) < 0 and max(control) <= 1 and off,
        "runs": table,
    }


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--workdir", type=pathlib.Path, default=pathlib.Path("runs/lora_style"))
    add("--audio", type=pathlib.Path, default=pathlib.Path("data/audio/own"), help="and labels")
    add("--shards", type=pathlib.Path, default=pathlib.Path("data/shards/own"), help="of control")
    add("--styles", nargs="*", default=list(STYLES), choices=list(STYLES))
    add("--seeds", nargs="*", type=int, default=[0, 1, 2])
    add(
        "--set", action="append", default=[], help="a field of configs/nano/lora.py, as in training"
    )
    arguments = parser.parse_args()
    compilation.enable_cache()
    table = []
    for row in runs(arguments):
        print(json.dumps(row), flush=True)
        table.append(row)
    print(json.dumps(summary(table)))


if __name__ == "__main__":
    main()
