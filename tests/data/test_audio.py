"""Reading audio: what is accepted, what is refused, and the catalogue of recordings."""

import pathlib
import re

import numpy as np
import pytest
import soundfile

from acestep_jax.data import audio, fetch, labels, skips


def _tone(seconds, rate=48_000, channels=2):
    time = np.arange(int(seconds * rate)) / rate
    wave = 0.5 * np.sin(2 * np.pi * 440 * time)
    return np.repeat(wave[:, None], channels, axis=1).astype(np.float32)


def test_flac_comes_back_as_it_was_written(tmp_path):
    wave = _tone(0.5)
    audio.write_flac(tmp_path / "a.flac", wave)
    np.testing.assert_allclose(audio.read_audio(tmp_path / "a.flac"), wave, atol=2**-15)
    assert [path.name for path in tmp_path.iterdir()] == ["a.flac"]


@pytest.mark.parametrize(("rate", "channels"), [(44_100, 2), (22_050, 1), (48_000, 4)])
def test_any_rate_and_channels_become_48_khz_stereo(tmp_path, rate, channels):
    soundfile.write(tmp_path / "a.wav", _tone(1.0, rate, channels), rate)
    wave = audio.read_audio(tmp_path / "a.wav")
    assert wave.shape == (48_000, 2)
    assert wave.dtype == np.float32
    middle = slice(10_000, 38_000)  # the resampler's edges aside
    np.testing.assert_allclose(wave[middle], _tone(1.0)[middle], atol=2e-3)


def test_the_middle_of_a_long_file_is_taken(tmp_path):
    wave = np.concatenate([_tone(1.0) * 0.1, _tone(1.0), _tone(1.0) * 0.1])
    audio.write_flac(tmp_path / "a.flac", wave)
    middle = audio.read_audio(tmp_path / "a.flac", max_seconds=1.0)
    np.testing.assert_allclose(middle, _tone(1.0), atol=2**-14)


def _write_truncated(path):
    audio.write_flac(path, np.random.default_rng(0).uniform(-1, 1, (48_000, 2)).astype(np.float32))
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: path.write_bytes(b"this is no audio"), "unreadable"),
        (lambda path: path.write_bytes(b""), "unreadable"),
        (_write_truncated, "unreadable|holds no samples"),
        (lambda path: audio.write_flac(path, np.zeros((48_000, 2), np.float32)), "is silent"),
        (lambda path: audio.write_flac(path, _tone(1 / 48_000) + 0.1), "lasts 1 samples"),
        (lambda path: None, "unreadable"),
    ],
)
def test_unusable_files_are_refused_with_their_reason(tmp_path, write, reason):
    write(tmp_path / "a.flac")
    with pytest.raises(audio.BadAudio, match=reason):
        audio.read_audio(tmp_path / "a.flac", min_seconds=0.5)


def test_samples_that_are_not_finite_are_refused(tmp_path):
    wave = _tone(0.1)
    wave[7, 1] = np.nan
    with pytest.raises(audio.BadAudio, match="not finite"):
        audio.check_audio(wave)


def test_skipped_files_are_named_and_too_many_are_an_error(capsys):
    skipped = skips.SkipList(max_share=0.1, good=30)
    skipped.skip("three.flac", audio.BadAudio("is silent"))
    skipped.finish()
    assert "1 of 31 files skipped: three.flac: is silent" in capsys.readouterr().out
    for name in "abcd":
        skipped.skip(name, audio.BadAudio("unreadable"))
    with pytest.raises(skips.TooManyBadFiles, match=r"5 of 35 files are bad.*three\.flac.*d: unr"):
        skipped.finish()


def test_every_recording_has_an_explicit_licence_an_artist_and_a_unique_name():
    recordings = fetch.load_catalogue()
    assert len({recording.name for recording in recordings}) == len(recordings) > 50
    for recording in recordings:
        assert re.fullmatch(r"CC-BY(-SA)?-3\.0|MIT|public-domain", recording.licence)
        assert recording.artist
        assert recording.title
        assert recording.voice in ("instrumental", "unknown")


def test_recordings_are_decoded_with_labels_stems_and_a_manifest(tmp_path):
    songs = tmp_path / "package" / "songs"
    songs.mkdir(parents=True)
    soundfile.write(songs / "song.ogg", _tone(11.0, 44_100), 44_100)
    soundfile.write(songs / "guitar.ogg", 0.5 * _tone(11.0, 44_100), 44_100)
    recording = fetch.Recording(
        package="package",
        path="songs/song.ogg",
        licence="MIT",
        artist="A. Player",
        title="A Song",
        voice="instrumental",
        caption="rock",
    )
    folder = tmp_path / "audio"
    fetch.fetch_recording(recording, tmp_path / "package", folder, 180.0)
    fetch.write_manifest(folder, [recording])
    known = labels.load_labels(folder / f"{recording.name}.json")
    mix = audio.read_audio(folder / f"{recording.name}.flac")
    guitar = audio.read_audio(folder / known.stems["guitar"])
    assert known.licence == "MIT"
    assert known.seconds == pytest.approx(11.0)
    assert np.abs(mix).max() < 0.96  # the sum of both files would reach 0.75
    assert np.abs(guitar).max() == pytest.approx(0.25, abs=0.02)  # Vorbis is lossy
    row = f"{recording.name}.flac,MIT,A. Player,A Song,package,songs/song.ogg"
    assert (folder / "MANIFEST.csv").read_text().splitlines()[1] == row


def test_without_package_tools_the_reason_and_a_way_on_are_given(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(fetch.NoPackageTools, match=r"apt-get and dpkg not found.*our own songs"):
        fetch.download_packages(["blobwars-data"], tmp_path)


def test_labels_survive_writing_and_say_what_contradicts_itself(tmp_path):
    known = labels.SongLabels(
        name="a",
        group="a",
        split="train",
        seconds=4.0,
        captions=("calm",),
        lines=(labels.Line("[verse]", 0.0, 4.0), labels.Line("さくら", 1.0, 2.0)),
        words=(labels.Word("さくら", 1.0, 2.0, 1),),
        chords=((0.0, "Am"),),
        stems={"vocals": "v.flac"},
    )
    labels.save_labels(tmp_path / "a.json", known)
    assert labels.load_labels(tmp_path / "a.json") == known
    with pytest.raises(ValueError, match=r"outside the song.*kazoo"):
        labels.SongLabels(
            name="b",
            group="b",
            split="train",
            seconds=4.0,
            captions=("calm",),
            lines=known.lines,
            words=(labels.Word("late", 3.0, 5.0, 1),),
            stems={"kazoo": "k.flac"},
        )


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"{}", b"[1, 2", b'{"captions": 3}'])
def test_labels_that_are_not_labels_are_named(tmp_path: pathlib.Path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json"):
        labels.load_labels(tmp_path / "a.json")


def test_the_labels_of_a_beginning_speak_of_that_alone():
    known = labels.SongLabels(
        name="a",
        group="a",
        split="train",
        seconds=9.0,
        captions=("calm",),
        lines=(labels.Line("[verse]", 0.0, 9.0), labels.Line("la lu", 1.0, 6.0)),
        words=(labels.Word("la", 1.0, 2.0, 1), labels.Word("lu", 4.0, 6.0, 1)),
        chords=((0.0, "C"), (4.0, "G"), (8.0, "C")),
    )
    cut = labels.first_seconds(known, 5.0)
    assert (cut.seconds, [word.text for word in cut.words]) == (5.0, ["la"])
    assert [line.end for line in cut.lines] == [5.0, 5.0]
    assert cut.chords == known.chords[:2]
    assert labels.first_seconds(known, 9.0) == known
