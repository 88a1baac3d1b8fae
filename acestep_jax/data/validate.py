"""Names every bad row of an input or of shards, and ends with `N rows checked, N bad`.

    a folder of shards                      every record (`shards.validate`)
    a folder of songs, .csv, .jsonl, tfds:NAME   every row against the schema (`columns`), with its
                                            files; --decode also reads all sound to its end

With --tempo, librosa listens to the middle minute of each song and the labels it disagrees with are
named as doubtful. That is no fault: of our own 240 songs, whose tempo is exact, it doubts 33. So
listen before you correct.

Command:  python -m acestep_jax.data.validate SOURCE [SOURCE ...] [--decode] [--tempo]
"""

import argparse
import collections
import pathlib
import sys
from collections.abc import Iterator

import numpy as np

from acestep_jax import units
from acestep_jax.data import audio, manifest, shards

TEMPO_TOLERANCE = 0.04
_LISTENING_RATE = 22_050  # what librosa's onset detection is tuned for


def validate_songs(source: str, *, decode: bool = False, **options: object) -> Iterator[str]:
    """Checks every row of an input without encoding it.

    Args:
      source: and options: as in `manifest.read_source`.
      decode: read all sound, mixes and stems, to the end.

    Returns:
      For each row in order: "" if it is good, else `PLACE: NAME: REASON`.
    """
    for song in manifest.read_source(source, **options):
        reason = song.reason if isinstance(song, manifest.BadRow) else _problems(song, decode)
        yield f"{song.where}: {song.name}: {reason}" if reason else ""


def _problems(song: manifest.Song, decode: bool) -> str:
    problems = []
    try:
        song.labels(audio.read_seconds(song.audio))
    except ValueError as error:
        problems.append(str(error))
    for track, sound in {"": song.audio, **song.stems}.items():
        try:
            if decode:
                collections.deque(audio.AudioStream(sound), maxlen=0)
            elif track:
                audio.read_seconds(sound)
        except audio.BadAudio as error:
            problems.append(f"stem {track}: {error}" if track else str(error))
    return "; ".join(dict.fromkeys(problems))


def doubtful_tempos(source: str, **options: object) -> Iterator[str]:
    """Yields a line for every good row whose `bpm` librosa does not hear, at any octave."""
    for song in manifest.read_source(source, **options):
        if isinstance(song, manifest.BadRow) or "bpm" not in song.facts:
            continue
        try:
            heard = estimate_tempo(audio.read_audio(song.audio, max_seconds=60.0))
        except audio.BadAudio:
            continue  # `validate_songs` names it
        ratio = heard / song.facts["bpm"]
        if min(abs(ratio / octave - 1) for octave in (0.25, 0.5, 1, 2, 4)) > TEMPO_TOLERANCE:
            where = f"{song.where}: {song.name}"
            yield f"{where}: bpm is {song.facts['bpm']}, librosa hears {heard:.0f}"


def estimate_tempo(samples: np.ndarray) -> float:
    """Estimates the tempo of [W, 2] at 48 kHz with librosa, in beats a minute."""
    import librosa

    mono = librosa.resample(
        samples.mean(axis=1), orig_sr=units.SAMPLE_RATE, target_sr=_LISTENING_RATE
    )
    return float(librosa.feature.tempo(y=mono, sr=_LISTENING_RATE)[0])


def main() -> None:
    """Validates what the command line names; exits with 1 if a row is bad."""
    parser = argparse.ArgumentParser(description="Names every bad row.")
    add = parser.add_argument
    add("sources", nargs="+", help="folders, .csv, .jsonl or tfds:NAME")
    add("--decode", action="store_true", help="read all sound to its end")
    add("--tempo", action="store_true", help="let librosa doubt the tempo of labels")
    add("--recursive", action="store_true", help="look into subfolders, but those named stems")
    add("--root", default="", help="folder that no path of a table may leave; its own by default")
    add("--data_dir", help="where tensorflow datasets lie")
    arguments = parser.parse_args()
    options = {name: getattr(arguments, name) for name in ("recursive", "root", "data_dir")}
    bad = 0
    for source in arguments.sources:
        if list(pathlib.Path(source).glob("*.arrayrecord")):
            problems = [f"{source}/{problem}" for problem in shards.validate(pathlib.Path(source))]
            rows = shards.count_rows(pathlib.Path(source))
        else:
            lines = list(validate_songs(source, decode=arguments.decode, **options))
            problems, rows = [line for line in lines if line], len(lines)
        print("".join(f"{problem}\n" for problem in problems), end="")
        print(f"{source}: {rows} rows checked, {len(problems)} bad")
        bad += len(problems)
        if arguments.tempo:
            print(
                "".join(f"doubtful: {line}\n" for line in doubtful_tempos(source, **options)),
                end="",
            )
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
