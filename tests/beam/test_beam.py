"""The project's own dataset through Apache Beam's local runner equals the one made without it."""

import numpy as np
import pytest
import soundfile

from acestep_jax.data import encode, makers, manifest, prepare, tfds_songs
from acestep_jax.data import labels as labels_lib

pytestmark = [pytest.mark.beam, pytest.mark.filterwarnings("ignore")]  # Beam's own warnings
SONGS = 6


def fill_cache(folder, config):
    """Puts a tone where each song would be rendered, with labels in its true split."""
    for i, maker in enumerate(makers.list_makers(config, str(folder))):
        path = folder / "folk" / f"{maker.name}.json"
        labels = labels_lib.SongLabels(
            name=maker.name,
            group=maker.name,
            split=maker.split,
            seconds=2.0,
            captions=("calm",),
            words=(labels_lib.Word("la", 0.5, 1.0, 0),),
            lines=(labels_lib.Line("la", 0.5, 1.0),),
        )
        labels_lib.save_labels(path, labels)
        wave = 0.4 * np.sin((1 + i) * np.arange(16_000) / 100)
        soundfile.write(path.with_suffix(".flac"), wave, 8_000)


def frame_means(samples):
    frames = samples.reshape(len(samples), -1, 1920, 2)
    mean = np.tile(frames.mean(axis=2), (1, 1, 4))
    return mean, np.full_like(mean, 0.5)


@pytest.mark.parametrize("mode", ["in_memory", "multi_processing"])
def test_a_dataset_generated_by_beam_gives_the_same_shards_as_one_without(tmp_path, mode):
    config, cache = tfds_songs.make_config("folk", songs=SONGS), tmp_path / "cache"
    fill_cache(cache, config)
    options = ["--direct_num_workers=2", f"--direct_running_mode={mode}"]
    shards = []
    for name, arguments in (("plain", None), ("beam", options)):
        builder = tfds_songs.build(
            config, str(tmp_path / name), cache=str(cache), beam_arguments=arguments
        )
        songs = manifest.read_source(f"tfds:{builder.data_dir}")
        assert len(songs) == SONGS
        out = tmp_path / f"{name}_shards"
        prepare.prepare(songs, out, lambda: encode.Encoders(frame_means))
        shards.append({path.name: path.read_bytes() for path in out.glob("*.*") if path.is_file()})
    assert len(shards[0]) >= 3
    assert shards[0] == shards[1]


def test_a_song_that_beam_renders_is_the_song_of_its_seed(tmp_path):
    config = tfds_songs.make_config("folk", songs=1, first_seed=2)
    (maker,) = makers.list_makers(config, "")
    ((name, expected),) = maker.examples()
    builder = tfds_songs.build(config, str(tmp_path), cache="", beam_arguments=[])
    ((song),) = manifest.read_source(f"tfds:{builder.data_dir}")
    assert song.name == name
    assert song.audio == expected["audio"]
