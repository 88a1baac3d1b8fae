"""Lyrics in time: LRC as the release writes it, and lines and words at their edges."""

import json
import pathlib

import numpy as np
import pytest

from acestep_jax.tasks import lyrics, timestamps
from acestep_jax.tasks.prompt import lyric_prompt
from acestep_jax.tasks.timestamps import Timed
from tests import tiny_pipeline

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/rewards"


def reader(pieces):
    """Decodes tokens 0, 1, ... that stand for these pieces of text or bytes."""
    raw = [piece.encode() if isinstance(piece, str) else piece for piece in pieces]
    return lambda ids: b"".join(raw[i] for i in ids).decode(errors="replace")


def steady(count):
    """Token i from i to i + 1/2 seconds."""
    return np.arange(count)[:, None] + np.array([[0.0, 0.5]])


def read(pieces, times=None):
    decode, ids = reader(pieces), range(len(pieces))
    times = steady(len(pieces)) if times is None else times
    sung = lyrics.sung_tokens([decode([i]) for i in ids])
    return timestamps.lines(ids, times, decode), timestamps.words(ids, times, sung, decode)


@pytest.mark.parametrize("name", ["align_default", "align_utf8"])
def test_lines_and_lrc_are_those_of_the_release(name):
    data = np.load(GOLDEN / f"{name}.npz")
    meta = json.loads(str(data["meta"]))
    pieces = [bytes.fromhex(piece) for piece in meta["token_pieces_hex"]]
    times = np.stack([data["st_tok_start"], data["st_tok_end"]], -1)
    found, _ = read(pieces, times)
    assert lyrics.token_texts(range(len(pieces)), reader(pieces)) == meta["token_texts"]
    assert [line.text for line in found] == meta["sentence_texts"]
    np.testing.assert_array_equal([line.start for line in found], data["st_sent_start"])
    np.testing.assert_array_equal([line.end for line in found], data["st_sent_end"])
    assert timestamps.lrc(found) == meta["lrc"]
    assert timestamps.lrc(found, ends=True) == meta["lrc_with_end"]


def test_frames_become_seconds_and_tokens_beyond_the_rows_follow_the_last():
    times = timestamps.token_times(np.array([0, 3]), np.array([2, 5]), 4, 0.08)
    np.testing.assert_allclose(times, [[0, 0.16], [0.24, 0.4], [0.4, 0.4], [0.4, 0.4]])
    nothing = timestamps.token_times(np.zeros(0), np.zeros(0), 2, 0.08)
    np.testing.assert_array_equal(nothing, 0)


def test_a_minute_rolls_over_as_in_the_release_or_carried():
    line = [Timed("la", 59.996, 125.0)]
    assert timestamps.lrc(line) == "[00:60.00]la"
    assert timestamps.lrc(line, carry=True) == "[01:00.00]la"
    assert timestamps.lrc(line, ends=True) == "[00:60.00][02:05.00]la"
    assert timestamps.lrc([Timed("late", 3600.0, 3600.0)]) == "[60:00.00]late"
    assert timestamps.lrc([]) == ""


def test_blank_lines_are_no_lines_and_the_rest_without_a_break_is_one():
    found, words = read(["\n", "a", "\n", " ", "\n\n", "b", " c"])
    assert found == [Timed("a", 1.0, 2.5), Timed("b c", 5.0, 6.5)]
    assert words == [Timed("a", 1.0, 1.5), Timed("b", 5.0, 5.5), Timed("c", 6.0, 6.5)]


def test_tags_alone_are_lines_without_words():
    found, words = read(["[", "intro", "]", "\n", "[end", "]"])
    assert found == [Timed("[intro]", 0.0, 3.5), Timed("[end]", 4.0, 5.5)]
    assert words == []


def test_one_token_and_none():
    assert read(["la"]) == ([Timed("la", 0.0, 0.5)], [Timed("la", 0.0, 0.5)])
    assert read([]) == ([], [])


def test_words_join_their_tokens_and_leave_line_breaks_out():
    _, words = read(["Hel", "lo", " dark", "ness", ",\n", "my", " [x]", " old", b"\xc3", b"\xa9"])
    assert [word.text for word in words] == ["Hello", "darkness,", "my", "oldé"]
    assert (words[1].start, words[1].end) == (2.0, 4.5)


def test_confidences_are_stretched_where_they_differ():
    decode = reader(["a\n", "b\n", "c"])
    found = timestamps.lines(range(3), steady(3), decode, [0.2, 0.6, 0.3])
    assert [line.confidence for line in found] == [0.0, 1.0, 0.25]


def test_brackets_mark_tags_across_tokens():
    texts = ["[", "a", "] b", "c", "d]", "[x]", "e"]
    assert lyrics.sung_tokens(texts).tolist() == [False, False, False, True, False, False, True]


def test_lyrics_are_found_behind_the_header_of_a_prompt():
    tokenizer = tiny_pipeline.pipe().tokenizer
    song = "[verse]\nrow your boat\n"
    ids = tokenizer.encode(lyric_prompt(song, "en")).ids
    found = lyrics.find_lyrics(tokenizer, [*ids, ids[-1], ids[-1]])
    assert found.decode(found.ids) == song
    assert (found.first, found.ids) == (8, lyrics.find_lyrics(tokenizer, ids, "en").ids)
    sung = [token for token, own in zip(found.ids, found.sung, strict=True) if own]
    assert found.decode(sung).strip() == "row your boat"
    assert found.has_words
    silent = tokenizer.encode(lyric_prompt("[Instrumental]")).ids
    assert not lyrics.find_lyrics(tokenizer, silent).has_words
    spans = lyrics.stack([found, lyrics.find_lyrics(tokenizer, silent)], 30)
    assert spans.sung.shape == (2, 30) and not spans.sung[1].any()
    assert spans.count.tolist() == [len(found.ids), len(silent) - 2 - spans.first[1]]


def test_what_is_no_lyric_prompt_is_refused():
    tokenizer = tiny_pipeline.pipe().tokenizer
    with pytest.raises(ValueError, match="no lyric prompt"):
        lyrics.find_lyrics(tokenizer, tokenizer.encode("la la la").ids)
