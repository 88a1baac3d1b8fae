"""Do covers keep the notes of their source?

    python -m experiments.tokenizer.covers --model runs/nano_tokenizer/export
    python -m experiments.tokenizer.covers --quick           four clips, two steps

Held-out clips go through the codes and come back as covers. The chroma of each (librosa: energy of
the twelve pitch classes, five times a second) is correlated with the chroma of every clip's
reconstruction by the autoencoder. Expected: a cover fits its own source better than the others. A
prompt may name the key, so text2music from the same prompts is measured beside it, and so are
covers from the codes of another song, and the hints themselves, decoded without the DiT.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax import compilation
from acestep_jax.data.batch import Batch
from acestep_jax.ops import timesteps
from acestep_jax.sampling import flow, sampler
from acestep_jax.training import compare, files, models, report
from acestep_jax.training import hints as hints_lib
from acestep_jax.training.codec import Codec
from acestep_jax.training.config import Model
from acestep_jax.training.models import Loaded
from acestep_jax.training.recipes.tokenizer import TrainTokenizer
from acestep_jax.training.scene import Scene
from acestep_jax.typing import Array
from acestep_jax.units import SAMPLE_RATE

RESULTS = pathlib.Path(__file__).parent / "results"
SYSTEMS = ("cover", "cover of another", "text2music", "hints alone")
CHROMA_RATE, CHROMA_HOP = 16_000, 3_072
"""Resampled to this rate; 5.2 columns of chroma a second."""


def chroma(audio: np.ndarray) -> np.ndarray:
    """Computes the chroma of a sound [W, channels], centred in every column: [12, columns]."""
    import librosa

    mono = librosa.resample(audio.mean(axis=1), orig_sr=SAMPLE_RATE, target_sr=CHROMA_RATE)
    columns = librosa.feature.chroma_cqt(
        y=mono, sr=CHROMA_RATE, hop_length=CHROMA_HOP, fmin=librosa.note_to_hz("C2"), n_octaves=5
    )
    return columns - columns.mean(axis=0, keepdims=True)


def correlations(sounds: Sequence[np.ndarray], sources: Sequence[np.ndarray]) -> np.ndarray:
    """Correlates the chroma of every sound with that of every source: [sounds, sources]."""
    ours, theirs = (
        np.stack([c.ravel() / (np.linalg.norm(c) + 1e-9) for c in map(chroma, group)])
        for group in (sounds, sources)
    )
    return ours @ theirs.T


def describe(table: np.ndarray, *, draws: int = 10_000) -> dict[str, Any]:
    """Compares the correlation with the own source with that with the other clips.

    Args:
      table: [N, N], from `correlations`.
      draws: resamplings of the clips, for the 95 % interval.

    Returns:
      own, others, gain (their difference) with its interval, and how often the own source is the
      one that fits best (by chance: 1/N).
    """
    count = len(table)
    own = np.diagonal(table)
    others = (table.sum(axis=1) - own) / (count - 1)
    resampled = np.random.default_rng(0).integers(count, size=(draws, count))
    low, high = np.quantile((own - others)[resampled].mean(axis=1), (0.025, 0.975))
    return {
        "own": float(own.mean()),
        "others": float(others.mean()),
        "gain": float((own - others).mean()),
        "gain_interval": [float(low), float(high)],
        "best_fit_share": float((table.argmax(axis=1) == np.arange(count)).mean()),
        "chance": 1 / count,
    }


def make_sounds(
    config: TrainTokenizer, loaded: Loaded, covers: Batch, plain: Batch, num_steps: int
) -> dict[str, np.ndarray]:
    """Makes what is compared: {system: audio [N, W, 2]}, and "source", the reconstructions."""
    silence = models.open_batches(config, "validation").silence_latent[0]
    setting = hints_lib.Setting(config, Codec(loaded.networks, silence))
    codec, parts = setting.codec, loaded.params
    vectors, _ = jax.jit(codec.encode)(parts, covers.latents)
    hints = codec.decode(parts, vectors, covers.latents.shape[1])
    scene = hints_lib.read_conditions(setting, parts, covers)
    scenes = {
        "cover": hints_lib.with_hints(scene, hints, covers),
        "cover of another": hints_lib.with_hints(scene, jnp.roll(hints, 1, axis=0), covers),
        "text2music": hints_lib.read_conditions(setting, parts, plain),
    }
    times = timesteps.time_grid(num_steps, 1.0)

    def sample(scene: Scene) -> Array:
        run = sampler.make_sampler(loaded.networks.dit)  # it donates its noise
        noise = flow.initial_noise(flow.item_keys(jnp.arange(len(hints))), *hints.shape[1:])
        conditions = (scene.tokens, scene.mask, scene.context, scene.frame_mask)
        return run(parts["dit"], noise, *conditions, times)

    latents = {name: sample(scene) for name, scene in scenes.items()}
    latents |= {"hints alone": hints, "source": covers.latents}
    vae, vae_params = models.load_vae(config.model)
    return {name: compare.decode(vae, vae_params, jnp.asarray(z)) for name, z in latents.items()}


def table(results: dict[str, dict[str, Any]]) -> str:
    """Writes the results as a Markdown table."""
    lines = [
        "| | own source | other clips | gain | 95 % interval | own source fits best |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in results.items():
        low, high = row["gain_interval"]
        lines.append(
            f"| {name} | {row['own']:.3f} | {row['others']:.3f} | {row['gain']:+.3f} | "
            f"{low:+.3f} to {high:+.3f} | {row['best_fit_share']:.0%} |"
        )
    return "\n".join(lines) + "\n"


def page(path: pathlib.Path, sounds: dict[str, np.ndarray], results: dict, items: int) -> None:
    """Writes a page with the table and the first few clips to hear."""
    names = ["source", *SYSTEMS]
    audio = {(i, j): sounds[name][i] for i in range(items) for j, name in enumerate(names)}
    rows = [f"clip {i}" for i in range(items)]
    numbers = [[name, row["own"], row["others"], row["gain"]] for name, row in results.items()]
    report.write(
        path,
        "Covers and their sources",
        report.table(["", "own source", "other clips", "gain"], numbers, caption="Chroma."),
        report.section("Listen", report.players(rows, names, audio, caption="Same noise a row.")),
    )


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Makes covers of held-out clips, judges them, and writes table, numbers and a page."""
    args = _parse(argv)
    compilation.enable_cache()
    model = Model(
        weights=args.weights or f"{args.model}/model",
        text_weights=args.text_weights or f"{args.model}/text_encoder",
        vae_weights=args.vae,
    )
    items, steps = (4, 2) if args.quick else (args.items, args.steps)
    data = dataclasses.replace(TrainTokenizer(name="covers").data, shards=args.shards)
    data = dataclasses.replace(data, batch_size=items, num_frames=args.frames)
    config = TrainTokenizer(name="covers", model=model, data=data)
    loaded = models.load(model)
    covers, plain = next(hints_lib.held_out_pairs(config))
    sounds = make_sounds(config, loaded, covers, plain, steps)
    results = {name: describe(correlations(sounds[name], sounds["source"])) for name in SYSTEMS}
    out, sounds_page = pathlib.Path(args.out), pathlib.Path(args.page)
    for folder in (out, sounds_page.parent):
        folder.mkdir(parents=True, exist_ok=True)
    recipe = {"items": items, "steps": steps, "frames": args.frames, "shards": args.shards}
    name = "covers_quick" if args.quick else "covers"
    files.write_atomically(
        out / f"{name}.json", json.dumps({"recipe": recipe, "results": results}, indent=1) + "\n"
    )
    files.write_atomically(out / f"{name}.md", table(results))
    page(sounds_page, sounds, results, min(items, 6))
    print(table(results))
    return results


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.tokenizer.covers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shards = "data/shards/own,data/shards/real"
    parser.add_argument("--model", default="runs/nano_tokenizer/export", help="an export folder")
    parser.add_argument("--weights", default="", help="the diffusion package, if elsewhere")
    parser.add_argument("--text_weights", default="", help="the text encoder, if elsewhere")
    parser.add_argument("--vae", default="asset:nano/vae", help="the autoencoder")
    parser.add_argument("--shards", default=shards, help=f"folders ({shards}); + is the embedded")
    parser.add_argument("--items", type=int, default=48, help="clips (48)")
    parser.add_argument("--steps", type=int, default=24, help="steps of the sampler (24)")
    parser.add_argument("--frames", type=int, default=128, help="length of a clip (128)")
    parser.add_argument("--quick", action="store_true", help="four clips, two steps")
    parser.add_argument("--out", default=str(RESULTS), help="where the results go")
    parser.add_argument("--page", default="runs/covers.html", help="a page with sounds")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
