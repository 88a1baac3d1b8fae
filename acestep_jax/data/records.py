"""Records one by one, in a folder of their own, until shards are written of them.

A record's file bears the name of its song and a digest of what it was made of, and is there whole
or not at all: that is all the state that a killed run leaves behind.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from acestep_jax.data import encode, manifest, shards, skips
from acestep_jax.data import labels as labels_lib

_PROBE = labels_lib.SongLabels(
    name="probe", group="probe", split="train", seconds=10.0, captions=("probe",)
)


def file_of(folder: pathlib.Path, song: manifest.Song) -> pathlib.Path:
    """Names the file of a song's record."""
    return folder / f"{song.name}.{song.digest()}.record"


def is_whole(target: pathlib.Path) -> bool:
    """Whether a record is there and can be read."""
    try:
        shards.decode_record(target.read_bytes())
    except (FileNotFoundError, shards.BadRecord):
        return False
    return True


def claim(
    records: pathlib.Path, choices: Any, encoders: encode.Encoders, silence: np.ndarray
) -> None:
    """Marks a folder of records as made with these networks and choices, or refuses it."""
    wanted = {name: str(value) for name, value in dataclasses.asdict(choices).items()}
    answers = {"silence": silence[0, 0].tolist(), "codes": [], "text": []}
    if encoders.codes:
        answers["codes"] = encoders.codes(silence[0, :100]).tolist()
    if encoders.text:
        answers["text"] = encoders.text(_PROBE)["text"][0, -1].tolist()
    mark = records / "made_with.json"
    if not mark.exists():
        skips.write_whole(mark, json.dumps({"choices": wanted, **answers}).encode())
        return
    found = json.loads(mark.read_text(encoding="utf-8"))
    makers = {"silence": "autoencoder", "codes": "tokenizer", "text": "text encoder"}
    for name, maker in makers.items():
        before, now = found.get(name, []), answers[name]
        if len(before) != len(now) or not np.allclose(before, now, rtol=1e-2, atol=1e-3):
            raise ValueError(
                f"{records} was made by another {maker}; delete it, or choose another folder."
            )
    if found.get("choices") != wanted:
        raise ValueError(
            f"{records} was made with {found.get('choices')}, not {wanted}; delete it, or choose "
            "another folder for the shards."
        )


def pack(
    out: pathlib.Path,
    targets: Sequence[pathlib.Path],
    silence: np.ndarray,
    about: Mapping[str, object],
) -> None:
    """Writes the shards of all splits from the single records; drops those of changed songs."""
    by_split: dict[str, list[pathlib.Path]] = {}
    licences = set()
    for target in targets:
        labels = shards.decode_record(target.read_bytes()).labels
        by_split.setdefault(labels.split, []).append(target)
        licences.add(labels.licence)
    records = {
        split: (shards.decode_record(target.read_bytes()) for target in chosen)
        for split, chosen in sorted(by_split.items())
    }
    shards.write_shards(out, records, silence, {"licences": sorted(licences), **about})
    names = {_song_of(target): target for target in targets}
    for old in (out / "records").glob("*.record"):
        if names.get(_song_of(old), old) != old:
            old.unlink()
    for partial in (out / "records").glob("*.partial"):
        partial.unlink()


def _song_of(target: pathlib.Path) -> str:
    return target.name.rsplit(".", 2)[0]  # NAME.DIGEST.record, where NAME may have dots
