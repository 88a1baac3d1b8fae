"""Does generated music have the tempo and the key that its prompt asks for?

    python -m experiments.music.evaluate [--quick] [--seconds 5.12] [--guidance 2]

Held-out prompts (tunes that no training song has) are given to the nano DiT; two automatic judges
(`judges.py`) estimate tempo and key of what it makes, of the autoencoder's reconstructions of the
songs that the prompts describe, and of those songs themselves, which shows what the judges can
hear. Counted are: tempo within 4 % (factors of two, and other metrical levels, apart), and the
very key (fifth, relative and parallel apart), against the clip's own prompt and against all others
(`statistics.agreement`). Chance is 1/24 for the key; for a tempo drawn evenly, by its logarithm,
between the slowest and the fastest prompt, it is the share of that range that lies within 4 %.

For recordings, whose tempo and key nobody wrote down, it is counted how often the judges say the
same of a reconstruction as of the recording. The last line is one JSON object.
"""

import argparse
import collections
import functools
import json
import math
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.data import audio as audio_lib
from acestep_jax.data import labels as labels_lib
from acestep_jax.data.batch import Batch
from acestep_jax.nn.vae import VAE
from acestep_jax.training import compare, models
from acestep_jax.training import scene as scene_lib
from acestep_jax.training.config import Model
from acestep_jax.typing import Params
from acestep_jax.units import SAMPLE_RATE
from experiments.music import judges, prompts, statistics

BATCH = 8
LEVELS = ("same", "octave", "other level")
RELATIONS = ("same", "fifth", "relative", "parallel")


def generate(
    model: Model, items: Sequence[prompts.Prompt], seconds: float, steps: int, guidance: float
) -> np.ndarray:
    """Samples every prompt, and decodes: [N, W, 2]."""
    loaded = models.load(model)
    assert loaded.silence_latent is not None, "a model of random weights makes no music"
    tokenizer = str(models.tokenizer_folder(model))
    silence = np.asarray(loaded.silence_latent[0])
    vae, vae_params = models.load_vae(model)

    @jax.jit
    def encode(params: Params, batch: Batch) -> scene_lib.Scene:
        return scene_lib.encode(loaded.networks, params, batch)

    sounds = []
    for first in range(0, len(items), BATCH):
        chosen = list(items[first : first + BATCH])
        batch = prompts.make_batch(chosen, tokenizer, silence, seconds=seconds)
        scene = encode(loaded.params, jax.tree.map(jnp.asarray, batch))
        system = compare.System("nano", loaded.params["dit"], steps, guidance, first_seed=first)
        latents = compare.sample(loaded.networks, system, scene, shift=1.0)
        sounds.append(compare.decode(vae, vae_params, latents))
    return np.concatenate(sounds)


@functools.partial(jax.jit, static_argnums=0)
def reconstruct(vae: VAE, params: Params, clip: jax.Array) -> jax.Array:
    """Encodes a clip [W, 2] to its posterior's mean and decodes that."""
    posterior = vae.apply({"params": params}, clip[None], method="encode")
    return vae.apply({"params": params}, posterior.mean, method="decode")[0]


def judge(sounds: Sequence[np.ndarray], key_judge: judges.KeyJudge) -> tuple[np.ndarray, list[str]]:
    """Estimates tempo and key of every clip."""
    tempi = np.array([judges.estimate_tempo(sound) for sound in sounds])
    return tempi, [key_judge.estimate(sound) for sound in sounds]


def compare_with_prompts(
    tempi: np.ndarray, keys: list[str], items: Sequence[prompts.Prompt]
) -> dict[str, object]:
    """Counts how often tempo and key are those asked for, and how they miss."""
    asked = [(item.labels.bpm, item.labels.keyscale) for item in items]
    levels = [[judges.compare_tempo(tempo, bpm) for bpm, _ in asked] for tempo in tempi]
    relations = [[judges.relation(key, truth) for _, truth in asked] for key in keys]

    def table(kinds: list[list[str]], names: Sequence[str]) -> dict[str, object]:
        own = collections.Counter(np.diagonal(np.array(kinds)).tolist())
        matches = np.array([[kind == "same" for kind in row] for row in kinds])
        counts = {name: own[name] for name in names} | {"count": len(kinds)}
        return counts | statistics.agreement(matches)

    return {"tempo": table(levels, LEVELS), "key": table(relations, RELATIONS)}


def chances(items: Sequence[prompts.Prompt]) -> dict[str, float]:
    """Gives what guessing would reach."""
    tempi = [item.labels.bpm for item in items]
    spread = math.log(max(tempi) / min(tempi)) or 1.0
    keys = collections.Counter(item.labels.keyscale for item in items)
    return {
        "tempo": round(min(1.0, math.log(1.04 / 0.96) / spread), 4),
        "key": round(1 / 24, 4),
        "commonest key": round(keys.most_common(1)[0][1] / len(items), 4),
    }


def recordings(folder: pathlib.Path, seconds: float, count: int) -> list[np.ndarray]:
    """Cuts up to `count` clips from the middles of held-out recordings, in turn."""
    samples = round(seconds * SAMPLE_RATE)
    tracks = []
    for path in sorted(folder.glob("*.json")):
        if labels_lib.load_labels(path).split != "train":
            tracks.append(audio_lib.read_audio(path.with_suffix(".flac"), max_seconds=120.0))
    cuts = [t[i : i + samples] for i in range(0, 120 * SAMPLE_RATE, samples) for t in tracks]
    return [cut for cut in cuts if len(cut) == samples and np.abs(cut).max() > 0.01][:count]


def consistency(
    clips: Sequence[np.ndarray], copies: Sequence[np.ndarray], key_judge: judges.KeyJudge
) -> dict[str, object]:
    """Counts how often the judges say the same of a clip and of its copy."""
    (tempi, keys), (copied_tempi, copied_keys) = judge(clips, key_judge), judge(copies, key_judge)
    same_tempo = sum(
        judges.compare_tempo(b, a) == "same" for a, b in zip(tempi, copied_tempi, strict=True)
    )
    same_key = sum(a == b for a, b in zip(keys, copied_keys, strict=True))
    return {
        name: {
            "same": same,
            "count": len(clips),
            "interval": statistics.rounded(statistics.wilson(same, len(clips))),
        }
        for name, same in (("tempo", same_tempo), ("key", same_key))
    }


def show(results: dict) -> None:
    """Prints the comparison as a table."""
    print(f"{'':16}{'':7}{'own':>7}{'interval':>16}{'shuffled':>10}{'p':>9}   near misses")
    for system, parts in results["systems"].items():
        for name, part in parts.items():
            low, high = part["own_interval"]
            misses = LEVELS[1:] if name == "tempo" else RELATIONS[1:]
            near = ", ".join(f"{miss} {part[miss]}" for miss in misses)
            interval = f"{low:.2f} to {high:.2f}"
            row = f"{system:16}{name:7}{part['own']:7.2f}{interval:>16}{part['shuffled']:10.2f}"
            print(f"{row}{part['p']:9.4f}   {near}")
    print(f"of {results['prompts']} prompts, {results['seconds']} s each; by chance:", end=" ")
    print(", ".join(f"{name} {value:.2f}" for name, value in results["chance"].items()))


def run(arguments: argparse.Namespace) -> dict:
    """Makes the prompts, generates, judges."""
    model = Model(
        weights=arguments.weights,
        text_weights=arguments.text_weights,
        vae_weights=arguments.vae_weights,
    )
    items = prompts.make_prompts(arguments.songs, arguments.prompts, arguments.seconds)
    vae, params = models.load_vae(model)
    copy = lambda clip: np.asarray(reconstruct(vae, params, clip))  # noqa: E731
    key_judge = judges.load_key_judge()
    clips = [item.clip for item in items]
    sounds = {
        "generated": generate(model, items, arguments.seconds, arguments.steps, arguments.guidance),
        "reconstructions": [copy(clip) for clip in clips],
        "songs": clips,
    }
    systems = {
        name: compare_with_prompts(*judge(made, key_judge), items) for name, made in sounds.items()
    }
    real = recordings(arguments.recordings, arguments.seconds, arguments.prompts)
    results = {
        "prompts": len(items),
        "seconds": arguments.seconds,
        "steps": arguments.steps,
        "guidance": arguments.guidance,
        "weights": arguments.weights,
        "chance": chances(items),
        "systems": systems,
    }
    if real:
        results["recordings"] = consistency(real, [copy(clip) for clip in real], key_judge)
    return results


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="three short clips of two steps: does it run?")
    add("--prompts", type=int, default=64, help="held-out prompts")
    add("--seconds", type=float, default=5.12, help="length of a clip; nano was trained on 5.12")
    add("--steps", type=int, default=32, help="of the sampler")
    add("--guidance", type=float, default=2.0, help="strength of guidance; 1: none")
    add("--weights", default="asset:nano/acestep-v15-nano", help="diffusion package")
    add("--text_weights", default="asset:nano/text_encoder", help="text encoder")
    add("--vae_weights", default="asset:nano/vae", help="autoencoder")
    add("--songs", type=pathlib.Path, default=pathlib.Path("data/audio/judged"), help="rendered")
    add("--recordings", type=pathlib.Path, default=pathlib.Path("data/audio/real"))
    parsed = parser.parse_args(arguments)
    if parsed.quick:
        parsed.prompts, parsed.seconds, parsed.steps = 3, 1.28, 2
    return parsed


def main() -> None:
    """Runs the command line."""
    results = run(parse())
    show(results)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
