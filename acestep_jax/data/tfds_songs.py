"""The project's own data as a tensorflow dataset, `acestep_songs`, generated in parallel by Beam.

    acestep_songs/recordings   licensed recordings from Debian packages (`fetch`), some with stems
    acestep_songs/folk         folk tunes and new ones, rendered with words, chords and stems
    acestep_songs/sung         only songs that are sung: word times, and always the voice by itself

Features are the columns of `columns`, sound as FLAC; TensorFlow is not needed, neither to build nor
to read. `python -m acestep_jax.data.prepare --source tfds:acestep_songs/folk` makes shards of it.

Songs are made one by one in a folder of their own, the cache, and are left alone when they are
there: a build that was killed makes only the rest. With Beam each song is one element, made on
whichever worker has time; on several machines the cache must be a folder that they share, or ""
for none. A song depends on its seed alone, so the dataset does not depend on the runner.

Command:  python -m acestep_jax.data.tfds_songs --config folk --songs 240 --data_dir data/tfds
          ... --beam --direct_num_workers=2 --direct_running_mode=multi_processing   (this machine)
          ... --beam --runner=DataflowRunner --project=... --temp_location=...   (any Beam runner)
"""

import argparse
import dataclasses
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from acestep_jax.data import labels as labels_lib
from acestep_jax.data import makers as makers_lib


@dataclasses.dataclass
class SongsConfig(tfds.core.BuilderConfig):
    """Which songs.

    Attributes:
      kind: recordings, folk or sung.
      songs: how many at most; of recordings the first so many of the catalogue.
      first_seed: of rendered songs.
      max_seconds: of recordings the middle part of this length.
    """

    kind: str = "folk"
    songs: int = 240
    first_seed: int = 0
    max_seconds: float = 180.0


def make_config(kind: str, **changes: Any) -> SongsConfig:
    """Makes a configuration; one that differs from its kind's says so in its name."""
    changes = {k: v for k, v in changes.items() if v != getattr(SongsConfig, k)}
    parts = [f"{k.replace('_', '')}{v:g}" for k, v in sorted(changes.items())]
    return SongsConfig(name="_".join([kind, *parts]), kind=kind, **changes)


class AcestepSongs(tfds.core.GeneratorBasedBuilder):
    """Songs with captions, metadata, words with times, chords and stems."""

    # tfds would look this up itself, but with a package that it does not declare
    code_path = tfds.core.Path(__file__)
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = tuple(make_config(kind) for kind in ("recordings", "folk", "sung"))

    def __init__(
        self, *, cache: str = "data/audio/tfds", beam: bool = False, **kwargs: Any
    ) -> None:
        """Extends the arguments of any builder.

        Args:
          cache: folder of the songs as they are made; "" makes each in a passing one.
          beam: generate through Apache Beam.
          **kwargs: as of any builder.
        """
        self._cache, self._beam = cache, beam
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=features())

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        makers = makers_lib.list_makers(self.builder_config, self._cache)
        by_split = {
            split: [maker for maker in makers if maker.split == split]
            for split in labels_lib.SPLITS
        }
        return {k: self._generate_examples(v) for k, v in by_split.items() if v}

    def _generate_examples(self, makers: list[makers_lib.Maker]) -> Any:
        if not self._beam:
            return (example for maker in makers for example in maker.examples())
        import apache_beam

        split = makers[0].split  # Beam wants every step of a pipeline to have its own name
        return (
            f"songs of {split}" >> apache_beam.Create(makers)
            | f"spread {split}" >> apache_beam.Reshuffle()  # else neighbours share a worker
            | f"make {split}" >> apache_beam.FlatMap(makers_lib.Maker.examples)
        )


def features() -> tfds.features.FeaturesDict:
    """Names and types of what an example holds; 0 and "" say that something is not known."""
    text, sound = tfds.features.Text, tfds.features.Tensor(shape=(), dtype=np.object_)
    seconds, sequence = tfds.features.Scalar(np.float64), tfds.features.Sequence
    return tfds.features.FeaturesDict(
        {
            **{name: text() for name in ("name", "group", "split", "keyscale", "timesignature")},
            **{name: text() for name in ("language", "licence", "artist", "title", "source")},
            "audio": sound,
            "seconds": seconds,
            "bpm": tfds.features.Scalar(np.int32),
            "instrumental": tfds.features.Scalar(np.bool_),
            "timed": tfds.features.Scalar(np.bool_),
            "captions": sequence(text()),
            "lines": sequence({"text": text(), "start": seconds, "end": seconds}),
            "words": sequence(
                {
                    "text": text(),
                    "start": seconds,
                    "end": seconds,
                    "line": tfds.features.Scalar(np.int32),
                }
            ),
            "chords": sequence({"start": seconds, "name": text()}),
            "stems": sequence({"track": text(), "audio": sound}),
        }
    )


def build(
    config: SongsConfig,
    data_dir: str,
    *,
    cache: str,
    beam_arguments: list[str] | None = None,
) -> Any:
    """Builds a dataset under `data_dir`; returns its builder.

    Args:
      config: which songs.
      data_dir: where datasets lie.
      cache: folder of single songs, or "".
      beam_arguments: options of the Beam runner, as on its command line; None builds without Beam,
        which needs the extra `beam`.
    """
    beam, known = beam_arguments is not None, AcestepSongs.builder_configs
    builder = AcestepSongs(
        config=config.name if config.name in known else config,
        data_dir=data_dir,
        file_format="array_record",
        cache=cache,
        beam=beam,
    )
    download = tfds.download.DownloadConfig()
    if beam:
        from apache_beam.options import pipeline_options

        download.beam_options = pipeline_options.PipelineOptions(beam_arguments)
    builder.download_and_prepare(download_config=download)
    return builder


def main() -> None:
    """Runs the command line; options it does not know are those of the Beam runner."""
    parser = argparse.ArgumentParser(description="Builds the project's own data with tfds.")
    add = parser.add_argument
    kinds = sorted(config.kind for config in AcestepSongs.BUILDER_CONFIGS)
    add("--config", choices=kinds, required=True, help="which songs")
    add("--songs", type=int, default=SongsConfig.songs, help="how many at most")
    add("--first_seed", type=int, default=0, help="of rendered songs")
    add("--max_seconds", type=float, default=180.0, help="the middle part taken of recordings")
    add("--cache", default="data/audio/tfds", help="folder of single songs; '' for none")
    add("--data_dir", default="data/tfds", help="where datasets lie")
    add("--beam", action="store_true", help="generate through Apache Beam")
    arguments, beam_arguments = parser.parse_known_args()
    if beam_arguments and not arguments.beam:
        parser.error(f"{' '.join(beam_arguments)}: unknown, unless --beam is given")
    changes = {name: getattr(arguments, name) for name in ("songs", "first_seed", "max_seconds")}
    builder = build(
        make_config(arguments.config, **changes),
        arguments.data_dir,
        cache=arguments.cache,
        beam_arguments=beam_arguments if arguments.beam else None,
    )
    print(f"{builder.info.full_name} in {builder.data_dir}:", flush=True)
    for split, info in sorted(builder.info.splits.items()):
        print(f"  {split}: {info.num_examples} songs, {info.num_bytes / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
