"""The command: a song with what made it, or one clear line and nothing on the disk."""

import functools
import json

import numpy as np
import pytest
import soundfile

from acestep_jax import generate, songfiles
from acestep_jax.tasks import pipeline
from acestep_jax.tasks.request import Request
from acestep_jax.tasks.settings import Settings


def refused(capsys, *arguments):
    assert generate.main(list(arguments)) == 2
    return capsys.readouterr().err


def test_a_song_lies_in_its_file_with_what_made_it(tmp_path):
    out = tmp_path / "songs" / "a.flac"
    words = ["--caption", "a waltz", "--instrumental", "--duration", "10", "--seed", "3"]
    fast = ["--steps", "1", "--rule", "none", "--guidance", "1"]
    load = functools.cache(pipeline.Pipeline.load)
    assert generate.main([*words, *fast, "--out", str(out)], load=load) == 0
    with soundfile.SoundFile(out) as file:
        samples, made = file.read(), json.loads(file.comment)
    assert samples.shape == (480_000, 2)
    np.testing.assert_allclose(np.abs(samples).max(), 10 ** (-1 / 20), atol=1e-4)
    assert made["request"]["caption"] == "a waltz"
    assert made["settings"]["steps"] == 1
    assert [path.name for path in out.parent.iterdir()] == ["a.flac"]
    again = ["--again", str(out), "--out", str(tmp_path / "b.flac")]
    assert generate.main(again, load=load) == 0
    assert (tmp_path / "b.flac").read_bytes() == out.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "a.aiff"], "use one of .wav, .flac, .ogg, .mp3"),
        (["--out", "a.flac", "--duration", "5"], "from 10 to 600"),
        (["--out", "a.flac", "--task", "cover"], "needs a source"),
        (["--out", "a.flac", "--task", "cover", "--source", "none.wav"], "none.wav"),
        (["--out", "a.flac", "--model", "nowhere/at/all"], "nowhere/at is no folder"),
        (["--out", "a.flac", "--steps", "0"], "steps=0"),
        (["--out", "a.flac", "--requests", "a.yaml", "--bpm", "90"], "write bpm in it"),
        (["--out", "a.flac", "--again", "b.flac", "--seed", "1"], "leave out seed"),
        (["--out", "a.flac", "--again", "pyproject.toml"], "pyproject.toml cannot be read"),
        (["--out", "a.flac", "--lyrics", "la", "--lyrics_file", "b.txt"], "give one"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(capsys, arguments, said):
    assert said in refused(capsys, *arguments)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[]", "holds no request"),
        (b"caption: a", "no list of requests"),
        (b"[{", "neither JSON (Expecting"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[{captoin: a}]", "unknown fields ['captoin']"),
        (b'[{"caption": "a", "caption": "b"}]', "'caption' is given twice"),
        (b"[{caption: a, caption: b}]", "'caption' is given twice"),
        (b"[{out: [a.flac]}]", "name a file"),
        (b"[&a [x], &b [*a, *a], {codes: *b, duration: 10}]", "no list of requests"),
        (b"[{codes: [&a [x, x], &b [*a, *a], [*b, *b]]}]", "is no whole number"),
        (b"[{out: a.flac}, {out: a.flac}]", "one output file"),
        (b"[{bpm: 1000}]", "bpm is 1000"),
        (b"[{out: ../a.flac}]", "leads out of"),
        (b"[{out: /etc/a.flac}]", "leads out of"),
        (b"[{out: a.flac}, {out: " + b"long" * 63 + b".flac}]", "too long a name"),
        (b'[{"out": "a\\u0000.flac"}]', "is no name of a file"),
        (b"[{source: 3, task: cover}]", "by the name of its file, not by a int"),
        (b"[{source: none.wav, task: cover}]", "there is no sound file 'none.wav'"),
    ],
)
def test_a_file_of_requests_that_cannot_be_read_says_why(tmp_path, capsys, content, said):
    path = tmp_path / "requests.yaml"
    path.write_bytes(content)
    out = str(tmp_path / "songs")
    assert said in refused(capsys, "--requests", str(path), "--out", out)
    assert not (tmp_path / "songs").exists()


def test_escaped_characters_of_json_are_read_whole(tmp_path):
    path = tmp_path / "requests.json"
    path.write_text(json.dumps([{"caption": "\U0001f3b7 waltz"}]))  # written as two halves
    assert songfiles.read_requests(path) == [{"caption": "\U0001f3b7 waltz"}]


def test_a_truncated_sound_is_refused_by_name(tmp_path):
    path = tmp_path / "cut.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (48_000, 2)), 48_000)
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(songfiles.BadCall, match=r"cut\.flac: "):
        songfiles.read_sound(str(path))


def test_a_mapping_of_yaml_may_replace_what_it_merges_in(tmp_path):
    path = tmp_path / "requests.yaml"
    path.write_text("[&a {caption: a, seed: 1}, {<<: *a, seed: 2}]")
    assert songfiles.read_requests(path)[1] == {"caption": "a", "seed": 2}


def test_a_sound_far_beyond_full_scale_is_refused_and_a_decoders_overshoot_is_not(tmp_path):
    noise = np.random.default_rng(0).uniform(-1, 1, (4800, 2))
    for name, scale in (("loud.wav", 50), ("over.wav", 1.1)):
        soundfile.write(tmp_path / name, scale * noise, 48_000, subtype="FLOAT")
    with pytest.raises(songfiles.BadCall, match="times full scale; scale it"):
        songfiles.read_sound(str(tmp_path / "loud.wav"))
    assert np.abs(songfiles.read_sound(str(tmp_path / "over.wav"))).max() == 1


@pytest.mark.parametrize("ending", songfiles.FORMATS)
def test_a_long_song_is_written_whole_in_every_format_with_text_of_every_plane(tmp_path, ending):
    rng = np.random.default_rng(0)
    audio = np.zeros((40 * 48_000, 2), np.float32)
    audio[:4800] = rng.integers(-(2**15), 2**15, (4800, 2)) / 2**15
    song = pipeline.Song(audio, np.zeros((1, 64)), Request(), Settings())
    entry = {"lyrics": "".join(chr(plane << 16 | 0xABCD) for plane in range(17)) + "\0\n" * 5000}
    songfiles.write_song(tmp_path / f"a{ending}", song, entry, ["--preset", "nano"])
    made = songfiles.read_made(tmp_path / f"a{ending}")
    assert made["request"] == entry and made["call"] == ["--preset", "nano"]
    samples, _ = soundfile.read(tmp_path / f"a{ending}", dtype="float32")
    assert len(samples) == len(audio)
    if ending in (".wav", ".flac"):  # 16 bits come back as they were
        np.testing.assert_array_equal(samples, audio)


def test_a_disk_that_is_full_is_a_clear_error_and_leaves_nothing(tmp_path, monkeypatch):
    song = pipeline.Song(np.zeros((10, 2)), np.zeros((1, 64)), Request(), Settings())

    def fail(*_):
        raise soundfile.LibsndfileError(2)

    monkeypatch.setattr(soundfile.SoundFile, "write", fail)
    with pytest.raises(songfiles.BadCall, match="cannot be written"):
        songfiles.write_song(tmp_path / "a.flac", song, {})
    assert not list(tmp_path.iterdir())


def test_a_place_where_no_file_can_be_is_refused_at_once(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "in the way" in refused(capsys, "--out", str(tmp_path / "file" / "a.flac"))
    (tmp_path / "a.flac").mkdir()
    assert "cannot be written" in refused(capsys, "--out", str(tmp_path / "a.flac"))


def test_bars_tell_the_stage_and_how_much_is_done(capsys):
    bars = generate.Bars(width=4)
    bars("sample", 0, 2)
    bars("sample", 1, 2)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("sample    [----] 0/2") and second.startswith("sample    [##--] 1/2")
