"""The command: a song with what made it, or one clear line and nothing on the disk."""

import json

import numpy as np
import pytest
import soundfile

from acestep_jax import generate, songfiles


def refused(capsys, *arguments):
    assert generate.main(list(arguments)) == 2
    return capsys.readouterr().err


def test_a_song_lies_in_its_file_with_what_made_it(tmp_path):
    out = tmp_path / "songs" / "a.flac"
    words = ["--caption", "a waltz", "--instrumental", "--duration", "10", "--seed", "3"]
    fast = ["--steps", "1", "--rule", "none", "--guidance", "1"]
    assert generate.main([*words, *fast, "--out", str(out)]) == 0
    with soundfile.SoundFile(out) as file:
        samples, made = file.read(), json.loads(file.comment)
    assert samples.shape == (480_000, 2)
    np.testing.assert_allclose(np.abs(samples).max(), 10 ** (-1 / 20), atol=1e-4)
    assert made["request"]["caption"] == "a waltz"
    assert made["settings"]["steps"] == 1
    assert [path.name for path in out.parent.iterdir()] == ["a.flac"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "a.aiff"], "use one of .wav, .flac, .ogg, .mp3"),
        (["--out", "a.flac", "--duration", "5"], "from 10 to 600"),
        (["--out", "a.flac", "--task", "cover"], "needs a source"),
        (["--out", "a.flac", "--task", "cover", "--source", "none.wav"], "none.wav"),
        (["--out", "a.flac", "--model", "nowhere/at/all"], "nowhere/at is no folder"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(capsys, arguments, said):
    assert said in refused(capsys, *arguments)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[]", "holds no request"),
        (b"caption: a", "no list of requests"),
        (b"[{", "neither JSON nor YAML"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[{captoin: a}]", "unknown fields ['captoin']"),
        (b"[{out: a.flac}, {out: a.flac}]", "one output file"),
        (b"[{bpm: 1000}]", "bpm is 1000"),
        (b"[{out: ../a.flac}]", "leads out of"),
        (b"[{out: /etc/a.flac}]", "leads out of"),
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
