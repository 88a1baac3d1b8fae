"""The command that scores a song: its parts, its LRC, or one clear line."""

import json

import numpy as np
import pytest
import soundfile

from acestep_jax import generate, score
from tests import tiny_pipeline

LYRICS = "[verse]\nrow row your boat\ngently down"


def tiny(*_, **__):
    return tiny_pipeline.pipe()


@pytest.fixture
def song(tmp_path):
    path = tmp_path / "song.flac"
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (10 * 48_000 + 3000, 2))
    soundfile.write(path, samples, 48_000)
    (tmp_path / "words.txt").write_text(LYRICS)
    (tmp_path / "heads.json").write_text(json.dumps({"0": [1], "1": [0, 2]}))
    return path


def test_a_song_is_scored_and_its_lines_are_written(song, capsys):
    folder = song.parent
    options = ["--heads", str(folder / "heads.json"), "--lyrics_file", str(folder / "words.txt")]
    lrc = folder / "out.lrc"
    assert score.main([str(song), *options, "--draws", "1", "--lrc", str(lrc)], load=tiny) == 0
    printed = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines()[:5])
    assert list(printed) == [
        "score",
        "coverage",
        "monotonicity",
        "confidence",
        "conditions_score",
    ]
    assert all(0 <= float(value) <= 1 for value in printed.values())
    lines = lrc.read_text().splitlines()
    assert [line.split("]", 1)[1] for line in lines] == LYRICS.splitlines()
    assert lines[0].startswith("[00:0")


def test_what_is_missing_is_said_in_one_line(song, capsys):
    assert score.main([str(song)], load=tiny) == 2
    assert "name a --lyrics_file" in capsys.readouterr().err
    words = ["--lyrics_file", str(song.parent / "words.txt")]
    assert score.main([str(song), *words, "--model", str(song.parent)], load=tiny) == 2
    assert "alignment_heads.json is missing" in capsys.readouterr().err
    assert score.main([str(song.parent / "none.flac"), *words], load=tiny) == 2
    assert "there is no sound file" in capsys.readouterr().err


def test_the_best_of_two_takes_is_the_one_that_scores_higher(song, capsys, monkeypatch):
    heads = score.alignment.read_heads(song.parent / "heads.json")
    monkeypatch.setattr(generate.alignment, "open_ear", lambda pipe, *_, **__: (pipe, heads))
    out = song.parent / "best.flac"
    words = ["--lyrics_file", str(song.parent / "words.txt"), "--duration", "10", "--seed", "4"]
    fast = ["--steps", "1", "--score_draws", "1", "--best_of", "2", "--out", str(out)]
    assert generate.main([*words, *fast], load=tiny) == 0
    takes = capsys.readouterr().out.splitlines()[:2]
    marks = {int(line.split()[3][:-1]): float(line.split()[5]) for line in takes}
    with soundfile.SoundFile(out) as file:
        made = json.loads(file.comment)["request"]
    assert sorted(marks) == [4, 5] and made["seed"] == max(marks, key=marks.get)
    assert [line.endswith("*") for line in takes] == [made["seed"] == 4, made["seed"] == 5]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--best_of", "0"], "one take or more"),
        (["--best_of", "2", "--score", "loud"], "use aas, pmi"),
        (["--best_of", "2", "--instrumental"], "choose a song without them by pmi"),
        (["--best_of", "2", "--score", "pmi", "--model", "nowhere"], "no planner in"),
    ],
)
def test_takes_that_cannot_be_chosen_among_are_refused(
    arguments, said, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(generate.think.weights, "resolve", lambda _: tmp_path / "nowhere")
    assert generate.main(["--out", str(tmp_path / "a.flac"), *arguments], load=tiny) == 2
    assert said in capsys.readouterr().err
