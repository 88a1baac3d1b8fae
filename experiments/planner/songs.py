"""The songs that the planner's evaluation needs: held-out ones, and the codes it was trained on.

Held-out songs have tunes that no training song has. They are rendered here where they are not yet
(`experiments/music/prompts.py`), and go through the shipped autoencoder and tokenizer. From the
codes of the training songs the baselines are counted; they lie in `training_codes.npz`, written by

    python -m experiments.planner.songs --shards data/shards/codes
"""

import argparse
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from acestep_jax import units
from acestep_jax.data import audio, chat, encode, make, shards, sources
from acestep_jax.data import labels as labels_lib
from acestep_jax.data.add_codes import NANO_MODEL
from acestep_jax.data.chat import Clip
from acestep_jax.data.songs import write as rendering
from experiments.music import prompts

FOLDER = pathlib.Path("data/audio/judged")  # shared with experiments/music/evaluate.py
PEAK = 10 ** (-1 / 20)  # as `tasks.pipeline` leaves songs
TRAINING_CODES = pathlib.Path(__file__).with_name("training_codes.npz")


def held_out(count: int, folder: pathlib.Path = FOLDER) -> Iterator[shards.Record]:
    """Renders and encodes songs of held-out tunes, with codes; the first 28 s of each."""
    encoders = encode.load_encoders(str(sources.EMBEDDED.parent / "vae"), str(NANO_MODEL))
    assert encoders.codes is not None
    for seed in prompts.held_out_seeds(count):
        path = rendering.write_song(folder, seed, with_stems=False)
        labels = labels_lib.first_seconds(labels_lib.load_labels(path), make.MAX_SECONDS)
        samples = _beginning(path.with_suffix(".flac"), labels.seconds)
        latents = encode.encode_song(encoders.latents, samples)[0].astype(np.float16)
        labels = labels_lib.with_stems(labels, {})
        yield shards.Record(labels, latents, codes=encoders.codes(latents))


def hear(names: Sequence[str], seconds: float = 10.0, folder: pathlib.Path = FOLDER) -> np.ndarray:
    """Reads the beginning of rendered songs, at the peak that songs are made at: [N, W, 2]."""
    waves = [_beginning(folder / f"{name}.flac", seconds) for name in names]
    return np.stack([wave / np.abs(wave).max() * PEAK for wave in waves])


def _beginning(path: pathlib.Path, seconds: float) -> np.ndarray:
    return audio.read_audio(path)[: round(seconds * units.SAMPLE_RATE)]


def cut_clips(records: Iterable[shards.Record], seconds: int) -> list[Clip]:
    """Cuts a clip of every song."""
    rng = np.random.default_rng(0)
    return [chat.cut_clip(record, seconds, rng) for record in records]


def save_codes(records: Iterable[shards.Record], path: pathlib.Path) -> None:
    """Writes the codes of songs that are there unshifted."""
    songs = [chat.codes_of(r) for r in records if "+" not in r.labels.name]
    lengths = np.array([len(song) for song in songs], np.int32)
    np.savez_compressed(path, codes=np.concatenate(songs).astype(np.int16), lengths=lengths)


def load_codes(path: pathlib.Path = TRAINING_CODES) -> list[np.ndarray]:
    """Reads what `save_codes` wrote."""
    with np.load(path) as table:
        return np.split(table["codes"].astype(np.int32), np.cumsum(table["lengths"])[:-1])


def main() -> None:
    """Writes the codes of a folder's training songs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=pathlib.Path, required=True, help="with codes")
    arguments = parser.parse_args()
    save_codes(sources.Songs([arguments.shards], "train").all_records(), TRAINING_CODES)


if __name__ == "__main__":
    main()
