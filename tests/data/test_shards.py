"""Preparing songs and keeping them: records, shards, the validator, resuming, bad songs."""

import dataclasses
import functools
import os
import pathlib

import jax
import numpy as np
import pytest

from acestep_jax import units
from acestep_jax.data import audio, encode, make, manifest, prepare, shards, skips, sources
from acestep_jax.data import labels as labels_lib
from acestep_jax.nn.config import VAEConfig
from acestep_jax.nn.vae import VAE

CHANNELS = 8
DEFAULT = prepare.Choices()
SILENCE_WINDOWS = 4


def make_labels(name="song", seconds=8.0, **changes):
    known = labels_lib.SongLabels(
        name=name,
        group=name,
        split="train",
        seconds=seconds,
        captions=("calm piano",),
        bpm=90,
        instrumental=True,
        licence="own work",
        source="tune, pop rock",
    )
    return dataclasses.replace(known, **changes)


def make_record(name="song", frames=200, seed=0, **changes):
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((frames, CHANNELS)).astype(np.float16)
    known = make_labels(name, frames / units.FRAME_RATE, **changes)
    stems = {track: latents + np.float16(1) for track in known.stems}
    return shards.Record(known, latents, None, stems)


def fake_encoder(samples):
    """Stands for an autoencoder in tests of plumbing: frame means of the samples as latents."""
    frames = samples.reshape(len(samples), -1, units.SAMPLES_PER_FRAME, 2)
    mean = np.tile(frames.mean(axis=2), (1, 1, CHANNELS // 2))
    return mean, np.full_like(mean, 0.5)


def prepare_folder(folder, out, encoder=fake_encoder, choices=DEFAULT, **rules):
    songs = manifest.read_source(str(folder))
    make_encoders = functools.partial(encode.Encoders, encoder)
    return prepare.prepare(songs, out, make_encoders, choices, skipped=skips.SkipList(**rules))


def write_songs(folder: pathlib.Path, names, seconds=4.0):
    for i, name in enumerate(names):
        time = np.arange(int(seconds * 48_000)) / 48_000
        wave = 0.4 * np.sin(2 * np.pi * (3 + i) * time)
        audio.write_flac(folder / f"{name}.flac", np.stack([wave, -wave], 1).astype(np.float32))
        split = "validation" if i == 1 else "train"
        known = make_labels(name, seconds, split=split)
        labels_lib.save_labels(folder / f"{name}.json", known)


def test_records_survive_encoding_to_equal_bytes():
    record = make_record(stems={"vocals": "v.flac", "drums": "d.flac"})
    buffer = shards.encode_record(record)
    assert buffer == shards.encode_record(record)
    decoded = shards.decode_record(buffer)
    assert decoded.labels == record.labels
    np.testing.assert_array_equal(decoded.latents, record.latents)
    np.testing.assert_array_equal(decoded.stems["drums"], record.stems["drums"])


def test_codes_and_text_states_survive_and_are_checked():
    record = make_record(captions=("calm piano", "slow"))
    rng = np.random.default_rng(0)
    states = {
        "text": rng.standard_normal((2, 5, 4)).astype(np.float16),
        "text_mask": np.arange(5) < [[3], [5]],
        "lyrics": rng.standard_normal((7, 4)).astype(np.float16),
        "lyric_mask": np.ones(7, bool),
    }
    codes = rng.integers(0, 1000, 40).astype(np.int32)
    full = dataclasses.replace(record, codes=codes, states=states)
    decoded = shards.decode_record(shards.encode_record(full))
    np.testing.assert_array_equal(decoded.codes, codes)
    assert set(decoded.states) == set(states)
    for name, state in states.items():
        np.testing.assert_array_equal(decoded.states[name], state)

    def problems(**changes):
        return "; ".join(shards.record_problems(dataclasses.replace(full, **changes)))

    assert problems() == ""
    assert "need int32[40]" in problems(codes=codes[1:])
    assert "codes reach from -1 to" in problems(codes=codes - 1 - codes.min())
    (problem,) = shards.record_problems(full, codebook=int(codes.max()))
    assert f"to {codes.max()}, of {codes.max()} from 0 on" in problem
    assert "need all of" in problems(states={"text": states["text"]})
    assert "unlike lyrics" in problems(states=states | {"lyric_mask": np.ones(6, bool)})
    nan = np.full_like(states["lyrics"], np.nan)
    assert "states.lyrics is not finite" in problems(states=states | {"lyrics": nan})
    one_row = {name: states[name][:1] for name in ("text", "text_mask")}
    assert "1 rows for 2 captions" in problems(states=states | one_row)


def test_nan_and_wrong_shapes_are_refused_by_name():
    record = make_record()
    latents = record.latents.copy()
    latents[17, 3] = np.nan
    with pytest.raises(shards.BadRecord, match="song: latents is not finite, first in frame 17"):
        shards.encode_record(dataclasses.replace(record, latents=latents))
    stems = {"drums": record.latents[:-1]}
    with pytest.raises(shards.BadRecord, match=r"stems.drums is \[199, 8\], unlike the mix"):
        shards.encode_record(dataclasses.replace(record, stems=stems))
    with pytest.raises(shards.BadRecord, match="needs float16"):
        shards.encode_record(dataclasses.replace(record, latents=latents.astype(np.float32)))
    with pytest.raises(shards.BadRecord, match=r"150 frames for 8\.00 s"):
        shards.encode_record(dataclasses.replace(record, latents=record.latents[:150]))
    with pytest.raises(shards.BadRecord, match="the song is silent"):
        shards.encode_record(dataclasses.replace(record, latents=np.ones_like(latents)))
    with pytest.raises(shards.BadRecord, match="not a record"):
        shards.decode_record(b"damaged")


def test_the_validator_names_every_bad_row(tmp_path):
    records = [make_record(f"song{i}", seed=i) for i in range(4)]
    silence = np.zeros((1, 16, CHANNELS), np.float32)
    shards.write_shards(tmp_path, {"train": records}, silence, {}, records_per_shard=3)
    assert list(shards.validate(tmp_path)) == []
    bad = make_record("stranger", split="test")
    rows = [shards.encode_record(records[3]), b"damaged", shards.encode_record(bad)]
    shards._write_array_record(tmp_path / "train-00001-of-00002.arrayrecord", rows)
    (tmp_path / "train-00000-of-00002.arrayrecord").write_bytes(b"x" * 100)
    problems = "\n".join(shards.validate(tmp_path))
    assert "train-00000-of-00002.arrayrecord: cannot be read" in problems
    assert "train-00001-of-00002.arrayrecord[1]: not a record" in problems
    assert "arrayrecord[2]: stranger: belongs to split test" in problems
    assert "split train: 3 songs, dataset.json says 4" in problems
    assert "arrayrecord[0]" not in problems


def test_the_encoder_sees_no_farther_than_the_context_of_a_window():
    config = VAEConfig(
        encoder_hidden_size=2,
        decoder_input_channels=4,
        channel_multiples=(1, 1, 1, 1, 1),
    )
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 40 * 1920, 2)).astype(np.float32)
    samples[1, : 34 * 1920] = samples[0, 6 * 1920 :]  # the same sound, six frames later
    vae = VAE(config)
    init = functools.partial(vae.init, method="encode")
    shapes = jax.eval_shape(init, jax.random.key(0), samples[:1])["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: rng.uniform(0.2, 1, x.shape).astype(np.float32), shapes)
    mean, _ = encode.make_latent_encoder(config, params)(samples)
    context = encode.CONTEXT
    np.testing.assert_allclose(
        mean[0, context + 6 : 40 - context],
        mean[1, context : 34 - context],
        atol=1e-6,  # float32, the same sums
    )
    assert np.abs(mean[0, 6:8] - mean[1, 0:2]).max() > 1e-3  # at the edge they do differ


@pytest.mark.parametrize("num_frames", [301, 80, 50])
def test_a_song_encoded_by_windows_equals_the_song_encoded_whole(num_frames):
    kernel = np.random.default_rng(1).standard_normal(2 * encode.CONTEXT + 1)

    def encode_filtered(samples):
        mean, std = fake_encoder(samples)
        filtered = [np.convolve(channel, kernel, "same") for channel in mean[0].T]
        return np.stack(filtered, axis=1)[None], std

    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (num_frames * 1920 + 7, 2))
    mean, std = encode.encode_song(encode_filtered, samples, window=80)
    padded = np.zeros((max(num_frames, 80) * 1920, 2), np.float32)
    padded[: num_frames * 1920] = samples[: num_frames * 1920]
    whole, _ = encode_filtered(padded[None])
    assert len(std) == num_frames
    np.testing.assert_allclose(mean, whole[0, :num_frames], atol=1e-6)  # sums in another order


@pytest.mark.parametrize("num_frames", [1, 255, 256, 257, 480, 481, 900])
@pytest.mark.parametrize("block", [1_000_000, 77_777])
def test_windows_cover_every_frame_once_and_keep_their_context(num_frames, block):
    index = np.repeat(np.arange(1, num_frames + 1, dtype=np.float32), 1920)
    stream = np.stack([index, -index], axis=1)  # every sample knows its frame
    blocks = (stream[i : i + block] for i in range(0, len(stream), block))
    covered = []
    for samples, low, high in encode.cut_windows(blocks):
        assert samples.shape == (encode.WINDOW * 1920, 2)
        frames = samples[::1920, 0].astype(int)
        assert frames[low:high].all()
        assert low >= encode.CONTEXT or frames[0] == 1
        assert encode.WINDOW - high >= encode.CONTEXT or frames[high - 1] == num_frames
        covered += frames[low:high].tolist()
    assert covered == list(range(1, num_frames + 1))


def test_preparing_resumes_and_gives_the_same_bytes(tmp_path):
    songs = tmp_path / "songs"
    write_songs(songs, ["a", "b", "c"])
    calls = []

    def killed_encoder(samples):
        calls.append(1)
        if len(calls) == SILENCE_WINDOWS + 3:  # in the third song
            raise KeyboardInterrupt
        return fake_encoder(samples)

    with pytest.raises(KeyboardInterrupt):
        prepare_folder(songs, tmp_path / "resumed", killed_encoder)
    calls.clear()
    prepare_folder(songs, tmp_path / "resumed", lambda x: calls.append(1) or fake_encoder(x))
    prepare_folder(songs, tmp_path / "straight", fake_encoder)
    assert len(calls) == 1 + SILENCE_WINDOWS  # the two songs already done were not encoded again
    names = sorted(path.name for path in (tmp_path / "straight").glob("*.*"))
    assert "validation-00000-of-00001.arrayrecord" in names
    for name in names:
        first, again = (tmp_path / folder / name for folder in ("resumed", "straight"))
        assert first.read_bytes() == again.read_bytes()
    assert list(shards.validate(tmp_path / "resumed")) == []


def test_records_of_other_choices_or_another_autoencoder_are_refused(tmp_path):
    write_songs(tmp_path / "songs", ["a", "b"])
    arguments = (tmp_path / "songs", tmp_path / "out")
    prepare_folder(*arguments, fake_encoder, prepare.Choices(max_seconds=3.0))
    with pytest.raises(ValueError, match=r"'max_seconds': '3.0'.*not.*'inf'.*delete it"):
        prepare_folder(*arguments, fake_encoder)

    def other_encoder(samples):
        mean, std = fake_encoder(samples)
        return mean + 1, std

    with pytest.raises(ValueError, match="made by another autoencoder"):
        prepare_folder(*arguments, other_encoder, prepare.Choices(max_seconds=3.0))
    records = sources.Songs([tmp_path / "out"], "train").all_records()
    assert [len(record.latents) for record in records] == [75]


def test_a_song_that_changed_is_encoded_again(tmp_path):
    songs = tmp_path / "songs"
    write_songs(songs, ["a", "b"])
    prepare_folder(songs, tmp_path / "out")
    records = tmp_path / "out" / "records"
    before = {path.name.split(".")[0]: path.name for path in records.glob("*.record")}
    os.utime(songs / "a.flac", (0, 0))  # as if the song had been rendered anew
    calls = []
    prepare_folder(songs, tmp_path / "out", lambda x: calls.append(1) or fake_encoder(x))
    after = {path.name.split(".")[0]: path.name for path in records.glob("*.record")}
    assert len(calls) == SILENCE_WINDOWS + 1
    assert after["a"] != before["a"]
    assert after["b"] == before["b"]


def test_bad_songs_are_skipped_and_named_and_too_many_stop_the_run(tmp_path, capsys):
    songs = tmp_path / "songs"
    write_songs(songs, [f"good{i}" for i in range(8)])
    (songs / "good3.flac").write_bytes(b"corrupt")
    (songs / "good5.json").write_bytes(b"\xff")
    skipped = prepare_folder(songs, tmp_path / "out", max_share=0.25)
    assert set(skipped.reasons) == {"good3", "good5"}
    assert skipped.good == 6
    assert "skipped good3: good3.json: unreadable" in capsys.readouterr().out
    for name in ("good0", "good1"):
        audio.write_flac(songs / f"{name}.flac", np.zeros((48_000 * 4, 2), np.float32))
    with pytest.raises(
        skips.TooManyBadFiles, match=r"4 of 8 files are bad.*good0: good0.json: is silent"
    ):
        prepare_folder(songs, tmp_path / "again", max_share=0.25)
    assert not list((tmp_path / "again").glob("*.arrayrecord"))


def test_audio_that_is_longer_than_its_labels_say_is_refused(tmp_path):
    write_songs(tmp_path, ["a"])
    known = labels_lib.load_labels(tmp_path / "a.json")
    labels_lib.save_labels(tmp_path / "a.json", dataclasses.replace(known, seconds=3.0))
    (song,) = manifest.read_source(str(tmp_path))
    with pytest.raises(audio.BadAudio, match=r"lasts 4\.00 s, its labels say 3\.00 s"):
        prepare.prepare_song(song, encode.Encoders(fake_encoder))


def test_songs_are_embedded_from_every_style_without_the_test_split(tmp_path, monkeypatch):
    songs = tmp_path / "own"
    write_songs(songs, [f"song{i:02d}" for i in range(12)], seconds=2.0)
    for i, path in enumerate(sorted(songs.glob("*.json"))):
        known = labels_lib.load_labels(path)
        split = labels_lib.SPLITS[i // 4]
        changed = dataclasses.replace(known, split=split, source=f"tune, style{i % 2}")
        if i == 2:
            changed = labels_lib.with_stems(changed, {"drums": f"{path.stem}.flac"})
        labels_lib.save_labels(path, changed)
    monkeypatch.setattr(make, "EMBEDDED_SONGS", {"train": 3, "validation": 8})
    make.embed_songs(songs, tmp_path / "out", encode.Encoders(fake_encoder))
    train = list(sources.Songs([tmp_path / "out"], "train").all_records())
    assert [record.labels.name for record in train] == ["song02", "song00", "song01"]
    assert [list(record.stems) for record in train] == [["drums"], [], []]
    assert len(sources.Songs([tmp_path / "out"], "validation")) == 4
    assert not list((tmp_path / "out").glob("test-*"))
    assert list(shards.validate(tmp_path / "out")) == []


def test_the_embedded_shards_are_valid_small_and_our_own_work():
    files = list(sources.EMBEDDED.iterdir())
    assert sum(path.stat().st_size for path in files) < 8e6
    assert list(shards.validate(sources.EMBEDDED)) == []
    groups = {}
    for split in ("train", "validation"):
        songs = sources.Songs([sources.EMBEDDED], split)
        records = list(songs.all_records())
        groups[split] = {record.labels.group for record in records}
        assert {record.labels.licence for record in records} == {"own work"}
        assert any(record.labels.words for record in records)
        assert any(record.stems for record in records)
        assert sum(frames // 128 for frames in songs.frames) >= 32  # clips of 5.12 s
    assert not groups["train"] & groups["validation"]
