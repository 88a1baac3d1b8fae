"""Fetches licensed recordings from Debian packages, without root: `apt-get download`, `dpkg -x`.

`recordings.csv` beside this file names each recording with its licence, artist and title. Audio
is decoded to 48 kHz FLAC under the data folder, which is not part of the repository, with a
`.json` of labels beside each file and one `MANIFEST.csv` that keeps licence and attribution.

Command:  python -m acestep_jax.data.fetch --data_dir data
"""

import argparse
import csv
import dataclasses
import hashlib
import io
import pathlib
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterable, Sequence

import numpy as np

from acestep_jax import units
from acestep_jax.data import audio, labels, skips

CATALOGUE = pathlib.Path(__file__).with_name("recordings.csv")


class NoPackageTools(RuntimeError):
    """This machine has no `apt-get` or no `dpkg`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recording:
    """One row of `recordings.csv`.

    Attributes:
      package: the Debian package that holds the file.
      path: inside the package; `ARCHIVE!MEMBER` for a file inside a zip archive.
      voice: "instrumental", or "unknown" where it may sing in words we do not have.
    """

    package: str
    path: str
    licence: str
    artist: str
    title: str
    voice: str
    caption: str

    @property
    def name(self) -> str:
        """A file name, unique in the catalogue."""
        stem = re.sub(r"[^a-z0-9]+", "-", f"{self.artist} {self.title}".lower()).strip("-")
        digest = hashlib.sha256(self.path.encode()).hexdigest()[:6]
        return f"{stem[:40]}-{digest}"


def load_catalogue(path: pathlib.Path = CATALOGUE) -> list[Recording]:
    """Reads the table of recordings."""
    with path.open(newline="", encoding="utf-8") as file:
        return [Recording(**row) for row in csv.DictReader(file)]


def download_packages(packages: Iterable[str], folder: pathlib.Path) -> None:
    """Downloads Debian packages into `folder`; those already there are left alone.

    Raises:
      NoPackageTools: if there is no `apt-get` or no `dpkg` here.
    """
    missing = [tool for tool in ("apt-get", "dpkg") if shutil.which(tool) is None]
    if missing:
        raise NoPackageTools(
            f"{' and '.join(missing)} not found: recordings come from Debian packages. "
            "Run this on Debian or Ubuntu, or train on our own songs alone."
        )
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in packages if not list(folder.glob(f"{name}_*.deb"))]
    if wanted:
        subprocess.run(["apt-get", "download", *wanted], cwd=folder, check=True)


def unpack_package(package: str, folder: pathlib.Path) -> pathlib.Path:
    """Unpacks `package` from its .deb in `folder`; returns the root of its files."""
    root = folder / package
    if not root.exists():
        (deb,) = sorted(folder.glob(f"{package}_*.deb"))[-1:]
        partial = folder / f"{package}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        subprocess.run(["dpkg", "-x", str(deb), str(partial)], check=True)
        partial.rename(root)
    return root


def read_recording(root: pathlib.Path, path: str, max_seconds: float) -> np.ndarray:
    """Decodes one file of an unpacked package to [W, 2]."""
    archive, _, member = path.partition("!")
    if not member:
        return audio.read_audio(root / path, min_seconds=10.0, max_seconds=max_seconds)
    try:
        with zipfile.ZipFile(root / archive) as zipped:
            content = io.BytesIO(zipped.read(member))
    except (KeyError, OSError, zipfile.BadZipFile) as error:
        raise audio.BadAudio(f"unreadable: {error}") from error
    return audio.read_audio(content, min_seconds=10.0, max_seconds=max_seconds)


def fetch_recording(
    recording: Recording, root: pathlib.Path, folder: pathlib.Path, max_seconds: float
) -> pathlib.Path:
    """Writes one recording as FLAC with its labels; stems too where the package has them.

    Returns:
      The labels' file, which is written last; one that is there is left alone.
    """
    label_path = folder / f"{recording.name}.json"
    if label_path.exists():
        return label_path
    samples = read_recording(root, recording.path, max_seconds)
    stems = {}
    guitar = pathlib.PurePosixPath(recording.path).with_name("guitar.ogg")
    if "!" not in recording.path and (root / guitar).exists():
        # Frets on Fire keeps the lead guitar apart; the file named song.ogg is all the rest
        stem = read_recording(root, str(guitar), max_seconds)
        length = min(len(stem), len(samples))
        samples, stem = _scale_together(samples[:length] + stem[:length], stem[:length])
        stems["guitar"] = f"stems/{recording.name}/guitar.flac"
        audio.write_flac(folder / stems["guitar"], stem)
    audio.write_flac(folder / f"{recording.name}.flac", samples)
    labels.save_labels(label_path, _labels_of(recording, len(samples), stems))
    return label_path


def _scale_together(mix: np.ndarray, stem: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    gain = np.float32(min(1.0, 0.95 / np.abs(mix).max()))
    return mix * gain, stem * gain


def _labels_of(recording: Recording, samples: int, stems: dict[str, str]) -> labels.SongLabels:
    return labels.SongLabels(
        name=recording.name,
        group=recording.name,
        split=labels.split_of(recording.name),
        seconds=samples / units.SAMPLE_RATE,
        captions=(recording.caption,),
        instrumental=recording.voice == "instrumental",
        stems=stems,
        licence=recording.licence,
        artist=recording.artist,
        title=recording.title,
        source=f"Debian package {recording.package}: {recording.path}",
    )


def write_manifest(folder: pathlib.Path, recordings: Iterable[Recording]) -> None:
    """Writes licence and attribution of every recording that lies in `folder`."""
    with (folder / "MANIFEST.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "licence", "artist", "title", "package", "path"])
        for item in recordings:
            if (folder / f"{item.name}.json").exists():
                row = [item.licence, item.artist, item.title, item.package, item.path]
                writer.writerow([f"{item.name}.flac", *row])


def fetch(
    data_dir: pathlib.Path, *, max_seconds: float, packages: Sequence[str] = ()
) -> skips.SkipList:
    """Downloads, unpacks and decodes the catalogue; returns what was skipped and why.

    Raises:
      NoPackageTools: if this machine cannot unpack Debian packages.
      skips.TooManyBadFiles: if more than a tenth of the recordings are unusable.
    """
    recordings = [r for r in load_catalogue() if not packages or r.package in packages]
    folder = data_dir / "audio" / "real"
    names = sorted({r.package for r in recordings})
    download_packages(names, data_dir / "packages")
    roots = {name: unpack_package(name, data_dir / "packages") for name in names}
    skipped = skips.SkipList()
    for recording in recordings:
        try:
            fetch_recording(recording, roots[recording.package], folder, max_seconds)
            skipped.good += 1
        except audio.BadAudio as error:
            skipped.skip(recording.name, error)
    write_manifest(folder, recordings)
    print(f"{skipped.good} recordings in {folder}", flush=True)
    skipped.finish()
    return skipped


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Fetches licensed recordings.")
    add = parser.add_argument
    add("--data_dir", type=pathlib.Path, default="data", help="for packages and audio")
    add("--max_seconds", type=float, default=180.0, help="the middle part taken of each")
    add("--packages", nargs="*", default=(), help="only these of the table's packages")
    arguments = parser.parse_args()
    fetch(arguments.data_dir, max_seconds=arguments.max_seconds, packages=arguments.packages)


if __name__ == "__main__":
    main()
