"""Is warping over anti-diagonals as fast as the plain double loop, compiled?

    python -m experiments.alignment.dtw_speed [--songs 32] [--tokens 800] [--patches 3000]

Paths of a batch of songs of 240 seconds, by `ops.dtw` and by the same recurrence in numba, songs
shared among all cores (needs the `audio` extra, which brings numba). The two take turns in one
process; told are medians of wall clock and of processor time, and whether all paths are equal.
Costs are random, whose moves no processor foresees, or those of a song: a noisy diagonal
in a flat field. On an accelerator the costs already lie there; numba has them on the host. The last
line is one JSON object.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.ops import dtw


def make_numba() -> Callable[[np.ndarray], list[np.ndarray]]:
    """Compiles the double loop, song by song on all cores."""
    import numba

    @numba.njit
    def path_of(cost: np.ndarray) -> np.ndarray:
        n, m = cost.shape
        total = np.full((n + 1, m + 1), np.inf, np.float32)
        move = np.empty((n + 1, m + 1), np.int8)
        total[0, 0] = 0
        move[:, 0], move[0, :] = 1, 2
        for i in range(1, n + 1):
            for j in range(1, m + 1):
                both, row, column = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
                if both < row and both < column:
                    best, own = both, 0
                elif row < both and row < column:
                    best, own = row, 1
                else:
                    best, own = column, 2
                total[i, j], move[i, j] = cost[i - 1, j - 1] + best, own
        path, steps, i, j = np.empty((n + m, 2), np.int32), 0, n, m
        while i > 0 or j > 0:
            path[steps, 0], path[steps, 1] = i - 1, j - 1
            steps += 1
            own = move[i, j]
            i, j = i - (own != 2), j - (own != 1)
        return path[:steps][::-1].copy()

    @numba.njit(parallel=True)
    def all_paths(costs: np.ndarray, paths: np.ndarray, lengths: np.ndarray) -> None:
        for song in numba.prange(len(costs)):
            path = path_of(costs[song])
            lengths[song] = len(path)
            paths[song, : len(path)] = path

    def run(costs: np.ndarray) -> list[np.ndarray]:
        songs, n, m = costs.shape
        paths, lengths = np.empty((songs, n + m, 2), np.int32), np.empty(songs, np.int64)
        all_paths(costs, paths, lengths)
        return [path[:length] for path, length in zip(paths, lengths, strict=True)]

    return run


def make_costs(kind: str, songs: int, tokens: int, patches: int) -> np.ndarray:
    """Draws costs, float32 [songs, tokens, patches]: minus the square of energies in [0, 1]."""
    rng = np.random.default_rng(0)
    energies = rng.random((songs, tokens, patches), np.float32)
    if kind == "song":
        centre = (np.arange(tokens) + 0.5)[:, None] / tokens * patches
        near = np.abs(np.arange(patches)[None] - centre) < 1.5 * patches / tokens
        energies *= np.where(near, 1.0, 0.05).astype(np.float32)
        energies[energies < 0.04] = 0.0
    return -np.square(energies)


def alternate(
    runs: dict[str, Callable[[], object]], repeats: int
) -> dict[str, tuple[float, float]]:
    """Times contestants in turn, but for their first run: medians of (wall, processor)."""
    for run in runs.values():
        run()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            wall, processor = time.perf_counter(), time.process_time()
            run()
            times[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {
        name: tuple(statistics.median(column) for column in zip(*own, strict=True))
        for name, own in times.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--songs", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=800)
    parser.add_argument("--patches", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args(arguments)
    loops, warp = make_numba(), jax.jit(dtw.warp)
    results: dict[str, object] = {"device": jax.devices()[0].device_kind, **vars(given)}
    for kind in ("random", "song"):
        costs = make_costs(kind, given.songs, given.tokens, given.patches)
        there = jax.device_put(jnp.asarray(costs))
        runs = {
            "ours": lambda there=there: jax.block_until_ready(warp(there)),
            "numba": lambda costs=costs: loops(costs),
        }
        times = alternate(runs, given.repeats)
        path, expected = warp(there), loops(costs)
        equal = all(np.array_equal(dtw.steps(path, i), own) for i, own in enumerate(expected))
        (wall, processor), (other_wall, other_processor) = times["ours"], times["numba"]
        print(
            f"{kind:8} ours {wall:.3f} s ({processor:.3f} of processors)  numba {other_wall:.3f} s "
            f"({other_processor:.3f})  ratio {other_wall / wall:.2f}  paths equal: {equal}"
        )
        results[kind] = {
            "ours": [round(x, 4) for x in times["ours"]],
            "numba": [round(x, 4) for x in times["numba"]],
            "faster": round(other_wall / wall, 3),
            "equal": equal,
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
