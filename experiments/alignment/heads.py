"""Which heads of a DiT listen to the lyrics?

    python -m experiments.alignment.heads --shards data/shards/own [--weights DIR] [--out FILE]

Every head is tried by itself on clips whose words have known times: its map is warped as the score
warps it, and the mean distance between the starts of words on the path and in truth is its error.
From the best one on, heads are added one at a time, whichever lowers the error of the averaged map
most, until none does. Heads are chosen on the train split and judged on clips of validation and
test, beside the best head alone, all heads together, and words spread evenly over the clip, which
need no ear at all. (Our design: neither the paper nor the release says how its heads were found.)

The same on checkpoints of a training shows when alignment emerges. `--out` writes the file that
`tasks.alignment.find_heads` looks for beside the weights. The last line is one JSON object.
"""

import argparse
import json
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from acestep_jax.data import sources
from acestep_jax.ops import alignment, dtw
from acestep_jax.ops.alignment import Sizes
from acestep_jax.sampling.attending import Heads
from experiments.alignment.clips import NANO, PATCH_SECONDS, Clip, Ear, read_clips, word_tokens

Chosen = tuple[int, ...]
"""Places in the list of all heads."""


@jax.jit
def _first_patches(maps: jax.Array, sung: jax.Array, sizes: Sizes) -> tuple[jax.Array, jax.Array]:
    """Warps maps [N, H, tokens, patches]; gives each token's first patch, and the scores."""
    energies = alignment.energy(maps, sizes)
    scores, path = alignment.score(energies, sung, sizes)
    return dtw.spans(path, energies.shape[1])[0], scores.score


class Trial:
    """Clips with the maps of all heads, ready to try any set of them.

    Attributes:
      errors, scores: {heads: mean error in seconds, mean score}, of what has been tried.
    """

    def __init__(self, ear: Ear, clips: Sequence[Clip], heads: Heads, t: float) -> None:
        """Reads the maps once; clips whose sheet reads otherwise than their words are left out."""
        places = [word_tokens(ear, clip) for clip in clips]
        kept = [i for i, place in enumerate(places) if place is not None]
        self.left_out = len(clips) - len(kept)
        self.clips = [clips[i] for i in kept]
        self.places = [places[i] for i in kept]
        self.maps, self.sung, self.sizes = ear.maps(self.clips, heads, t)
        self.errors: dict[Chosen, float] = {}
        self.scores: dict[Chosen, float] = {}

    def error(self, heads: Chosen) -> float:
        """Measures the mean error of word starts, over clips and their words."""
        if heads not in self.errors:
            mean = self.maps[:, list(heads)].mean(axis=1, keepdims=True)
            first, scores = _first_patches(mean, self.sung, self.sizes)
            self.errors[heads] = _mean_error(self, np.asarray(first) * PATCH_SECONDS)
            self.scores[heads] = float(np.mean(scores))
        return self.errors[heads]

    def even(self) -> float:
        """Measures the same of tokens spread evenly."""
        tokens, patches = np.asarray(self.sizes.tokens), np.asarray(self.sizes.frames)
        room = np.arange(self.maps.shape[2])[None]
        spread = room / np.maximum(tokens, 1)[:, None] * patches[:, None]
        return _mean_error(self, spread * PATCH_SECONDS)


def _mean_error(trial: Trial, starts: np.ndarray) -> float:
    errors = [
        np.abs(starts[i, place] - [word.start for word in clip.words]).mean()
        for i, (clip, place) in enumerate(zip(trial.clips, trial.places, strict=True))
    ]
    return float(np.mean(errors))


def select(trial: Trial, count: int, candidates: int, most: int) -> Chosen:
    """Adds heads greedily while the error falls.

    Args:
      trial: clips to choose on.
      count: of all heads.
      candidates: how many of the best single heads may be added.
      most: heads at most.
    """
    ranked = sorted(range(count), key=lambda head: trial.error((head,)))[:candidates]
    chosen: Chosen = (ranked[0],)
    while len(chosen) < most:
        sets = [tuple(sorted((*chosen, head))) for head in ranked if head not in chosen]
        best = min(sets, key=trial.error, default=chosen)
        if trial.error(best) >= trial.error(chosen):
            break
        chosen = best
    return chosen


def by_layer(heads: Chosen, width: int) -> dict[str, list[int]]:
    """Writes places in the list of all heads as {layer: heads}."""
    layers = sorted({head // width for head in heads})
    return {str(n): [head % width for head in heads if head // width == n] for n in layers}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--shards", type=pathlib.Path, default=sources.EMBEDDED)
    add("--weights", default=NANO, help="folder or hub id of the diffusion package")
    add("--text_weights", default="", help="its text encoder; nano's by default")
    add("--frames", type=int, default=128, help="of a clip; what the model was trained with")
    add("--clips", type=int, default=192, help="to choose on; half as many to judge")
    add("--steps", type=int, default=8, help="listen at t = 1 / steps")
    add("--candidates", type=int, default=16)
    add("--most", type=int, default=7, help="heads; the release has as many")
    add("--out", type=pathlib.Path)
    given = parser.parse_args(arguments)
    ear = Ear.load(given.weights, given.text_weights)
    config = ear.loaded.networks.config
    width, count = config.dit.num_heads, config.num_hidden_layers * config.dit.num_heads
    every = tuple((n, tuple(range(width))) for n in range(config.num_hidden_layers))
    train = read_clips(given.shards, "train", given.clips, given.frames)
    held = read_clips(given.shards, "validation", given.clips // 4, given.frames)
    if given.shards != sources.EMBEDDED:
        held += read_clips(given.shards, "test", given.clips // 4, given.frames)
    if not train or not held:
        raise SystemExit(f"{given.shards} has too few sung clips of {given.frames} frames.")
    choosing, judging = (Trial(ear, clips, every, 1 / given.steps) for clips in (train, held))
    chosen = select(choosing, count, min(given.candidates, count), given.most)
    best = min(range(count), key=lambda head: choosing.error((head,)))
    rows = {"chosen": chosen, "best alone": (best,), "all": tuple(range(count))}
    results: dict[str, object] = {
        "heads": by_layer(chosen, width),
        "clips": [len(choosing.clips), len(judging.clips)],
        "left_out": choosing.left_out + judging.left_out,
        "even": round(judging.even(), 4),
    }
    print(f"{'':12}{'error to choose on':>20}{'held out, s':>14}{'score':>9}")
    for name, heads in rows.items():
        errors = choosing.error(heads), judging.error(heads)
        print(f"{name:12}{errors[0]:20.3f}{errors[1]:14.3f}{judging.scores[heads]:9.3f}")
        results[name] = [round(error, 4) for error in errors] + [round(judging.scores[heads], 4)]
    print(f"{'spread evenly':12}{choosing.even():19.3f}{judging.even():14.3f}")
    results["single"] = [round(choosing.error((head,)), 3) for head in range(count)]
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(results) + "\n", "utf-8")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
