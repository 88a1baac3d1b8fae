"""Turns songs with labels into shards of latents, codes and text states.

    SOURCE   a folder, a .csv, a .jsonl, or tfds:NAME (`manifest`; schema in `columns`)
    OUT      SPLIT-IIIII-of-NNNNN.arrayrecord, dataset.json, silence.safetensors (`shards`),
             skipped.jsonl (every song that was not taken, and why), records/ (see below)

Records are kept one by one under OUT/records while the work goes on, each under its name and a
digest of its labels and files: a run that was killed loses at most the songs at hand, and a song
that changed is encoded again. Shards are then written from all of them, split by group of songs, in
the order of the source; so the same input gives the same bytes, however often the work was
interrupted and whatever the number of workers.

Bad songs are named, counted, and skipped; the run gives up if they are more than --max_bad_share,
or at the first with --on_bad error. Sound is read in blocks: length costs no memory.

Command:  python -m acestep_jax.data.prepare --source data/audio/own --out data/shards/own
          ... --model FOLDER --text_encoder FOLDER      codes and text states too
"""

import argparse
import dataclasses
import functools
import itertools
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from acestep_jax import units
from acestep_jax.data import audio, encode, manifest, progress, records, shards, skips, sources
from acestep_jax.data import labels as labels_lib
from acestep_jax.data import workers as workers_lib

# what scripts need to encode songs of their own
Encoder = encode.LatentEncoder
encode_song, silence_latent = encode.encode_song, encode.silence_latent
MakeEncoders = Callable[[], encode.Encoders]
STEM_RULES = ("song", "stem")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices:
    """What is kept of a song.

    Attributes:
      stems: latents of its stems too, where it has any.
      store_std: the posterior's standard deviations too.
      min_seconds: shorter songs are bad.
      max_seconds: of longer songs only the beginning, with the labels that concern it.
      longest: songs longer than this are bad, even if only their beginning were kept.
      bad_stem: a missing or bad stem makes the whole "song" bad, or leaves out that "stem" alone.
    """

    stems: bool = True
    store_std: bool = False
    min_seconds: float = 1.0
    max_seconds: float = math.inf
    longest: float = math.inf
    bad_stem: str = "song"

    def __post_init__(self) -> None:
        if self.bad_stem not in STEM_RULES:
            raise ValueError(f"bad_stem is {self.bad_stem!r}, must be one of {STEM_RULES}.")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a song: why it is bad, or its seconds and why stems were left out of it.

    `found` tells that its record was there already.
    """

    seconds: float = 0.0
    problem: str = ""
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    found: bool = False


def prepare_song(
    song: manifest.Song, encoders: encode.Encoders, choices: Choices = Choices()
) -> tuple[shards.Record, dict[str, str]]:
    """Reads and encodes one song, or its beginning.

    Returns:
      The record, and why stems were left out of it.

    Raises:
      BadAudio: if the mix or a stem cannot be used.
      ValueError: if the labels are broken.
    """
    labels = song.labels(audio.read_seconds(song.audio))
    kept = labels_lib.first_seconds(labels, choices.max_seconds)
    latents, std = _encode_sound(song.audio, labels, kept, encoders, choices)
    stems, left_out = {}, {}
    for track, sound in sorted(song.stems.items()) if choices.stems else ():
        try:
            stems[track] = _encode_sound(sound, labels, kept, encoders, choices)[0]
        except audio.BadAudio as error:
            if choices.bad_stem == "song":
                raise audio.BadAudio(f"stem {track}: {error}") from error
            left_out[track] = str(error)
    kept = labels_lib.with_stems(kept, {track: labels.stems[track] for track in stems})
    record = shards.Record(
        kept,
        latents,
        std if choices.store_std else None,
        stems,
        encoders.codes(latents) if encoders.codes else None,
        encoders.text(kept) if encoders.text else {},
    )
    return record, left_out


def _encode_sound(
    sound: audio.Sound,
    labels: labels_lib.SongLabels,
    kept: labels_lib.SongLabels,
    encoders: encode.Encoders,
    choices: Choices,
) -> tuple[np.ndarray, np.ndarray]:
    """Encodes the part that is kept of a sound, float16, and reads the rest to check it."""
    stream = audio.AudioStream(sound, min_seconds=choices.min_seconds, longest=choices.longest)
    blocks = _beginning(stream, round(kept.seconds * units.SAMPLE_RATE))
    encoded = encode.encode_blocks(encoders.latents, blocks, dtype=np.float16)
    seconds = stream.samples / units.SAMPLE_RATE
    if abs(seconds - labels.seconds) > 0.1:
        raise audio.BadAudio(f"lasts {seconds:.2f} s, the song {labels.seconds:.2f} s")
    return encoded


def _beginning(blocks: Iterable[np.ndarray], samples: int) -> Iterator[np.ndarray]:
    """Passes the first samples on, and lets the rest run by: only then is it known to be sound."""
    for block in blocks:
        if samples > 0:
            yield block[:samples]
        samples -= len(block)


def prepare(
    songs: Sequence[manifest.Song | manifest.BadRow],
    out: pathlib.Path,
    make_encoders: MakeEncoders,
    choices: Choices = Choices(),
    *,
    skipped: skips.SkipList | None = None,
    workers: int = 0,
    max_songs: int | None = None,
) -> skips.SkipList:
    """Prepares songs into a folder of shards.

    Args:
      songs: as `manifest.read_source` lists them.
      out: folder of the shards.
      make_encoders: gives the compiled networks; called in every worker, so it must be picklable
        where there are any.
      choices: what is kept of each song.
      skipped: with the rule for bad songs; by default up to a tenth are skipped.
      workers: processes that encode; 0 encodes in this one. Many processes pay where reading and
        resampling take longer than the encoder; an accelerator is shared by none or one.
      max_songs: only so many, from the first; None takes all.

    Returns:
      Which songs were skipped, and why.

    Raises:
      TooManyBadFiles: if more songs than allowed are bad; shards are not written then.
      ValueError: if `out` holds records of other networks or of other choices.
    """
    skipped = skips.SkipList() if skipped is None else skipped
    encoders = make_encoders()
    silence = encode.silence_latent(encoders.latents)
    records.claim(out / "records", choices, encoders, silence)
    total = len(songs) if max_songs is None else min(len(songs), max_songs)
    work = functools.partial(
        _prepare_one, folder=out / "records", make_encoders=make_encoders, choices=choices
    )
    targets, done = [], progress.Progress(total, "prepared")
    try:
        for song, outcome in workers_lib.in_order(work, itertools.islice(songs, total), workers):
            if isinstance(song, manifest.BadRow) or outcome.problem:
                skipped.skip(song.name, f"{song.where}: {outcome.problem}")
            else:
                targets.append(records.file_of(out / "records", song))
                skipped.good += 1
                skipped.leave_out(song.name, outcome.left_out)
            done.advance(outcome.seconds, found=outcome.found)
        skipped.finish()
    finally:
        skipped.save(out / "skipped.jsonl")
    about = {"codebook": encoders.codebook} if encoders.codes else {}
    records.pack(out, targets, silence, about)
    print(
        f"{out}: {skipped.good} songs, {len(skipped.reasons)} skipped, {len(skipped.parts)} stems "
        "left out; skipped.jsonl names them",
        flush=True,
    )
    return skipped


def _prepare_one(
    song: manifest.Song | manifest.BadRow,
    folder: pathlib.Path,
    make_encoders: MakeEncoders,
    choices: Choices,
) -> Outcome:
    """Writes the record of a song, unless it is there."""
    if isinstance(song, manifest.BadRow):
        return Outcome(problem=song.reason)
    target = records.file_of(folder, song)
    reasons = target.with_suffix(".left_out")
    if records.is_whole(target):
        left_out = json.loads(reasons.read_text("utf-8")) if reasons.exists() else {}
        return Outcome(left_out=left_out, found=True)
    try:
        record, left_out = prepare_song(song, make_encoders(), choices)
        content = shards.encode_record(record)
    except ValueError as error:  # BadAudio, BadRecord and broken labels alike
        return Outcome(problem=str(error))
    if left_out:
        skips.write_whole(reasons, json.dumps(left_out).encode())
    skips.write_whole(target, content)
    return Outcome(record.labels.seconds, left_out=left_out)


def load_encoder(folder: str) -> Encoder:
    """Loads an autoencoder's folder and compiles its encoder."""
    return encode.load_encoders(folder).latents


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Turns songs with labels into shards.")
    add = parser.add_argument
    add("--source", "--audio", required=True, help="a folder, .csv, .jsonl, or tfds:NAME")
    add("--out", type=pathlib.Path, required=True, help="folder of the shards")
    add("--vae", default=str(sources.EMBEDDED.parent / "vae"), help="autoencoder's folder")
    add("--model", default="", help="folder of a model whose tokenizer writes 5 Hz codes")
    add("--text_encoder", default="", help="folder of a Qwen3 that writes text and lyric states")
    add("--recursive", action="store_true", help="look into subfolders, but those named stems")
    add("--root", default="", help="folder that no path of a table may leave; its own by default")
    add("--data_dir", help="where tensorflow datasets lie")
    add("--no_stems", action="store_true", help="leave the stems out")
    add("--store_std", action="store_true", help="store the posterior's standard deviations")
    add("--min_seconds", type=float, default=1.0, help="shorter songs are bad")
    add("--max_seconds", type=float, default=math.inf, help="take the beginning of longer songs")
    add("--longest", type=float, default=math.inf, help="still longer songs are bad")
    add("--bad_stem", choices=STEM_RULES, default="song", help="what a bad stem makes bad")
    add("--on_bad", choices=skips.RULES, default="skip", help="what to do about a bad song")
    add("--max_bad_share", type=float, default=0.1, help="give up if more songs are bad")
    add("--max_songs", type=int, help="only so many, from the first")
    add("--workers", type=int, default=0, help="processes that encode; 0: this one alone")
    arguments = parser.parse_args()
    songs = manifest.read_source(
        arguments.source,
        recursive=arguments.recursive,
        root=arguments.root,
        data_dir=arguments.data_dir,
    )
    prepare(
        songs,
        arguments.out,
        functools.partial(
            encode.load_encoders, arguments.vae, arguments.model, arguments.text_encoder
        ),
        Choices(
            stems=not arguments.no_stems,
            store_std=arguments.store_std,
            min_seconds=arguments.min_seconds,
            max_seconds=arguments.max_seconds,
            longest=arguments.longest,
            bad_stem=arguments.bad_stem,
        ),
        skipped=skips.SkipList(max_share=arguments.max_bad_share, on_bad=arguments.on_bad),
        workers=arguments.workers,
        max_songs=arguments.max_songs,
    )


if __name__ == "__main__":
    main()
