"""Feeding: the same seed gives the same batches, whoever reads them and however often it stops."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from acestep_jax.data import labels as labels_lib
from acestep_jax.data import loader, shards, sources, transforms, windows
from acestep_jax.training import config as config_lib

CHANNELS = 4
FRAMES = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five songs of different lengths; the latent of frame n of song i is (i, n, n, n) / 1000."""
    out = tmp_path_factory.mktemp("shards")
    records = []
    for i, frames in enumerate((20, 70, 100, 150, 260)):
        latents = np.full((frames, CHANNELS), i / 1000) + np.arange(frames)[:, None] / 1000
        latents[:, 0] = i
        seconds = frames / 25
        known = labels_lib.SongLabels(
            name=f"song{i}",
            group=f"song{i}",
            split="train",
            seconds=seconds,
            captions=(f"caption {i}", f"other words {i}"),
            bpm=80 + i,
            keyscale="A minor",
            timesignature="4",
            language="en",
            lines=(labels_lib.Line("[verse]", 0.0, seconds), labels_lib.Line("la lu", 0.1, 0.8)),
            words=(labels_lib.Word("la", 0.1, 0.4, 1), labels_lib.Word("lu", 0.5, 0.8, 1)),
        )
        records.append(shards.Record(known, latents.astype(np.float16)))
    silence = np.full((1, 16, CHANNELS), -1, np.float32)
    shards.write_shards(out, {"train": records}, silence, {})
    return out


def _config(folder, **changes):
    data = config_lib.Data(shards=str(folder), batch_size=4, num_frames=FRAMES)
    return dataclasses.replace(data, **changes)


def _batches(folder, seed=0, **changes):
    arguments = {k: changes.pop(k) for k in ("process_index", "process_count") if k in changes}
    return loader.make_batches(_config(folder, **changes), seed=seed, timbre_frames=40, **arguments)


def _same(first, second):
    leaves = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.array_equal(a, b) for a, b in leaves)


def _take(batches, count):
    return [next(batches) for _ in range(count)]


def test_a_batch_has_the_shapes_and_types_it_promises(folder):
    batch = next(_batches(folder))
    fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    assert [name for name, value in fields.items() if value is None] == [
        "text_states",
        "lyric_states",
        "codes",
        "lyric_frames",
    ]
    shapes = {name: value.shape for name, value in fields.items() if value is not None}
    assert shapes == {
        "latents": (4, FRAMES, CHANNELS),
        "frame_mask": (4, FRAMES),
        "source_latents": (4, FRAMES, CHANNELS),
        "edit_mask": (4, FRAMES),
        "text_tokens": (4, 96),
        "text_mask": (4, 96),
        "lyric_tokens": (4, 64),
        "lyric_mask": (4, 64),
        "timbre_latents": (4, 40, CHANNELS),
        "is_cover": (4,),
        "task": (4,),
    }
    assert batch.latents.dtype == batch.edit_mask.dtype == np.float32
    assert batch.text_tokens.dtype == np.int32
    assert batch.frame_mask.dtype == batch.is_cover.dtype == bool
    assert (batch.source_latents == -1).all()


def test_word_times_and_a_margin_of_lyrics_change_nothing_else(folder):
    plain, timed = next(_batches(folder)), next(_batches(folder, word_times=True))
    assert timed.lyric_frames.shape == (4, 64, 2) and timed.lyric_frames.dtype == np.int32
    assert timed.lyric_frames.max() > 0  # somebody sings
    assert (timed.lyric_frames[~timed.lyric_mask] == -1).all()
    assert _same([plain], [dataclasses.replace(timed, lyric_frames=None)])
    wide = _take(_batches(folder, word_times=True, lyric_margin=1.0), 4)
    narrow = _take(_batches(folder, word_times=True), 4)
    tokens = [sum(batch.lyric_mask.sum() for batch in batches) for batches in (wide, narrow)]
    assert tokens[0] > tokens[1]


def test_the_same_seed_gives_the_same_batches_and_another_seed_others(folder):
    first, again, other = (_take(_batches(folder, seed), 6) for seed in (1, 1, 2))
    assert _same(first, again)
    assert not _same(first, other)


def test_reading_threads_do_not_change_the_batches(folder):
    assert _same(_take(_batches(folder), 6), _take(_batches(folder, num_threads=2), 6))


def test_reading_resumes_in_the_middle_of_an_epoch(folder):
    batches = _batches(folder)
    # 1 + 2 + 3 + 4 + 8 = 18 windows: 4.5 batches an epoch
    _take(batches, 3)
    state = batches.get_state()
    following = _take(batches, 4)
    resumed = _batches(folder)
    resumed.set_state(state)
    assert _same(following, _take(resumed, 4))
    assert state["position"] == 3
    assert state["plan"]["buckets"] == [[FRAMES, 64, 4]]
    assert json.loads(json.dumps(state)) == state


def test_processes_share_each_batch_between_them_in_order(folder):
    whole = _take(_batches(folder), 4)
    halves = [_take(_batches(folder, process_index=i, process_count=2), 4) for i in range(2)]
    for batch, left, right in zip(whole, *halves, strict=True):
        joined = jax.tree.map(lambda a, b: np.concatenate([a, b]), left, right)
        assert _same(batch, joined)


@pytest.mark.parametrize("largest", [2**14, 0], ids=["small", "large"])
def test_every_window_is_read_once_an_epoch_in_sets_of_either_kind(folder, largest, monkeypatch):
    monkeypatch.setattr(windows.Shuffled, "LARGEST", largest)
    batches = _batches(folder, batch_size=18)
    for _ in range(2):  # every epoch, in another order
        songs = next(batches).latents[:, 0, 0].astype(int)
        assert np.bincount(songs).tolist() == [1, 2, 3, 4, 8]


def test_a_batch_of_another_size_cannot_take_up_the_position(folder):
    batches = _batches(folder, batch_size=2)
    with pytest.raises(ValueError, match=r"\[\[32, 64, 4\]\], this run makes \[\[32, 64, 2\]\]"):
        batches.set_state(_batches(folder, batch_size=4).get_state())
    with pytest.raises(ValueError, match="no position of this loader"):
        batches.set_state({"position": 3})
    with pytest.raises(ValueError, match="cannot be shared by 3 processes"):
        _batches(folder, process_index=0, process_count=3)


def test_missing_shards_are_named_with_a_way_on(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="make data"):
        _batches(tmp_path)
    with pytest.raises(FileNotFoundError, match="no songs of split 'test'"):
        loader.make_batches(_config(folder), seed=0, split="test")


def test_folders_of_different_autoencoders_do_not_mix(folder, tmp_path):
    record = shards.decode_record(shards.encode_record(sources.Songs([folder], "train").record(1)))
    shards.write_shards(tmp_path, {"train": [record]}, np.zeros((1, 16, CHANNELS)), {})
    with pytest.raises(ValueError, match="another autoencoder"):
        _batches(f"{folder},{tmp_path}")


def test_a_short_song_is_filled_up_with_silence(folder):
    record = sources.Songs([folder], "train").record(0)
    silence = np.full((7, CHANNELS), -1, np.float32)
    rng = np.random.default_rng(0)
    clip, mask = transforms.crop(record.latents, record.std, 0, FRAMES, silence, rng)
    assert mask.tolist() == [True] * 20 + [False] * 12
    np.testing.assert_array_equal(clip[:20], record.latents.astype(np.float32))
    assert (clip[20:] == -1).all()


def test_a_clip_is_drawn_from_the_posterior_where_it_is_known(folder):
    record = sources.Songs([folder], "train").record(3)
    known, silence = (record.latents, np.full_like(record.latents, 0.5)), np.zeros((1, CHANNELS))
    clips = [
        transforms.crop(*known, 0, FRAMES, silence, np.random.default_rng(i))[0] for i in range(200)
    ]
    deviation = np.stack(clips) - record.latents[:FRAMES].astype(np.float32)
    assert deviation.std() == pytest.approx(0.5, rel=0.02)  # 25,600 draws: 0.5 %
    assert abs(deviation.mean()) < 0.02


def test_clips_begin_with_a_chord_where_chords_are_known(tmp_path):
    latents = np.arange(200)[:, None] * np.ones(CHANNELS)
    chords = ((0.0, "C"), (1.99, "F"), (4.4, "C"))
    facts = {"split": "train", "seconds": 8.0, "captions": ("words",)}
    records = [
        shards.Record(
            labels_lib.SongLabels(name=name, group=name, chords=sounding, **facts),
            (latents + offset).astype(np.float16),
        )
        for name, sounding, offset in (("chords", chords, 0), ("none", (), 1000))
    ]
    shards.write_shards(tmp_path, {"train": records}, np.zeros((1, 16, CHANNELS), np.float32), {})
    firsts = np.concatenate(
        [b.latents[:, 0, 0] for b in _take(_batches(tmp_path, start_at="chords"), 40)]
    )
    assert set(firsts[firsts < 1000]) == {0, 49, 110}  # the frames in which a chord begins
    assert len(set(firsts[firsts >= 1000])) > 20


def test_the_reference_comes_from_elsewhere_in_the_song(folder):
    record = sources.Songs([folder], "train").record(4)
    tokenizer = transforms.load_tokenizer(loader.NANO_TOKENIZER)
    spec = transforms.ExampleSpec(num_frames=FRAMES, timbre_frames=40, timbre_share=1.0)
    silence = np.full((16, CHANNELS), -1, np.float32)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        example = transforms.make_example(record, 64, spec, silence, tokenizer, rng)
        clip, reference = (example[name][:, 1] for name in ("latents", "timbre_latents"))
        assert (example["timbre_latents"][:, 0] == 4).all()
        assert clip.max() < reference.min() or reference.max() < clip.min()


def _sung():
    return labels_lib.SongLabels(
        name="s",
        group="s",
        split="train",
        seconds=20.0,
        captions=("c",),
        lines=(
            labels_lib.Line("[verse]", 0.0, 9.0),
            labels_lib.Line("row your boat", 1.0, 4.0),
            labels_lib.Line("down the stream", 5.0, 8.0),
            labels_lib.Line("[chorus]", 9.0, 20.0),
            labels_lib.Line("merrily", 10.0, 12.0),
        ),
        words=(
            labels_lib.Word("row", 1.0, 2.0, 1),
            labels_lib.Word("your", 2.0, 3.0, 1),
            labels_lib.Word("boat", 3.0, 4.0, 1),
            labels_lib.Word("down", 5.0, 6.0, 2),
            labels_lib.Word("the", 6.0, 7.0, 2),
            labels_lib.Word("stream", 7.0, 8.0, 2),
            labels_lib.Word("merrily", 10.0, 12.0, 4),
        ),
    )


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0.0, 20.0, "[verse]\nrow your boat\ndown the stream\n[chorus]\nmerrily"),
        (1.9, 6.2, "[verse]\nyour boat\ndown"),
        (7.2, 11.2, "[verse]\nstream\n[chorus]\nmerrily"),
        (8.5, 10.9, "[chorus]"),
        (13.0, 18.0, "[chorus]"),
    ],
)
def test_a_clip_keeps_the_words_that_are_sung_in_it(start, end, expected):
    assert transforms.clip_lyrics(_sung(), start, end) == expected


def test_music_without_words_says_so():
    known = dataclasses.replace(_sung(), lines=(), words=(), instrumental=True)
    assert transforms.clip_lyrics(known, 0.0, 5.0) == "[Instrumental]"
    unknown = dataclasses.replace(_sung(), lines=(), words=())
    assert transforms.clip_lyrics(unknown, 0.0, 5.0) == ""


def test_metadata_is_left_out_as_often_as_asked(folder):
    record = sources.Songs([folder], "train").record(2)
    tokenizer = transforms.load_tokenizer(loader.NANO_TOKENIZER)
    spec = transforms.ExampleSpec(num_frames=FRAMES, metadata_dropout=0.25)
    rng, silence = np.random.default_rng(0), np.zeros((1, CHANNELS), np.float32)
    examples = [
        transforms.make_example(record, 0, spec, silence, tokenizer, rng) for _ in range(400)
    ]
    texts = [tokenizer.decode(example["text_tokens"].tolist()) for example in examples]
    missing = [np.mean([f"{key}: N/A" in text for text in texts]) for key in ("bpm", "keyscale")]
    assert missing == pytest.approx([0.25, 0.25], abs=0.07)  # three standard errors: 0.065
    assert all("duration: 1 seconds" in text for text in texts)


def test_bare_examples_are_told_by_their_metadata_alone(folder):
    record = sources.Songs([folder], "train").record(2)
    tokenizer = transforms.load_tokenizer(loader.NANO_TOKENIZER)
    spec = transforms.ExampleSpec(
        num_frames=FRAMES, bare_share=0.5, timbre_share=1.0, timbre_frames=4
    )
    rng, silence = np.random.default_rng(0), np.zeros((1, CHANNELS), np.float32)
    examples = [
        transforms.make_example(record, 0, spec, silence, tokenizer, rng) for _ in range(200)
    ]
    texts = [tokenizer.decode(example["text_tokens"].tolist()) for example in examples]
    bare = np.array(["# Caption\n\n" in text for text in texts])
    assert bare.mean() == pytest.approx(0.5, abs=0.11)  # three standard errors
    assert sum(f"bpm: {record.labels.bpm}" in text for text in texts) > 150
    for example, empty in zip(examples, bare, strict=True):
        lyrics = tokenizer.decode(example["lyric_tokens"].tolist())
        assert not empty or lyrics == "# Languages\nunknown\n\n# Lyric\n"
        assert empty == (not example["timbre_latents"].any())


def test_synthetic_songs_need_no_files_and_follow_their_captions():
    data = config_lib.Data(shards="synthetic", batch_size=4, num_frames=FRAMES)
    first, again = (next(loader.make_batches(data, seed=3)) for _ in range(2))
    assert _same(first, again)
    source = sources.Synthetic(FRAMES, seed=0)
    alike, other = (source.record(i).latents.astype(np.float32).mean(axis=0) for i in (4, 1))
    mean = source.record(0).latents.astype(np.float32).mean(axis=0)
    assert np.corrcoef(mean, alike)[0, 1] > 0.9 > 0.5 > np.corrcoef(mean, other)[0, 1]


def test_made_up_silence_is_the_same_for_all_and_never_nothing():
    silence = sources.Synthetic(FRAMES, seed=0).silence_latent
    np.testing.assert_array_equal(silence, sources.Synthetic(FRAMES, seed=1).silence_latent)
    assert np.linalg.norm(silence, axis=-1).min() > 1  # norms of zeros have endless gradients
    assert silence.std(axis=1).max() < 0.1
