"""Hostile requests end in a song or in a clear error, and the judge of that can say no."""

import collections
import sys
import time

import numpy as np
import pytest

from experiments.fuzz import __main__ as fuzz
from experiments.fuzz import doors
from tests import tiny_pipeline


@pytest.mark.timeout(900)
def test_fifty_requests_end_in_a_song_or_a_clear_error():
    pipe = tiny_pipeline.pipe()
    endings = collections.Counter(
        doors.run_case(pipe, 0, index, seconds=200).partition(":")[0] for index in range(50)
    )
    assert set(endings) == {"song", "refused"}
    assert endings["song"] >= 2  # measured 3: these networks know four of the tasks


def test_the_last_line_counts_and_the_exit_status_tells(monkeypatch, capsys):
    pipe = tiny_pipeline.pipe()
    monkeypatch.setattr(fuzz.Pipeline, "load", lambda *_: pipe)
    endings = iter(["song", "refused: no", doors.Failure("broken"), ValueError("low >= high")])

    def run_case(*_):
        ending = next(endings)
        if isinstance(ending, Exception):
            raise ending
        return ending

    monkeypatch.setattr(doors, "run_case", run_case)
    assert fuzz.main(["--count", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 passed, 0 failed"
    assert fuzz.main(["--count", "2"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "0 passed, 2 failed"
    assert any("case 1 of seed 0 failed: ValueError: low >= high" in line for line in said)


def test_what_hangs_is_stopped():
    with pytest.raises(doors.Failure, match="hangs"), doors.time_limit(1):
        while True:
            sys.getsizeof(time)


def test_an_error_of_a_library_does_not_pass_for_ours():
    for error in (TypeError("'<' not supported"), ValueError("low >= high"), IndexError("x.")):
        with pytest.raises(type(error)):
            doors._refusal(error)


@pytest.mark.parametrize("status, files", [(2, ["song.flac.partial"]), (0, []), (1, [])])
def test_a_half_written_file_or_a_strange_status_is_a_failure(tmp_path, status, files):
    for name in files:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(doors.Failure):
        doors.check_command(status, tmp_path, "", "BadCall: a message long enough.")


def test_text_of_every_plane_is_drawn():
    text = doors.values.planes(np.random.default_rng(0), 2000)
    assert {ord(character) >> 16 for character in text} == set(range(17))
