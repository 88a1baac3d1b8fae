"""The mixture: shapes, folders and tasks come in their shares, for every way of reading them."""

import collections
import dataclasses
import types

import jax
import numpy as np
import pytest

from acestep_jax.data import labels as labels_lib
from acestep_jax.data import loader, mixture, shards, sources, transforms
from acestep_jax.tasks import edits
from acestep_jax.training import config as config_lib

CHANNELS = 3
BUCKETS = ((16, 8, 8), (32, 12, 4), (64, 16, 4))
TASKS = tuple((task, 1.0 + i) for i, task in enumerate(edits.TASKS))
SILENCE = -np.ones((1, 16, CHANNELS), np.float32)


def _song(number, frames, stems=(), **arrays):
    """Channel 0 of the mix tells the song, channel 1 the frame; stems add 100, 200 ... to it."""
    latents = np.full((frames, CHANNELS), number, np.float16)
    latents[:, 1] = np.arange(frames)
    labels = labels_lib.SongLabels(
        name=f"song{number}",
        group=f"song{number}",
        split="train",
        seconds=frames / 25,
        captions=("first", "second"),
        instrumental=True,
        stems={track: f"{track}.flac" for track in stems},
    )
    tracks = {track: latents + np.float16(100 * (i + 1)) for i, track in enumerate(stems)}
    return shards.Record(labels, latents, None, tracks, **arrays)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders, songs 0..11 and 12..17, of 10 to 200 frames; every third song has stems."""
    places = []
    for first, last in ((0, 12), (12, 18)):
        place = tmp_path_factory.mktemp(f"songs{first}")
        lengths = [10, 16, 17, 32, 40, 64, 65, 130, 200]
        records = [
            _song(i, lengths[i % 9], ("bass", "drums", "vocals") if i % 3 == 0 else ())
            for i in range(first, last)
        ]
        shards.write_shards(place, {"train": records}, SILENCE, {}, records_per_shard=5)
        places.append(place)
    return places


def _open(folders, seed=0, process=(0, 1), **changes):
    data = config_lib.Data(
        shards=",".join(map(str, folders)), buckets=BUCKETS, tasks=TASKS, timbre_frames=20
    )
    data = dataclasses.replace(data, **changes)
    index, count = process
    return loader.make_batches(data, seed=seed, process_index=index, process_count=count)


def _take(batches, count):
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def _join(parts):
    return [jax.tree.map(lambda *x: np.concatenate(x), *batch) for batch in zip(*parts)]


def _same(first, second):
    leaves = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.array_equal(a, b) for a, b in leaves)


def test_a_run_sees_the_same_batches_wherever_it_stops_and_however_many_processes_go_on(folders):
    options = {"shard_weights": (2.0, 1.0)}
    expected = _take(_open(folders, **options), 16)
    assert len({batch.latents.shape for batch in expected}) == 3
    rng = np.random.default_rng(0)
    for before, after in ((1, 2), (2, 4), (4, 1), (2, 1)):
        stop = int(rng.integers(1, 12))
        readers = [_open(folders, process=(i, before), **options) for i in range(before)]
        assert _same(_join([_take(reader, stop) for reader in readers]), expected[:stop])
        state = readers[0].get_state()
        assert all(reader.get_state() == state for reader in readers)
        readers = [_open(folders, process=(i, after), **options) for i in range(after)]
        for reader in readers:
            reader.set_state(state)
        rest = _join([_take(reader, 16 - stop) for reader in readers])
        assert _same(rest, expected[stop:])


def test_worker_processes_go_on_where_none_were_and_the_other_way_round(folders):
    expected = _take(_open(folders, process=(1, 2)), 9)
    reader = _open(folders, process=(1, 2), num_workers=2)
    reader.set_state(reader.get_state() | {"position": 3})
    assert _same(_take(reader, 3), expected[3:6])
    alone = _open(folders, process=(1, 2), num_threads=2)
    alone.set_state(reader.get_state())
    assert _same(_take(alone, 3), expected[6:])


def _of_songs(batch):
    """Numbers of the songs of a batch; stems are told by their hundreds."""
    return np.round(batch.latents[:, 0, 0]).astype(int) % 100


def test_a_song_is_heard_whole_in_the_smallest_bucket_that_holds_it(folders):
    only = {"tasks": (("text2music", 1.0),)}
    frames = sources.Songs(folders, "train").frames
    for batch in _take(_open(folders, **only), 20):
        room = batch.latents.shape[1]
        assert batch.latents.shape[0] == {16: 8, 32: 4, 64: 4}[room]
        assert batch.lyric_tokens.shape[1] == {16: 8, 32: 12, 64: 16}[room]
        for song, mask in zip(_of_songs(batch), batch.frame_mask, strict=True):
            assert mask.sum() == min(frames[song], 64)
            assert room == next((f for f, _, _ in BUCKETS if f >= frames[song]), 64)


def test_every_window_is_heard_equally_often_whatever_its_bucket(folders):
    batches = _open(folders, tasks=(("text2music", 1.0),))
    heard = collections.Counter()
    for batch in _take(batches, 300):
        heard.update(_of_songs(batch).tolist())
    frames = sources.Songs(folders, "train").frames
    windows = np.array([max(1, n // 64) for n in frames])
    rates = np.array([heard[song] for song in range(18)]) / windows
    assert rates == pytest.approx([rates.mean()] * 18, rel=0.1)  # an epoch more or less of ten


def test_the_plan_tells_shares_and_padding():
    songs = types.SimpleNamespace(frames=np.array([8, 16, 30, 100]), folder_of=np.zeros(4, int))
    buckets = [mixture.Bucket(16, 8, 8), mixture.Bucket(40, 8, 2), mixture.Bucket(64, 8, 1)]
    streams = mixture.plan(songs, buckets)
    # windows 2, 1, 1 of 4; examples 1/2, 1/4, 1/4; batches in parts 1/16, 1/8, 1/4
    assert mixture.describe(streams, buckets).split("; ") == [
        "8 x 16 frames: 14.3% of batches, 25% padding",
        "2 x 40 frames: 28.6% of batches, 25% padding",
        "1 x 64 frames: 57.1% of batches, 0% padding",
    ]


def test_folders_are_heard_by_their_weights(folders):
    batches = _open(folders, shard_weights=(1.0, 3.0), tasks=(("text2music", 1.0),))
    songs = np.concatenate([_of_songs(batch) for batch in _take(batches, 300)])
    assert np.mean(songs >= 12) == pytest.approx(0.75, abs=0.02)
    none = _open(folders, shard_weights=(0.0, 1.0), tasks=(("text2music", 1.0),))
    assert all((_of_songs(batch) >= 12).all() for batch in _take(none, 10))
    with pytest.raises(ValueError, match="2 folders and data.shard_weights has 3 numbers"):
        _open(folders, shard_weights=(1.0, 1.0, 1.0))


def test_each_task_shows_the_model_what_it_may_see(folders):
    seen = set()
    for batch in _take(_open(folders), 40):
        for i in range(len(batch.task)):
            item = jax.tree.map(lambda x, i=i: x[i], batch)
            name = edits.TASKS[item.task]
            seen.add(name)
            length = item.frame_mask.sum()
            kind, source = item.latents[:length, 0] // 100, item.source_latents[:length]
            hidden = item.edit_mask[:length] == 1
            assert item.is_cover == (name == "cover")
            assert hidden.all() or name == "repaint"
            assert (kind > 0).all() == (name in ("extract", "lego"))
            if name == "text2music":
                assert (source == -1).all()
            elif name in ("cover", "repaint"):
                expected = np.where(
                    hidden[:, None] & (name == "repaint"), -1, item.latents[:length]
                )
                np.testing.assert_array_equal(source, expected)
            else:  # another track of the same song and the same frames
                assert (source[:, 0] // 100 != kind).all()
                assert (source[:, 0] // 100 > 0).all() == (name in ("lego", "complete"))
                offset = source - item.latents[:length]
                np.testing.assert_array_equal(offset, np.broadcast_to(offset[0, 0], offset.shape))
    assert seen == set(edits.TASKS)


def test_prompts_name_the_task_and_its_tracks(folders):
    tokenizer = transforms.load_tokenizer(loader.NANO_TOKENIZER)
    record = _song(3, 64, ("bass", "drums", "vocals"))
    found = {}
    for seed in range(40):
        spec = transforms.ExampleSpec(num_frames=32, timbre_frames=8, tasks=TASKS)
        rng = np.random.default_rng(seed)
        made = transforms.make_example(record, 0, spec, SILENCE[0], tokenizer, rng)
        text = tokenizer.decode(made["text_tokens"].tolist())
        name = edits.TASKS[made["task"]]
        found[name] = text.partition("# Instruction\n")[2].partition("\n")[0]
        if name in ("extract", "lego"):
            track = ("BASS", "DRUMS", "VOCALS")[int(made["latents"][0, 0] // 100) - 1]
            assert f" {track} track" in found[name]
        if name == "complete":
            given = int(made["source_latents"][0, 0] // 100) - 1
            others = [n for i, n in enumerate(("BASS", "DRUMS", "VOCALS")) if i != given]
            assert found[name] == f"Complete the input track with {' | '.join(others)}:"
    assert found["text2music"].startswith("Fill the audio semantic mask")
    assert found["cover"].startswith("Generate audio semantic tokens")
    assert found["repaint"].startswith("Repaint the mask area")


def test_a_task_that_a_song_cannot_teach_is_drawn_again_among_those_it_can():
    weights = (("text2music", 3.0), ("cover", 1.0), ("extract", 4.0))
    rng = np.random.default_rng(0)
    drawn = [mixture.draw_task((), weights, rng) for _ in range(4000)]
    shares = collections.Counter(task.name for task in drawn)
    assert shares["text2music"] / 4000 == pytest.approx(0.75, abs=0.025)  # 3.5 standard errors
    assert shares["cover"] / 4000 == pytest.approx(0.25, abs=0.025)
    assert np.mean([task.wanted == "extract" for task in drawn]) == pytest.approx(0.5, abs=0.03)
    drawn = [mixture.draw_task(("bass",), weights, rng) for _ in range(4000)]
    assert all(task.name == task.wanted for task in drawn)
    assert mixture.draw_task((), (("extract", 1.0), ("cover", 0.0)), rng) is None


def test_the_share_of_tasks_drawn_again_is_reported(folders, caplog):
    batches = _open(folders)
    with caplog.at_level("WARNING"):
        taken = _take(batches, 250)
    summary = batches.ledger.summary()
    tasks = np.concatenate([batch.task for batch in taken])
    for i, name in enumerate(edits.TASKS):
        assert summary[f"data/{name}"] == np.mean(tasks == i)
    # 15 of 21 weights are the stem tasks'; about two windows in three are of songs without stems
    assert 0.3 < summary["data/redrawn_tasks"] < 0.6
    assert "drawn again as their songs lack the stems" in caplog.text


def test_songs_without_any_task_make_room_for_others(folders):
    batches = _open(folders, tasks=(("extract", 1.0),))
    songs = np.concatenate([_of_songs(batch) for batch in _take(batches, 20)])
    assert set(songs % 3) == {0}
    assert batches.ledger.summary()["data/songs_without_task"] > 0
    assert batches.ledger.summary()["data/bad_songs"] == 0


def test_spans_keep_to_their_share_and_reach_both_ends():
    rng = np.random.default_rng(0)
    spans = np.array([mixture.draw_span(100, (0.2, 0.5), rng) for _ in range(2000)])
    lengths = spans[:, 1] - spans[:, 0]
    assert lengths.min() >= 20 and lengths.max() <= 50
    assert lengths.mean() == pytest.approx(35, abs=0.7)  # 3.5 standard errors
    for share in (np.mean(spans[:, 0] == 0), np.mean(spans[:, 1] == 100)):
        assert share == pytest.approx(1 / 6, abs=0.03)
    assert mixture.draw_span(1, (0.1, 0.9), rng) == (0, 1)


def test_prepared_states_and_codes_reach_the_batch(tmp_path):
    def states(length):
        text = np.arange(2 * 5 * 4).reshape(2, 5, 4).astype(np.float16)
        return {
            "text": text,
            "text_mask": np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool),
            "lyrics": np.full((length, 4), length, np.float16),
            "lyric_mask": np.ones(length, bool),
        }

    codes = np.arange(8, dtype=np.int32)
    records = [_song(i, 40, codes=codes + 10 * i, states=states(6 * (i + 1))) for i in range(4)]
    shards.write_shards(tmp_path, {"train": records}, SILENCE, {})
    options = {"buckets": ((24, 10, 4),), "text_tokens": 4}
    given = {"tasks": (("text2music", 1.0),), "precomputed": ("states",)}
    for batch in _take(_open([tmp_path], **options, **given), 5):
        assert batch.text_states.dtype == np.float16 and batch.codes is None
        for i, song in enumerate(_of_songs(batch)):
            rows = [0, 1, 2] if batch.text_mask[i].sum() == 3 else [5, 6, 7, 9]  # the end is kept
            expected = states(1)["text"].reshape(10, 4)[rows]
            np.testing.assert_array_equal(batch.text_states[i, : len(rows)], expected)
            assert batch.lyric_mask[i].sum() == min(10, 6 * (song + 1))
            assert (batch.lyric_states[i][batch.lyric_mask[i]] == 6 * (song + 1)).all()

    given = {"tasks": (("cover", 1.0), ("text2music", 1.0)), "precomputed": ("codes",)}
    for batch in _take(_open([tmp_path], **options, **given), 5):
        for i, song in enumerate(_of_songs(batch)):
            first = int(batch.latents[i, 0, 1])
            expected = np.arange(first // 5, first // 5 + 5) + 10 * song
            assert first % 5 == 0
            assert batch.codes[i].tolist() == (expected.tolist() if batch.is_cover[i] else [-1] * 5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tasks": (("remix", 1.0),)}, "names 'remix'; the tasks are text2music"),
        ({"tasks": ()}, "not all of them 0"),
        ({"tasks": (("cover", 1.0), ("cover", 2.0))}, "a task twice"),
        ({"tasks": (("cover", -1.0), ("lego", 2.0))}, "weights of 0 or more"),
        ({"shard_weights": (0.0, 0.0)}, "data.shard_weights"),
        ({"buckets": ((32, 8, 4), (16, 8, 4))}, "by rising length"),
        ({"buckets": ((32, 0, 4),)}, "must be positive"),
        ({"repaint_share": (0.5, 0.2)}, "0 < a <= b <= 1"),
        ({"precomputed": ("states",), "tasks": (("cover", 1.0),)}, "text2music prompts"),
        ({"max_bad_share": 1.5}, r"must lie in \[0, 1\]"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        config_lib.Data(**fields)


def test_a_bucket_that_the_processes_cannot_share_is_refused(folders):
    with pytest.raises(ValueError, match="a batch of 4 examples .* by 8 processes"):
        _open(folders, process=(0, 8))
