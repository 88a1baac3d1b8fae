"""Preparing: killed and resumed, by several processes, bounded in memory, bad input by rule."""

import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import tracemalloc

import jax
import numpy as np
import pytest
import soundfile

from acestep_jax.data import (
    audio,
    encode,
    manifest,
    prepare,
    progress,
    shards,
    skips,
    sources,
)
from acestep_jax.data import labels as labels_lib
from acestep_jax.nn.config import Qwen3Config
from acestep_jax.nn.qwen3 import Qwen3
from acestep_jax.tasks import prompt, tokens
from tests import tiny

# Imported by this file, and run by itself: its workers import it again. The encoder takes the mean
# of each frame, waits a little, and says who ran it.
PROGRAM = """
import functools, os, pathlib, sys, time
import numpy as np
from acestep_jax.data import encode, manifest, prepare, skips

def frame_means(samples, delay=0.0, pids=None):
    if pids:
        pathlib.Path(pids, str(os.getpid())).touch()
    time.sleep(delay)
    frames = samples.reshape(len(samples), -1, 1920, 2)
    mean = np.tile(frames.mean(axis=2), (1, 1, 4))
    return mean, np.full_like(mean, 0.5)

def make_encoders(delay=0.0, pids=None):
    return encode.Encoders(functools.partial(frame_means, delay=delay, pids=pids))

if __name__ == "__main__":
    source, out, pids = sys.argv[1:]
    make = functools.partial(make_encoders, 0.3, pids)
    prepare.prepare(manifest.read_source(source), pathlib.Path(out), make, workers=2)
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "program.py"
    path.write_text(PROGRAM)
    spec = importlib.util.spec_from_file_location("program", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tone(seconds, hz=300, rate=8_000):
    return 0.4 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)


def write_table(folder, rows):
    """Writes a tone for every row that has no file yet, and the table; one split for all."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, row in enumerate(rows):
        row |= {"captions": "x", "split": "train"} | row
        row.setdefault("audio", f"{row['name']}.wav")
        if not (folder / row["audio"]).exists():
            soundfile.write(folder / row["audio"], tone(2.0, 3 + i), 8_000)
    table = folder / "songs.jsonl"
    table.write_text("\n".join(json.dumps(row) for row in rows))
    return str(table)


def run(program, source, out, choices=None, workers=0, **rules):
    return prepare.prepare(
        manifest.read_source(source),
        out,
        program.make_encoders,
        choices or prepare.Choices(),
        skipped=skips.SkipList(**rules),
        workers=workers,
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    with open(f"/proc/{pid}/stat") as file:  # ended, but nobody has asked how
        return file.read().rsplit(")", 1)[1].split()[0] == "Z"


def test_a_run_killed_with_sigkill_goes_on_without_losing_or_redoing_a_song(program, tmp_path):
    source = write_table(tmp_path / "in", [{"name": f"s{i}"} for i in range(6)])
    out, records, pids = tmp_path / "out", tmp_path / "out" / "records", tmp_path / "pids"
    pids.mkdir()
    command = [sys.executable, program.__file__, source, str(out), str(pids)]
    paths = os.pathsep.join([str(pathlib.Path(__file__).parents[2]), *sys.path])
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}) as process:
        deadline = time.monotonic() + 120
        while len(list(records.glob("*.record"))) < 2 and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    before = {path.name: path.stat().st_mtime_ns for path in records.glob("*.record")}
    assert 2 <= len(before) < 6
    assert not list(out.glob("*.arrayrecord"))
    workers = [int(path.name) for path in pids.iterdir() if int(path.name) != process.pid]
    assert len(workers) == 2
    deadline = time.monotonic() + 60
    while not all(map(gone, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert all(map(gone, workers))  # none goes on in secret

    before = {path.name: path.stat().st_mtime_ns for path in records.glob("*.record")}
    assert run(program, source, out).good == 6
    after = {path.name: path.stat().st_mtime_ns for path in records.glob("*.record")}
    assert before.items() <= after.items()  # what was done is as it was
    run(program, source, tmp_path / "straight")
    assert contents(out) == contents(tmp_path / "straight")
    names = [r.labels.name for r in sources.Songs([out], "train").all_records()]
    assert names == [f"s{i}" for i in range(6)]


def test_bad_songs_and_stems_are_named_in_a_file_beside_the_shards(program, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    soundfile.write(folder / "silent.wav", np.zeros(16_000), 8_000)
    soundfile.write(folder / "one_sample.wav", tone(1 / 8_000) + 0.1, 8_000)
    soundfile.write(folder / "long.wav", tone(9.0), 8_000)
    holed = tone(2.0)
    holed[4_000] = np.nan
    soundfile.write(folder / "holed.wav", holed, 8_000, subtype="FLOAT")
    noise = np.random.default_rng(0).uniform(-1, 1, 16_000)  # no silence that codes to nothing
    soundfile.write(folder / "cut.flac", noise, 8_000)
    (folder / "cut.flac").write_bytes((folder / "cut.flac").read_bytes()[:9_000])
    soundfile.write(folder / "short.wav", tone(1.5), 8_000)
    rows = [
        {"name": "good"},
        {"name": "silent"},
        {"name": "one_sample"},
        {"name": "long"},
        {"name": "holed"},
        {"name": "cut", "audio": "cut.flac"},
        {"name": "stems", "stems": {"bass": "good.wav", "drums": "gone.wav"}},
        {"name": "stems2", "stems": {"bass": "short.wav"}},
        {"name": "typed", "bpm": "fast"},
        {"name": "late", "lines": [{"text": "x", "start": 5, "end": 6}]},
    ]
    source = write_table(folder, rows)
    choices = prepare.Choices(longest=8.0, bad_stem="stem")
    for attempt in range(2):  # the second finds the records, and what was left out of them
        skipped = run(program, source, tmp_path / "out", choices, max_share=0.9)
        assert (attempt, skipped.good) == (attempt, 3)
    report = {
        row["name"]: row
        for row in map(json.loads, (tmp_path / "out" / "skipped.jsonl").read_text().splitlines())
    }
    expected = {
        "silent": "is silent",
        "one_sample": "lasts 6 samples",
        "long": "lasts 9 s, more than the 8 s allowed",
        "holed": "not finite, first at 0.500 s",
        "cut": "truncated|unreadable",
        "typed": "bpm is 'fast'",
        "late": "line 'x' at 5-6 s is outside the song",
        "stems/drums": "unreadable",
        "stems2/bass": "lasts 1.50 s, the song 2.00 s",
    }
    assert set(report) == set(expected)
    for name, reason in expected.items():
        assert any(part in report[name]["reason"] for part in reason.split("|")), report[name]
        assert report[name]["left_out"] == ("part" if "/" in name else "song")
    records = list(sources.Songs([tmp_path / "out"], "train").all_records())
    assert [(r.labels.name, list(r.stems)) for r in records] == [
        ("good", []),
        ("stems", ["bass"]),
        ("stems2", []),
    ]

    with pytest.raises(skips.TooManyBadFiles, match="silent: songs.jsonl:2: is silent. Repair"):
        run(program, source, tmp_path / "strict", on_bad="error")
    assert len((tmp_path / "strict" / "skipped.jsonl").read_text().splitlines()) == 1
    with pytest.raises(skips.TooManyBadFiles, match=r"9 of 10 files are bad"):
        run(program, source, tmp_path / "whole", prepare.Choices(longest=8.0), max_share=0.8)


def test_sound_that_is_read_in_blocks_equals_sound_that_is_read_at_once(tmp_path):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "a.flac", rng.uniform(-0.9, 0.9, (44_100 * 21 + 5, 2)), 44_100)
    whole = audio.read_audio(tmp_path / "a.flac")
    stream = audio.AudioStream(tmp_path / "a.flac")
    np.testing.assert_array_equal(np.concatenate(list(stream)), whole)
    assert stream.samples == len(whole)
    content = audio.AudioStream((tmp_path / "a.flac").read_bytes())
    np.testing.assert_array_equal(np.concatenate(list(content)), whole)


def test_memory_does_not_grow_with_the_length_of_a_song(program):
    block = np.random.default_rng(0).uniform(-1, 1, (480_000, 2)).astype(np.float32)
    tracemalloc.start()
    mean, _ = encode.encode_blocks(program.frame_means, (block for _ in range(60)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(mean) == 60 * 250
    assert peak < 60e6  # measured 37 MB; ten minutes of samples are 230 MB


def test_codes_in_a_record_are_those_of_the_tokenizer_over_the_whole_song(monkeypatch):
    networks, params = tiny.networks(), tiny.params()["tokenizer"]
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((33, 4)).astype(np.float16)
    silence = rng.standard_normal((1, 7, 4)).astype(np.float32)
    apply = jax.jit(networks.tokenizer.apply)
    _, expected = apply({"params": params}, latents[None].astype(np.float32), silence)
    monkeypatch.setattr(encode, "_TOKENIZED_FRAMES", 20)
    codes = encode.make_code_encoder(tiny.CONFIG, params, silence)(latents)
    np.testing.assert_array_equal(codes, expected[0])
    assert codes.dtype == np.int32


def test_states_in_a_record_are_those_of_the_prompts_of_the_whole_song():
    config = Qwen3Config(
        vocab_size=4_096,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
    )
    qwen3 = Qwen3(config)
    shapes = jax.eval_shape(qwen3.init, jax.random.key(0), np.zeros((1, 2), np.int32))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), shapes)
    folder = str(sources.EMBEDDED.parent / "text_encoder")
    labels = labels_lib.SongLabels(
        name="a",
        group="a",
        split="train",
        seconds=9.5,
        captions=("calm", "slow piano music"),
        bpm=90,
        language="en",
        lines=(labels_lib.Line("la la", 0.0, 1.0),),
    )
    states = encode.make_text_encoder(qwen3, params, folder)(labels)
    tokenizer = tokens.load_tokenizer(folder)
    lyric_ids = tokenizer.encode(prompt.lyric_prompt("la la", "en")).ids
    expected = params["embed_tokens"][lyric_ids].astype(np.float16)
    np.testing.assert_array_equal(states["lyrics"], expected)
    assert states["lyric_mask"].all()
    text = prompt.caption_prompt("slow piano music", bpm=90, duration=9.5)
    ids = np.array(tokenizer.encode(text).ids)
    hidden = jax.jit(qwen3.apply)({"params": params}, ids[None])[0]
    assert states["text_mask"].sum(axis=1).tolist()[1] == len(ids) == states["text"].shape[1]
    np.testing.assert_allclose(states["text"][1], hidden, atol=2e-3)  # float16
    assert states["text_mask"][0].sum() < len(ids)
    record = shards.Record(labels, np.zeros((237, 4), np.float16), states=states)
    assert shards.record_problems(record) == ["all frames are alike: the song is silent"]


def test_records_of_another_tokenizer_are_refused(program, tmp_path):
    source = write_table(tmp_path / "in", [{"name": "a"}])

    def make_encoders(code):
        encoders = program.make_encoders()
        codes = lambda latents: np.full(-(-len(latents) // 5), code, np.int32)  # noqa: E731
        return dataclasses.replace(encoders, codes=codes, codebook=9)

    songs, out = manifest.read_source(source), tmp_path / "out"
    prepare.prepare(songs, out, functools.partial(make_encoders, 3))
    assert shards.read_table(out)["codebook"] == 9
    (record,) = sources.Songs([out], "train").all_records()
    assert record.codes.tolist() == [3] * 10
    with pytest.raises(ValueError, match="made by another tokenizer"):
        prepare.prepare(songs, out, functools.partial(make_encoders, 4))
    with pytest.raises(ValueError, match="made by another tokenizer"):
        prepare.prepare(songs, out, program.make_encoders)


def test_progress_tells_speed_and_time_left_of_what_was_really_done(capsys):
    clock = iter([0.0, *np.arange(1.0, 100.0, 5.0)])
    done = progress.Progress(4, "prepared", every=6.0, clock=lambda: float(next(clock)))
    done.advance(30.0, found=True)
    for _ in range(3):
        done.advance(30.0)
    lines = capsys.readouterr().out.splitlines()
    assert "prepared 4 of 4 songs (1 were there), 90 s of audio at" in lines[-1]
    assert "left" not in lines[-1]
    assert all(" left" in line for line in lines[:-1])


def test_two_songs_with_the_same_fault_and_name_are_both_counted():
    skipped = skips.SkipList(max_share=1.0)
    for _ in range(3):
        skipped.skip("a", "twice")
    assert list(skipped.reasons) == ["a", "a (2)", "a (3)"]
    with pytest.raises(ValueError, match="on_bad is 'ignore'"):
        skips.SkipList(on_bad="ignore")
