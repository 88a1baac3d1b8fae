"""Turns songs with labels into shards of latents, resuming where it was stopped.

Every `NAME.json` of labels with a `NAME.flac` beside it becomes one record. Records are kept one by
one under OUT/records while the work goes on, so that a killed run loses at most the song at hand;
shards are then written from all of them, split by group of songs, ordered by name.

Command:  python -m acestep_jax.data.prepare --audio data/audio/own --out data/shards/own
"""

import argparse
import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax import units
from acestep_jax.data import audio, shards, sources
from acestep_jax.data import labels as labels_lib
from acestep_jax.nn.config import VAEConfig
from acestep_jax.nn.vae import VAE
from acestep_jax.typing import Params
from acestep_jax.weights import load

WINDOW = 256
"""Frames encoded at once: one shape for songs of every length."""
CONTEXT = 16
"""Frames dropped at inner edges of windows. The encoder sees less than six frames to either side
(dilated units reach 39 samples at 250 Hz, 3.9 frames; the stages before add less than one, the
last convolution one), so that windows join without a seam."""

Encoder = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Audio [B, W, 2] to posterior mean and standard deviation [B, T, C]."""


def make_encoder(config: VAEConfig, params: Params) -> Encoder:
    """Compiles the autoencoder's encoder."""
    vae = VAE(config)

    @jax.jit
    def encode(samples: jax.Array) -> tuple[jax.Array, jax.Array]:
        posterior: Any = vae.apply({"params": params}, samples, method="encode")
        return posterior.mean, posterior.std

    return lambda samples: jax.tree.map(np.asarray, encode(jnp.asarray(samples)))


def encode_song(
    encode: Encoder, samples: np.ndarray, window: int = WINDOW
) -> tuple[np.ndarray, np.ndarray]:
    """Encodes a song of any length by overlapping windows of one shape.

    Args:
      encode: the compiled encoder.
      samples: [W, 2]; a last part shorter than one frame is left out, as in the release.
      window: frames encoded at once.

    Returns:
      Posterior mean and standard deviation [T, C], equal to encoding the song at once, but for
      songs shorter than a window, whose last frames see silence after the end.
    """
    num_frames = len(samples) // units.SAMPLES_PER_FRAME
    if num_frames == 0:
        raise audio.BadAudio(f"lasts {len(samples)} samples, less than one latent frame")
    padded = np.zeros((max(num_frames, window) * units.SAMPLES_PER_FRAME, 2), np.float32)
    padded[: num_frames * units.SAMPLES_PER_FRAME] = samples[: num_frames * units.SAMPLES_PER_FRAME]
    pieces = []
    for start, low, high in windows(max(num_frames, window), window):
        first = start * units.SAMPLES_PER_FRAME
        piece = padded[first : first + window * units.SAMPLES_PER_FRAME]
        mean, std = encode(piece[None])
        pieces.append((mean[0, low:high], std[0, low:high]))
    means, stds = zip(*pieces, strict=True)
    return np.concatenate(means)[:num_frames], np.concatenate(stds)[:num_frames]


def windows(num_frames: int, window: int = WINDOW) -> list[tuple[int, int, int]]:
    """Plans overlapping windows over `num_frames` >= `window` frames.

    Returns:
      (start, low, high): the window at `start` gives its frames low..high; together they cover
      every frame once.
    """
    plan, covered = [], 0
    while covered < num_frames:
        start = min(max(0, covered - CONTEXT), num_frames - window)
        last = start + window == num_frames
        high = window if last else window - CONTEXT
        plan.append((start, covered - start, high))
        covered = start + high
    return plan


def silence_latent(encode: Encoder, num_frames: int = shards.SILENCE_FRAMES) -> np.ndarray:
    """Encodes silence: [1, num_frames, C], the model's sign for "nothing here"."""
    samples = np.zeros((max(num_frames, WINDOW) * units.SAMPLES_PER_FRAME, 2), np.float32)
    mean, _ = encode_song(encode, samples)
    return mean[None, :num_frames].astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices:
    """What is kept of a song.

    Attributes:
      stems: latents of its stems too, where it has any.
      store_std: the posterior's standard deviations too.
      max_seconds: of longer songs only the beginning, with the labels that concern it.
    """

    stems: bool = True
    store_std: bool = False
    max_seconds: float = math.inf


def prepare_song(
    label_path: pathlib.Path, encode: Encoder, choices: Choices = Choices()
) -> shards.Record:
    """Reads and encodes one song, or its beginning.

    Raises:
      BadAudio: if the mix or a stem cannot be used.
      ValueError: if the labels are broken.
    """
    labels = labels_lib.load_labels(label_path)
    samples = audio.read_audio(label_path.with_suffix(".flac"), min_seconds=1.0)
    seconds = len(samples) / units.SAMPLE_RATE
    if abs(seconds - labels.seconds) > 0.1:
        raise audio.BadAudio(f"lasts {seconds:.2f} s, its labels say {labels.seconds:.2f} s")
    labels = labels_lib.first_seconds(labels, choices.max_seconds)
    kept = round(labels.seconds * units.SAMPLE_RATE)
    mean, std = encode_song(encode, samples[:kept])
    encoded = {}
    for track, name in labels.stems.items() if choices.stems else ():
        stem = audio.read_audio(label_path.parent / name, min_seconds=1.0)
        encoded[track] = encode_song(encode, stem[:kept])[0].astype(np.float16)
    labels = labels_lib.with_stems(labels, {track: labels.stems[track] for track in encoded})
    kept_std = std.astype(np.float16) if choices.store_std else None
    return shards.Record(labels, mean.astype(np.float16), kept_std, encoded)


def prepare(
    audio_dir: pathlib.Path,
    out: pathlib.Path,
    encode: Encoder,
    choices: Choices = Choices(),
    *,
    max_bad_share: float = 0.1,
    max_songs: int | None = None,
) -> audio.SkipList:
    """Prepares a folder of songs.

    Args:
      audio_dir: holds `NAME.flac` and `NAME.json` (`labels.SongLabels`).
      out: folder of the shards.
      encode: the compiled encoder.
      choices: what is kept of each song.
      max_bad_share: of the songs.
      max_songs: only so many, in order of their names; None takes all.

    Returns:
      Which songs were skipped, and why.

    Raises:
      FileNotFoundError: if there are no songs.
      TooManyBadFiles: if more songs than allowed are bad; shards are not written then.
      ValueError: if `out` holds records of another autoencoder or of other choices.
    """
    paths = sorted(audio_dir.glob("*.json"))[:max_songs]
    if not paths:
        raise FileNotFoundError(f"{audio_dir} holds no songs (NAME.flac with NAME.json).")
    silence = silence_latent(encode)
    _claim(out / "records", choices, silence)
    skipped = audio.SkipList(max_share=max_bad_share)
    names = []
    for count, path in enumerate(paths, 1):
        target = out / "records" / f"{path.stem}.record"
        try:
            if not _is_newer(target, path):
                _write_whole(target, shards.encode_record(prepare_song(path, encode, choices)))
            names.append(target)
            skipped.good += 1
        except ValueError as error:  # BadAudio, BadRecord and broken labels alike
            skipped.skip(path.stem, error)
        if count % 20 == 0 or count == len(paths):
            print(f"prepared {count} of {len(paths)} songs of {audio_dir}", flush=True)
    skipped.finish()
    _pack(out, names, silence)
    return skipped


def _claim(records: pathlib.Path, choices: Choices, silence: np.ndarray) -> None:
    """Marks a folder of records as made with this autoencoder and these choices, or refuses it."""
    wanted = {name: str(value) for name, value in dataclasses.asdict(choices).items()}
    mark = records / "made_with.json"
    if mark.exists():
        found = json.loads(mark.read_text(encoding="utf-8"))
        same = np.allclose(found.pop("silence"), silence[0, 0], atol=1e-3)
        if not same or found != wanted:
            reason = f"with {found}, not {wanted}" if same else "by another autoencoder"
            raise ValueError(
                f"{records} was made {reason}; delete it, or choose another folder for the shards."
            )
        return
    records.mkdir(parents=True, exist_ok=True)
    text = json.dumps(wanted | {"silence": silence[0, 0].tolist()})
    _write_whole(mark, text.encode())


def _is_newer(target: pathlib.Path, source: pathlib.Path) -> bool:
    """Whether the record was made after the song's labels, which are written last, were."""
    return target.exists() and target.stat().st_mtime >= source.stat().st_mtime


def _write_whole(path: pathlib.Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def _pack(out: pathlib.Path, names: Sequence[pathlib.Path], silence: np.ndarray) -> None:
    """Writes the shards of all splits from the single records."""
    by_split: dict[str, list[pathlib.Path]] = {}
    licences = set()
    for name in names:
        labels = shards.decode_record(name.read_bytes()).labels
        by_split.setdefault(labels.split, []).append(name)
        licences.add(labels.licence)
    records = {
        split: (shards.decode_record(name.read_bytes()) for name in chosen)
        for split, chosen in sorted(by_split.items())
    }
    shards.write_shards(out, records, silence, {"licences": sorted(licences)})


@functools.cache
def load_encoder(folder: str) -> Encoder:
    """Loads an autoencoder's folder and compiles its encoder."""
    vae = load.load_vae(folder)
    return make_encoder(vae.config, vae.params)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Turns songs with labels into shards.")
    add = parser.add_argument
    add("--audio", type=pathlib.Path, required=True, help="folder of .flac with .json labels")
    add("--out", type=pathlib.Path, required=True, help="folder of the shards")
    add("--vae", default=str(sources.EMBEDDED.parent / "vae"), help="autoencoder's folder")
    add("--no_stems", action="store_true", help="leave the stems out")
    add("--store_std", action="store_true", help="store the posterior's standard deviations")
    add("--max_seconds", type=float, default=math.inf, help="take the beginning of longer songs")
    add("--max_songs", type=int, help="only so many, in order of their names")
    add("--max_bad_share", type=float, default=0.1, help="give up if more songs are bad")
    arguments = parser.parse_args()
    prepare(
        arguments.audio,
        arguments.out,
        load_encoder(arguments.vae),
        Choices(
            stems=not arguments.no_stems,
            store_std=arguments.store_std,
            max_seconds=arguments.max_seconds,
        ),
        max_bad_share=arguments.max_bad_share,
        max_songs=arguments.max_songs,
    )


if __name__ == "__main__":
    main()
