"""Reads the songs of a tensorflow dataset, without TensorFlow: features named as in `columns`."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from acestep_jax.data import labels as labels_lib
from acestep_jax.data import manifest

_CONTENT = ("audio",)


class TfdsSongs(Sequence):
    """The songs of all splits in order; each is read when it is asked for.

    A dataset's own split names are taken where rows name none.
    """

    def __init__(self, dataset: str, data_dir: str | None = None) -> None:
        """Opens a dataset.

        Args:
          dataset: a registered name such as `acestep_songs/folk`, or the folder of a built one.
          data_dir: where built datasets lie.

        Raises:
          FileNotFoundError: if it has not been built.
          ValueError: if a feature has no place in the schema.
        """
        import tensorflow_datasets as tfds

        if pathlib.Path(dataset).is_dir():
            builder = tfds.builder_from_directory(dataset)
        else:
            try:
                builder = tfds.builder(dataset, data_dir=data_dir)
            except tfds.core.DatasetNotFoundError as error:
                raise FileNotFoundError(f"no tensorflow dataset {dataset}: {error}") from error
        if not builder.info.splits:
            raise FileNotFoundError(f"{dataset} has not been built in {builder.data_dir}.")
        self.name = builder.info.full_name
        self._sources = [(s, builder.as_data_source(s)) for s in sorted(builder.info.splits)]
        self._ends = np.cumsum([len(source) for _, source in self._sources]).tolist()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> manifest.Song | manifest.BadRow:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = int(np.searchsorted(self._ends, index, side="right"))
        split, source = self._sources[part]
        place = index - (self._ends[part - 1] if part else 0)
        row, problems = row_of_example(source[place])
        if split in labels_lib.SPLITS:
            row.setdefault("split", split)
        return manifest.make_song(f"{self.name}:{split}[{place}]", row, problems)


def row_of_example(example: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Turns an example into a row: text decoded, numbers plain, what says nothing left out."""
    row: dict[str, Any] = {}
    problems = []
    for name, value in example.items():
        try:
            plain = bytes(value) if name in _CONTENT else _plain(value, content=name == "stems")
        except UnicodeDecodeError as error:
            problems.append(f"{name} is not UTF-8 (byte {error.object[error.start]:#04x})")
            continue
        empty = isinstance(plain, str | bytes | list | dict) and not plain
        if not empty and not (type(plain) is int and plain == 0):
            row[name] = plain
    if "stems" in row:
        row["stems"] = {stem["track"]: stem["audio"] for stem in row["stems"]}
    if "chords" in row:
        row["chords"] = [[chord["start"], chord["name"]] for chord in row["chords"]]
    return row, problems


def _plain(value: Any, *, content: bool = False, key: str = "") -> Any:
    """Numpy to Python; a dictionary of lists, tfds's form of a list of objects, to that list."""
    if isinstance(value, bytes):
        return value if content and key == "audio" else value.decode()
    if isinstance(value, dict):
        lists = {k: [_plain(v, content=content, key=k) for v in vs] for k, vs in value.items()}
        return [dict(zip(lists, items, strict=True)) for items in zip(*lists.values(), strict=True)]
    if isinstance(value, list | tuple | np.ndarray) and not np.isscalar(value):
        return [_plain(item, content=content, key=key) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    # examples hold float32, whose digits beyond a tenth of a millisecond are rounding
    return round(value, 4) if isinstance(value, float) else value
