"""Rows that must not be trained on: named, counted, replaced always alike, and never too many."""

import importlib
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from acestep_jax.data import labels as labels_lib
from acestep_jax.data import ledger, loader, shards, sources
from acestep_jax.training import config as config_lib

CHANNELS, FRAMES, SONGS, ROWS = 3, 20, 20, 5
SILENCE = -np.ones((1, 16, CHANNELS), np.float32)


def _record(number):
    latents = np.full((FRAMES, CHANNELS), number, np.float16)
    latents[:, 1] = np.arange(FRAMES)
    labels = labels_lib.SongLabels(
        name=f"song{number}",
        group=f"song{number}",
        split="train",
        seconds=FRAMES / 25,
        captions=("words",),
        instrumental=True,
    )
    return shards.Record(labels, latents)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Twenty songs in four files; channel 0 tells the song."""
    folder = tmp_path_factory.mktemp("whole")
    records = {"train": [_record(i) for i in range(SONGS)]}
    shards.write_shards(folder, records, SILENCE, {}, records_per_shard=ROWS)
    return folder


def _changed(row, **arrays):
    return safetensors.numpy.save(safetensors.numpy.load(row) | arrays)


def _with_rows(whole, folder, rows):
    """Copies the folder with other bytes in some rows, {song: bytes}."""
    module = importlib.import_module("array_record.python.array_record_module")
    shutil.copytree(whole, folder)
    for number, path in enumerate(shards.shard_files(folder, "train")):
        writer = module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        for song in range(number * ROWS, (number + 1) * ROWS):
            writer.write(rows.get(song, shards.encode_record(_record(song))))
        writer.close()
    return folder


def _open(folder, **fields):
    data = config_lib.Data(
        shards=str(folder), batch_size=10, num_frames=FRAMES, timbre_frames=8, **fields
    )
    return loader.make_batches(data, seed=1)


def _songs(batches, count):
    return np.stack([next(batches).latents[:, 0, 0] for _ in range(count)]).astype(int)


@pytest.fixture(scope="module")
def spoiled(whole, tmp_path_factory):
    """Five bad songs of all kinds: no numbers, silence, half a row, no row at all, other frames."""
    good = {song: shards.encode_record(_record(song)) for song in (2, 6, 7, 11, 19)}
    nan = _record(2).latents.copy()
    nan[4, 1] = np.nan
    rows = {
        2: _changed(good[2], latents=nan),
        6: _changed(good[6], latents=np.zeros((FRAMES, CHANNELS), np.float16)),
        7: good[7][: len(good[7]) // 2],
        11: b"nothing of ours",
        19: _changed(good[19], latents=_record(19).latents[:-1]),
    }
    return _with_rows(whole, tmp_path_factory.mktemp("out") / "spoiled", rows)


def test_bad_songs_are_named_counted_and_replaced(whole, spoiled, caplog):
    expected = _songs(_open(whole), 4)  # two epochs
    batches = _open(spoiled, max_bad_share=0.3)
    with caplog.at_level("ERROR"):
        found = _songs(batches, 4)
    bad = np.isin(expected, (2, 6, 7, 11, 19))
    assert bad.sum() == 10
    np.testing.assert_array_equal(found[~bad], expected[~bad])  # nothing else is touched
    assert not np.isin(found, (2, 6, 7, 11, 19)).any()
    assert batches.ledger.summary()["data/bad_songs"] == 5
    lines = [record.getMessage() for record in caplog.records if "Skipped" in record.getMessage()]
    assert len(lines) == 5  # once each, though every one was met twice
    for place, reason in (
        ("train-00000-of-00004.arrayrecord[2]", "song2: latents is not finite, first in frame 4"),
        ("train-00001-of-00004.arrayrecord[1]", "song6: all frames are alike"),
        ("train-00001-of-00004.arrayrecord[2]", "not a record of schema"),
        ("train-00002-of-00004.arrayrecord[1]", "not a record of schema"),
        ("train-00003-of-00004.arrayrecord[4]", "song19: 19 frames"),
    ):
        assert any(place in line and reason in line for line in lines), (place, lines)


def test_the_songs_in_their_place_are_the_same_wherever_reading_starts(spoiled):
    expected = _songs(_open(spoiled, max_bad_share=0.3), 6)
    batches = _open(spoiled, max_bad_share=0.3, num_threads=2)
    batches.set_state(batches.get_state() | {"position": 3})
    np.testing.assert_array_equal(_songs(batches, 3), expected[3:])
    batches.close()


@pytest.mark.parametrize(("share", "allowed"), [(0.0, 0), (0.1, 2), (0.2, 4)])
def test_more_bad_songs_than_allowed_stop_the_run(spoiled, share, allowed):
    batches = _open(spoiled, max_bad_share=share)
    message = f"{allowed + 1} of 20 songs cannot be trained on, more than data.max_bad_share="
    with pytest.raises(ledger.TooManyBadSongs, match=message):
        _songs(batches, 4)


def test_damaged_bytes_are_noticed(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "flipped")
    path = shards.shard_files(folder, "train")[1]
    content = bytearray(path.read_bytes())
    row = content.find(_record(8).latents.tobytes())  # rows are stored as they are
    assert row > 0
    content[row + 50] ^= 1  # one bit of one latent, finite still
    path.write_bytes(bytes(content))
    songs = sources.Songs([folder], "train")
    with pytest.raises(shards.BadRecord, match="cannot be read .*hash mismatch"):
        songs.record(8)
    assert songs.record(7).labels.name == "song7"


def test_a_file_cut_short_costs_its_own_songs_and_moves_no_other(whole, tmp_path, caplog):
    folder = shutil.copytree(whole, tmp_path / "cut")
    path = shards.shard_files(folder, "train")[2]
    path.write_bytes(path.read_bytes()[:-1000])
    with caplog.at_level("ERROR"):
        batches = _open(folder, max_bad_share=0.25)
    assert f"{path.name}: the file cannot be opened" in caplog.text
    assert "its 5 songs are left out" in caplog.text
    expected, found = _songs(_open(whole), 4), _songs(batches, 4)
    lost = (expected >= 10) & (expected < 15)
    np.testing.assert_array_equal(found[~lost], expected[~lost])
    assert not ((found >= 10) & (found < 15)).any()
    with pytest.raises(ledger.TooManyBadSongs, match="data.max_bad_share=0.2 allows"):
        _open(folder, max_bad_share=0.2)


def test_a_folder_that_lacks_listed_songs_is_refused(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "lacking")
    shards.shard_files(folder, "train")[1].unlink()
    with pytest.raises(ValueError, match="holds 15 songs of split 'train', its dataset.json lists"):
        _open(folder)


def test_songs_that_changed_since_the_position_was_saved_are_spoken_of(
    whole, spoiled, tmp_path, caplog
):
    state = _open(whole).get_state()
    _open(spoiled).set_state(state)  # the same songs, though some are bad
    assert "other batches" not in caplog.text
    records = {"train": [_record(i) for i in range(SONGS + 1)]}
    shards.write_shards(tmp_path, records, SILENCE, {})
    _open(tmp_path).set_state(state)
    assert "other batches than it would have seen" in caplog.text


def test_records_without_what_should_be_prepared_are_bad(whole):
    with pytest.raises(ledger.TooManyBadSongs, match=r"song\d+: has no text states; prepare it"):
        next(_open(whole, precomputed=("states",)))
    with pytest.raises(ledger.TooManyBadSongs, match=r"song\d+: has no codes"):
        next(_open(whole, precomputed=("codes",)))


def test_tasks_that_no_song_allows_are_refused_with_a_way_on(whole):
    with pytest.raises(ledger.TooManyBadSongs, match="tasks on stems need a folder of songs"):
        next(_open(whole, tasks=(("lego", 1.0),)))


def test_a_batch_is_a_tree_of_arrays_alone(whole):
    batch = next(_open(whole))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(batch))
    assert len(jax.tree.leaves(batch)) == 11
