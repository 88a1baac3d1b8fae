"""Adds 5 Hz audio codes to shards that have none: what the planner is trained on.

Latents are kept and stems left out, so that the folder is small and the old one stays as it is.
Codes see five frames each, so the same song that begins one to four frames later has other codes:
`--shifts 5` writes songs of the training split five times, named +1 ... +4, with word times that
are late by at most 0.16 s. Held-out songs are written once.

Command:  python -m acestep_jax.data.add_codes --shards data/shards/own --out data/shards/codes
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np

from acestep_jax import units
from acestep_jax.data import encode, shards, sources
from acestep_jax.data import labels as labels_lib
from acestep_jax.weights import load

NANO_MODEL = sources.EMBEDDED.parent / "acestep-v15-nano"


def add_codes(
    record: shards.Record, write_codes: encode.CodeEncoder, shift: int = 0
) -> shards.Record:
    """Writes a song's codes, from `shift` frames on; without stems, deviations and states."""
    latents, labels = record.latents[shift:], record.labels
    if shift:
        seconds = labels.seconds - shift / units.FRAME_RATE
        labels = labels_lib.first_seconds(labels, seconds)
        labels = dataclasses.replace(labels, name=f"{labels.name}+{shift}")
    labels = labels_lib.with_stems(labels, {})
    return shards.Record(labels, latents, codes=write_codes(latents))


def convert(folder: pathlib.Path, model: str, out: pathlib.Path, shifts: int = 1) -> None:
    """Writes a folder of shards with codes.

    Args:
      folder: shards without them.
      model: folder of the diffusion model whose tokenizer writes the codes.
      out: folder of the new shards.
      shifts: how often training songs are written, each a frame later than the one before.

    Raises:
      ValueError: if the shards' latents come from another autoencoder than the model's.
    """
    if not 1 <= shifts <= units.FRAMES_PER_CODE:
        raise ValueError(f"shifts={shifts}; use 1 to {units.FRAMES_PER_CODE}, a code's frames.")
    package, silence = load.load_model(model), shards.read_silence(folder)
    own = np.asarray(package.silence_latent)
    shared = min(silence.shape[1], own.shape[1])
    if not np.allclose(own[:, :shared], silence[:, :shared], rtol=1e-2, atol=1e-2):
        raise ValueError(
            f"{folder} was encoded by another autoencoder than {model} knows: their silence "
            "differs. Prepare the shards with its own autoencoder."
        )
    write = encode.make_code_encoder(package.config, package.params["tokenizer"], own)

    def coded(split: str) -> Iterator[shards.Record]:
        for record in sources.Songs([folder], split).all_records():
            for shift in range(shifts if split == "train" else 1):
                yield add_codes(record, write, shift)

    table = shards.read_table(folder)
    about = {"licences": table.get("licences", []), "codebook": package.config.num_codes}
    shards.write_shards(out, {split: coded(split) for split in table["frames"]}, silence, about)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=pathlib.Path, required=True, help="without codes")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write")
    parser.add_argument("--model", default=str(NANO_MODEL), help="whose tokenizer writes codes")
    parser.add_argument("--shifts", type=int, default=1, help="how often songs to train on appear")
    arguments = parser.parse_args()
    convert(arguments.shards, arguments.model, arguments.out, arguments.shifts)


if __name__ == "__main__":
    main()
