"""What can be prepared: folders, tables, datasets; every bad row is named with its reason."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from acestep_jax.data import labels as labels_lib
from acestep_jax.data import makers, manifest, tfds_songs, validate


def write_tone(path, seconds=2.0, rate=8_000):
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * rate)) / rate
    soundfile.write(path, 0.4 * np.sin(2 * np.pi * 300 * time), rate)


def read(source, **options):
    """Songs by name, and reasons of the bad ones by name."""
    rows = manifest.read_source(str(source), **options)
    songs = {row.name: row for row in rows if isinstance(row, manifest.Song)}
    return songs, {row.name: row.reason for row in rows if isinstance(row, manifest.BadRow)}


def test_a_folder_of_plain_audio_takes_captions_and_lyrics_from_files_of_the_same_name(tmp_path):
    for name in ("a.wav", "sub/b.ogg", "sub/stems/c.wav"):
        write_tone(tmp_path / name)
    (tmp_path / "a.txt").write_text("slow piano,\ncalm\n\nanother caption\n")
    (tmp_path / "a.lrc").write_text("[00:00.50]la la", encoding="utf-8-sig")
    (tmp_path / "sub" / "b.txt").write_text("guitar")
    (tmp_path / "sub" / "b.lyrics.txt").write_text("la lu")
    songs, bad = read(tmp_path, recursive=True)
    assert (set(songs), bad) == ({"a", "sub_b"}, {})
    labels = songs["a"].labels(2.0)
    assert labels.captions == ("slow piano, calm", "another caption")
    assert labels.lines == (labels_lib.Line("la la", 0.5, 2.0),)
    assert (labels.timed, songs["sub_b"].labels(2.0).timed) == (True, False)
    assert labels.split == labels_lib.split_of("a")
    assert set(read(tmp_path)[0]) == {"a"}  # not recursive


def test_a_folder_says_what_its_files_lack(tmp_path):
    for name in ("no_caption.wav", "latin.wav", "latin2.wav", "twice.wav", "twice.flac"):
        write_tone(tmp_path / name)
    for name in ("latin", "latin2"):
        (tmp_path / f"{name}.txt").write_text("calm")
    (tmp_path / "latin.lrc").write_bytes("[00:01.00]caf\u00e9".encode("latin-1"))
    (tmp_path / "latin2.txt").write_bytes(b"caf\xe9")
    (tmp_path / "twice.json").write_text('{"captions": "x"}')
    (tmp_path / "none.json").write_text('{"captions": "x"}')
    (tmp_path / "list.json").write_text("[1]")
    songs, bad = read(tmp_path)
    assert not songs
    assert "no no_caption.txt with its caption" in bad["no_caption"]
    assert bad["latin"] == "lyrics_file: latin.lrc is not UTF-8 (byte 0xe9 at 13); convert it"
    assert "latin2.txt is not UTF-8 (byte 0xe9 at 3)" in bad["latin2"]
    assert "2 audio files beside twice.json" in bad["twice"]
    assert "0 audio files beside none.json" in bad["none"]
    assert "is no JSON object" in bad["list"]


def test_csv_and_json_lines_say_the_same(tmp_path):
    write_tone(tmp_path / "mix.wav")
    write_tone(tmp_path / "v.wav")
    (tmp_path / "songs.csv").write_text(
        "audio,name,captions,bpm,timesignature,language,lyrics,stems.vocals,seconds,words,lines\n"
        'mix.wav,one,"calm, slow",90,3,en,,v.wav,2.0,"[{""text"": ""la"", ""start"": 0.5, '
        '""end"": 1.0, ""line"": 0}]","[{""text"": ""la"", ""start"": 0.5, ""end"": 1.0}]"\n'
    )
    row = {
        "audio": "mix.wav",
        "name": "one",
        "captions": ["calm, slow"],
        "bpm": 90,
        "timesignature": 3,
        "language": "en",
        "stems": {"vocals": "v.wav"},
        "seconds": 2.0,
        "words": [{"text": "la", "start": 0.5, "end": 1.0, "line": 0}],
        "lines": [{"text": "la", "start": 0.5, "end": 1.0}],
    }
    (tmp_path / "songs.jsonl").write_text(json.dumps(row) + "\n\n")
    (table,), (lines,) = (
        read(tmp_path / name)[0].values() for name in ("songs.csv", "songs.jsonl")
    )
    assert table.labels(2.0) == lines.labels(2.0)
    assert table.stems == lines.stems == {"vocals": tmp_path / "v.wav"}
    before = table.digest()
    assert before == lines.digest()
    os.utime(tmp_path / "v.wav", (0, 0))
    assert table.digest() == lines.digest() != before


BAD_LINES = {
    '{"audio": "mix.wav", "captions": "x", "bmp": 3}': r"unknown column 'bmp' .did you mean 'bpm'",
    '{"audio": "mix.wav", "captions": "x", "bpm": "fast"}': r"bpm is 'fast', must be a number",
    '{"audio": "mix.wav", "captions": "x", "bpm": 90.5}': r"bpm is 90.5, must be a whole number",
    '{"audio": "mix.wav", "captions": ["x", 3]}': r"captions is \['x', 3\], must be a text or",
    '{"audio": "mix.wav"}': r"captions is missing",
    '{"captions": "x"}': r"audio is missing",
    '{"audio": 7, "captions": "x"}': r"audio: 7 is no path",
    '{"audio": "gone.wav", "captions": "x"}': r"there is no file gone.wav",
    '{"audio": "../mix.wav", "captions": "x"}': r"'../mix.wav' leads out of",
    '{"audio": "/etc/passwd", "captions": "x"}': r"'/etc/passwd' leads out of",
    '{"audio": "mix.wav", "captions": "x", "name": "../up"}': r"name '../up' is no file name",
    '{"audio": "mix.wav", "captions": "x", "lyrics_file": "../l.txt"}': r"lyrics_file: .*leads out",
    '{"audio": "mix.wav", "captions": "x", "stems": {"bass": "../b.wav"}}': r"bass: .*leads out",
    '{"audio": "mix.wav", "captions": "x", "stems": 3}': r"stems is 3, must be an object",
    '{"audio": "mix.wav", "captions": "x", "words": [{"text": 1}]}': r"words is .*list of objects",
    '{"audio": "mix.wav", "captions": "x", "lyrics": "a", "lines": [{"text": "a", "start": 0, '
    '"end": 1}]}': r"lyrics and lines are all given; give one",
    '{"audio": "mix.wav", "captions": "x", "instrumental": "yes"}': r"must be true or false",
    '{"audio": "mix.wav", "captions": "x"': r"is not JSON",
    "[1, 2]": r"is no JSON object",
}


@pytest.mark.parametrize(("line", "reason"), BAD_LINES.items())
def test_a_bad_line_is_named_with_its_reason_and_the_good_ones_stay(tmp_path, line, reason):
    write_tone(tmp_path / "in" / "mix.wav")
    write_tone(tmp_path / "mix.wav")
    good = '{"audio": "mix.wav", "captions": "x", "name": "good"}'
    (tmp_path / "in" / "songs.jsonl").write_text(f"{good}\n{line}\n")
    songs = manifest.read_source(str(tmp_path / "in" / "songs.jsonl"))
    assert [song.where for song in songs] == ["songs.jsonl:1", "songs.jsonl:2"]
    assert songs[0].name == "good"
    assert isinstance(songs[1], manifest.BadRow)
    assert re.search(reason, songs[1].reason), songs[1].reason


def test_rows_that_are_not_utf_8_short_or_doubled_are_named(tmp_path):
    write_tone(tmp_path / "a.wav")
    content = b"audio,captions,title\na.wav,calm,x\na.wav,caf\xe9,x\na.wav,calm\na.wav,again,\n"
    (tmp_path / "s.csv").write_bytes(content)
    _, *rows = manifest.read_source(str(tmp_path / "s.csv"))
    assert [(row.where, row.reason.split(";")[0]) for row in rows] == [
        ("s.csv:3", "captions is not UTF-8"),
        ("s.csv:4", "has 2 cells, the header 3"),
        ("s.csv:5", "name 'a' was used before, by s.csv:2"),
    ]
    (tmp_path / "t.csv").write_text("audio,captoins\na.wav,x\n")
    with pytest.raises(ValueError, match="unknown column 'captoins' .did you mean 'captions'"):
        manifest.read_source(str(tmp_path / "t.csv"))


def test_paths_may_leave_the_folder_of_the_table_for_a_root_that_is_named(tmp_path):
    write_tone(tmp_path / "audio" / "a.wav")
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables" / "s.jsonl"
    table.write_text('{"audio": "../audio/a.wav", "captions": "x"}')
    assert "leads out of" in read(table)[1]["s.jsonl:1"]
    assert set(read(table, root=str(tmp_path))[0]) == {"a"}


def test_labels_of_wrong_types_and_ranges_are_refused_together():
    with pytest.raises(ValueError) as caught:
        labels_lib.SongLabels(
            name="a/b",
            group="g",
            split="train",
            seconds=4.0,
            captions=("",),
            bpm=900,
            keyscale="H dur",
            timesignature="5",
            language="klingon",
            lines=(labels_lib.Line("x", 3.0, float("nan")),),
            chords=((9.0, "C"),),
        )
    for part in ("no file name", "caption is empty", "30 to 300", "H dur", "'5'", "klingon"):
        assert part in str(caught.value)
    assert "line 'x' at 3.0-nan s" in str(caught.value)
    assert "chord 'C' at 9.0 s" in str(caught.value)


def test_the_validator_names_bad_rows_and_counts_them(tmp_path):
    write_tone(tmp_path / "good.wav")
    rows = [
        {"audio": "good.wav", "captions": "x"},
        {"audio": "good.wav", "captions": "x", "name": "b", "bpm": 1},
        {"audio": "good.wav", "captions": "x", "name": "c", "seconds": 7},
        {"audio": "good.wav", "captions": "x", "name": "d", "stems": {"bass": "gone.wav"}},
        {"audio": "noise.wav", "captions": "x", "name": "e"},
    ]
    (tmp_path / "noise.wav").write_bytes(b"no audio")
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = [sys.executable, "-m", "acestep_jax.data.validate", str(tmp_path / "s.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("s.jsonl:2: b: labels of 'b': bpm is 1, must be a whole number")
    assert lines[1] == "s.jsonl:3: c: lasts 2.00 s, its labels say 7.00 s"
    assert lines[2].startswith("s.jsonl:4: d: stem bass: unreadable")
    assert lines[3].startswith("s.jsonl:5: e: unreadable")
    assert lines[4].endswith("s.jsonl: 5 rows checked, 4 bad")


def test_decoding_finds_what_headers_hide(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 8_000)
    (tmp_path / "a.txt").write_text("silence")
    assert list(validate.validate_songs(str(tmp_path))) == [""]
    assert list(validate.validate_songs(str(tmp_path), decode=True)) == ["a.wav: a: is silent"]


def test_a_tempo_that_librosa_does_not_hear_is_doubted(tmp_path):
    clicks = np.zeros(12 * 8_000)
    for beat in range(24):  # 120 a minute
        decay = np.exp(-np.arange(400) / 60)
        clicks[beat * 4_000 :][:400] += np.random.default_rng(beat).uniform(-0.5, 0.5, 400) * decay
    soundfile.write(tmp_path / "mix.wav", clicks, 8_000)
    rows = [
        {"audio": "mix.wav", "captions": "x", "name": f"at {bpm}", "bpm": bpm}
        for bpm in (120, 60, 97)
    ]
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (line,) = validate.doubtful_tempos(str(tmp_path / "s.jsonl"))
    assert re.fullmatch(r"s.jsonl:3: at 97: bpm is 97, librosa hears 1[12]\d", line)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folk configuration of two songs, whose cache was filled with tones: nothing renders."""
    folder = tmp_path_factory.mktemp("tfds")
    config = tfds_songs.make_config("folk", songs=2)
    for i, maker in enumerate(makers.list_makers(config, str(folder / "cache"))):
        path = folder / "cache" / "folk" / f"{maker.name}.json"
        write_tone(path.with_suffix(".flac"))
        write_tone(path.parent / "stems" / "v.flac")
        labels = labels_lib.SongLabels(
            name=maker.name,
            group=maker.name,
            split=maker.split,
            seconds=2.0,
            captions=("calm", "slow caf\u00e9"),
            bpm=(None, 90)[i],
            keyscale=(None, "C major")[i],
            language="en",
            lines=(labels_lib.Line("[verse]", 0, 2.0), labels_lib.Line("la", 0.1234, 1.9))[: 2 * i],
            words=(labels_lib.Word("la", 0.1234, 0.7, 1),)[:i],
            chords=((0.0, "C"), (1.3, "F"))[: 2 * i],
            stems={"vocals": "stems/v.flac"} if i else {},
        )
        labels_lib.save_labels(path, labels)
    builder = tfds_songs.build(config, str(folder / "data"), cache=str(folder / "cache"))
    return folder, builder


def test_a_tensorflow_dataset_gives_back_the_songs_it_was_built_of(built):
    folder, builder = built
    songs = manifest.read_source(f"tfds:{builder.data_dir}")
    assert len(songs) == 2
    for song in songs:
        source = folder / "cache" / "folk" / f"{song.name}.json"
        expected = labels_lib.load_labels(source)
        found = song.labels(2.0)
        assert labels_lib.with_stems(found, {}) == labels_lib.with_stems(expected, {})
        assert set(found.stems) == set(expected.stems)
        assert song.audio == source.with_suffix(".flac").read_bytes()
    assert [isinstance(x.stems.get("vocals"), bytes) for x in songs].count(True) == 1


def test_a_dataset_that_was_not_built_is_missed_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="acestep_songs/sung has not been built"):
        manifest.read_source("tfds:acestep_songs/sung", data_dir=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no tensorflow dataset"):
        manifest.read_source("tfds:no_such_dataset", data_dir=str(tmp_path))


def test_songs_of_the_sung_configuration_are_sung_and_their_groups_undivided():
    config = tfds_songs.make_config("sung", songs=12)
    sung = makers.list_makers(config, "")
    everything = makers.list_makers(tfds_songs.make_config("folk", songs=12), "")
    assert 0 < len(sung) < 12
    assert {maker.name for maker in sung} < {maker.name for maker in everything}
    assert config.name == "sung_songs12"
    assert all(maker.make.keywords["with_stems"] for maker in sung)
