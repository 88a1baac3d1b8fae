"""How strongly must the teacher be guided whose songs a student learns?

    python -m experiments.distill.strength [--scales 1 1.5 2 2.5 3] [--prompts 64] [--steps 50]

For every strength of guidance, songs of the teacher are held against the held-out songs that the
same prompts describe: the energy distance of latent windows (measures.py), and how often tempo and
key are those of the prompt (adherence.py), all with 95 % intervals over prompts. Expected: without
guidance the songs are flatter than real ones and follow the prompt less; with too much they leave
the songs' range. The last line is one JSON object.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from acestep_jax import compilation
from experiments.distill import adherence, evaluate, measures, players

SCALES = (1.0, 1.5, 2.0, 2.5, 3.0)


def measure(
    stage: players.Stage, songs: np.ndarray, real: np.ndarray, within: np.ndarray
) -> dict[str, Any]:
    """Measures songs [N, T, C] against those that the prompts describe; `within` are theirs."""
    pairs = measures.distances(songs, real, within)
    energy = measures.bootstrap(lambda w: measures.energy(pairs, w), len(songs))
    spread = np.mean(songs.std((0, 1)) / real.std((0, 1)))
    found: dict[str, Any] = {"energy": evaluate.rounded(energy), "spread": round(float(spread), 3)}
    for name, hits in adherence.hits(players.decode(songs), stage.asked).items():
        if np.isfinite(hits).any():  # some prompt names one
            found[name] = evaluate.rounded(adherence.share(hits))
    return found


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Samples and measures every strength; prints a line each, and one JSON object last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default=players.TEACHER)
    parser.add_argument("--scales", type=float, nargs="*", default=SCALES)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--shift", type=float, default=3.0)
    options = parser.parse_args(arguments)
    compilation.enable_cache()
    stage = players.open_stage(options.teacher, options.prompts, min(16, options.prompts))
    real = np.concatenate([np.asarray(scene.real) for scene in stage.scenes])
    rows, within = [], measures.song_distances(real, real)
    for scale in options.scales:
        songs = players.sample(stage, stage.teacher, options.steps, options.shift, guidance=scale)
        rows.append({"guidance": scale, **measure(stage, songs, real, within)})
        print(json.dumps(rows[-1]), flush=True)
    found = {"prompts": options.prompts, "steps": options.steps, "rows": rows}
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
