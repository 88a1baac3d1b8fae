"""What does the autoencoder keep of music that it never heard, and what did training add?

    python -m experiments.vae_quality [--quick] [--also NAME=FOLDER] [--page runs/vae.html]

Measured are the lapped transform that training starts from (`nn/lapped.py`), the trained weights,
and others by request, all on the same clips: of every tenth recording and every tenth song of ours,
which the training of the shipped weights held out (`train/vae.py` now holds out the validation
split that the labels name), a few clips each. Means over tracks come with 95 % intervals from a
bootstrap over tracks, since clips of one recording are alike; `gain` is the paired difference to
the start. The last line is one JSON object.

Measures are those of `training.reconstruction`, and `buzz_db`: how far the error stands out at
multiples of the latent frame rate (25 Hz), where strides that do not fit their kernels are heard;
0 is no buzz.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from acestep_jax import weights
from acestep_jax.data import audio as audio_lib
from acestep_jax.data import segments
from acestep_jax.nn.vae import VAE
from acestep_jax.training import models, reconstruction, report
from acestep_jax.typing import Params
from acestep_jax.units import FRAME_RATE, SAMPLE_RATE
from configs.nano import vae as nano
from train import vae as train_vae

MEASURES = (
    "si_sdr_db",
    "mel_distance",
    "convergence",
    "log_magnitude",
    "panning_error",
    "width_error",
    "buzz_db",
)
DRAWS = 2000  # of the bootstrap
_LINES = 40  # multiples of the frame rate that buzz is looked for at


@dataclasses.dataclass(frozen=True)
class Clips:
    """Clips [N, W, 2] of held-out tracks, and the track that each comes from."""

    audio: np.ndarray
    track: np.ndarray


def held_out(pattern: str, every: int, count: int, samples: int) -> Clips:
    """Cuts `count` clips, evenly spread, from every so many files of a folder.

    Raises:
      FileNotFoundError: if the pattern names too few files.
    """
    path = pathlib.Path(pattern)
    # Set aside when the shipped weights were trained
    files = sorted(path.parent.glob(path.name))[every - 1 :: every]
    if not files:
        raise FileNotFoundError(f"{pattern} names fewer than {every} files; has data been made?")
    clips, origin = [], []
    for i, file in enumerate(files):
        track = audio_lib.read_audio(file, min_seconds=samples / SAMPLE_RATE, max_seconds=75.0)
        for start in np.linspace(0, len(track) - samples, count + 2)[1:-1].astype(int):
            clips.append(track[start : start + samples])
            origin.append(i)
    return Clips(np.stack(clips), np.array(origin))


def practice(samples: int) -> Clips:
    """Makes clips on the spot, to try the program without data."""
    tracks = segments.practice_tracks(count=3, seconds=samples / SAMPLE_RATE, seed=7)
    return Clips(np.stack(tracks).astype(np.float32) / 32767, np.arange(3))


def frame_buzz(error: np.ndarray) -> np.ndarray:
    """Measures how far an error [N, W, 2] stands out at multiples of the frame rate, in dB: [N].

    The power at the lines of the spectrum of the sum of the channels, over that between them.
    """
    mono = error.sum(axis=2) * np.hanning(error.shape[1])
    power = np.abs(np.fft.rfft(mono, axis=1)) ** 2
    spacing = FRAME_RATE * error.shape[1] / SAMPLE_RATE  # in bins
    lines = np.round(spacing * np.arange(1, _LINES + 1)).astype(int)
    at = sum(power[:, lines + i] for i in (-1, 0, 1)) / 3
    beside = np.arange(3, int(spacing / 2))
    between = np.mean([power[:, lines + i] for i in (*beside, *-beside)], axis=0)
    return 10 * np.log10(np.mean(at, axis=1) / np.mean(between, axis=1))


def measure(vae: VAE, params: Params, clips: Clips, batch: int = 4) -> dict[str, np.ndarray]:
    """Reconstructs and measures every clip: {measure: [tracks]}, the mean of a track's clips."""
    rows: list[dict[str, np.ndarray]] = []
    for first in range(0, len(clips.audio), batch):
        audio = clips.audio[first : first + batch]
        decoded = np.asarray(_copy(vae, params, audio))
        target = audio[:, : decoded.shape[1]]
        numbers = jax.device_get(_compare(decoded, target))
        rows.append(numbers | {"buzz_db": frame_buzz(decoded - target)})
    tracks = np.unique(clips.track)
    whole = {name: np.concatenate([row[name] for row in rows]) for name in MEASURES}
    return {
        name: np.array([values[clips.track == track].mean() for track in tracks])
        for name, values in whole.items()
    }


_compare = jax.jit(reconstruction.measure_sound)


@functools.partial(jax.jit, static_argnums=0)
def _copy(vae: VAE, params: Params, audio: jax.Array) -> jax.Array:
    posterior = vae.apply({"params": params}, audio, method="encode")
    return vae.apply({"params": params}, posterior.mean, method="decode")


def interval(values: np.ndarray, seed: int = 0) -> list[float]:
    """Gives mean and 95 % bootstrap interval over tracks: [mean, low, high]."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(DRAWS, len(values)))].mean(axis=1)
    return [round(float(x), 4) for x in (values.mean(), *np.quantile(means, (0.025, 0.975)))]


def start_params(vae: VAE, clips: Sequence[Clips]) -> Params:
    """Makes the untrained autoencoder, whose lapped transform is chosen on other clips than these.

    The choice needs typical audio only; songs made on the spot would do as well as any.
    """
    config = nano.get_config()
    samples = clips[0].audio.shape[1]
    tracks = segments.practice_tracks(count=8, seconds=2 * samples / SAMPLE_RATE)
    batches = segments.SegmentBatches([tracks], batch_size=32, samples=samples, seed=0)
    audio = next(batches)
    networks = train_vae.Networks(vae, train_vae.build_networks(config).discriminator)
    init = jax.jit(lambda a: train_vae.init_params(config, networks, jax.random.key(0), a))
    return init(audio)["generator"]


def compare(
    systems: Mapping[str, tuple[VAE, Params]], groups: Mapping[str, Clips], start: str
) -> dict[str, dict]:
    """Measures every system on every group.

    Returns:
      {group: {system: {measure: [mean, low, high]}}}, and under `<system> gain` the paired
      difference to the system `start`.
    """
    results: dict[str, dict] = {}
    for group, clips in groups.items():
        numbers = {name: measure(*system, clips) for name, system in systems.items()}
        table = {name: {m: interval(v) for m, v in row.items()} for name, row in numbers.items()}
        for name in systems:
            if name != start:
                gain = {m: interval(numbers[name][m] - numbers[start][m]) for m in MEASURES}
                table[f"{name} gain"] = gain
        results[group] = table
    return results


def show(results: Mapping[str, dict]) -> None:
    """Prints a table a group."""
    for group, table in results.items():
        print(f"\n{group}")
        print(f"{'':24}" + "".join(f"{name:>24}" for name in MEASURES))
        for system, row in table.items():
            cells = (f"{m:.3f} ({low:.3f} to {high:.3f})" for m, low, high in row.values())
            print(f"{system:24}" + "".join(f"{cell:>24}" for cell in cells))


def write_page(
    path: pathlib.Path, systems: Mapping[str, tuple[VAE, Params]], groups: Mapping[str, Clips]
) -> None:
    """Writes a page on which originals and reconstructions can be heard."""
    pieces = []
    for group, clips in groups.items():
        first = np.unique(clips.track, return_index=True)[1][:6]
        sounds = {"original": clips.audio[first]}
        for name, (vae, params) in systems.items():
            sounds[name] = np.asarray(_copy(vae, params, clips.audio[first]))
        grid = {(i, j): s[i] for j, s in enumerate(sounds.values()) for i in range(len(first))}
        rows = [f"{group} {clips.track[i] + 1}" for i in first]
        pieces.append(report.section(group, report.players(rows, list(sounds), grid, caption="")))
    report.write(path, "What the autoencoder keeps", *pieces)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="three short clips made on the spot: does it run?")
    add("--weights", default="asset:nano/vae", help="the trained autoencoder")
    add("--also", action="append", default=[], help="NAME=FOLDER of another one")
    add("--recordings", default="data/audio/real/*.flac", help="pattern of recordings")
    add("--songs", default="data/audio/own/*.flac", help="pattern of our own songs")
    add("--every", type=int, default=10, help="every so many files are held out")
    add("--clips", type=int, default=6, help="of each track")
    add("--frames", type=int, default=51, help="length of a clip in latent frames")
    add("--page", type=pathlib.Path, help="write a page to listen to")
    return parser.parse_args(arguments)


def run(arguments: argparse.Namespace) -> dict:
    """Loads, measures, compares."""
    where = {"trained": arguments.weights} | dict(pair.split("=", 1) for pair in arguments.also)
    loaded = {name: weights.load_vae(models.locate(path)) for name, path in where.items()}
    trained = {name: (VAE(network.config), network.params) for name, network in loaded.items()}
    hop = loaded["trained"].config.hop
    if arguments.quick:
        groups = {"practice": practice(17 * hop)}
    else:
        cut = {
            "every": arguments.every,
            "count": arguments.clips,
            "samples": arguments.frames * hop,
        }
        patterns = {"recordings": arguments.recordings, "songs": arguments.songs}
        groups = {name: held_out(pattern, **cut) for name, pattern in patterns.items()}
    vae = trained["trained"][0]
    systems = {"start": (vae, start_params(vae, list(groups.values()))), **trained}
    if arguments.page:
        write_page(arguments.page, systems, groups)
    tracks = {name: int(clips.track.max() + 1) for name, clips in groups.items()}
    return {"tracks": tracks, "results": compare(systems, groups, "start")}


def main() -> None:
    """Runs the command line."""
    results = run(parse())
    show(results["results"])
    print(json.dumps(results))


if __name__ == "__main__":
    main()
