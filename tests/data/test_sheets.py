"""Lyrics sheets: plain text, LRC, LRC with word times."""

import pytest

from acestep_jax.data import labels, sheets


def test_plain_lines_share_the_song_by_their_letters_and_say_that_this_is_a_guess():
    sheet = sheets.parse_sheet("[verse]\nabcd\n\nabcdefgh\n[chorus]\nabcd\n", 16.0)
    assert not sheet.timed
    assert [(line.text, line.start, line.end) for line in sheet.lines] == [
        ("[verse]", 0.0, 12.0),
        ("abcd", 0.0, 4.0),
        ("abcdefgh", 4.0, 12.0),
        ("[chorus]", 12.0, 16.0),
        ("abcd", 12.0, 16.0),
    ]


def test_lrc_gives_lines_their_times_repeats_included():
    text = "[ar:Someone]\n[offset:+500]\n[verse]\n[00:02.50][01:00.5]one\n[00:04.5]two\n[00:06.50]"
    sheet = sheets.parse_sheet(text, 90.0)
    assert sheet.timed
    assert [(line.text, line.start, line.end) for line in sheet.lines] == [
        ("[verse]", 2.0, 90.0),
        ("one", 2.0, 4.0),
        ("two", 4.0, 6.0),  # an empty line ends it
        ("one", 60.0, 90.0),
    ]


def test_enhanced_lrc_gives_words_their_times_and_lines():
    sheet = sheets.parse_sheet(
        "[00:01.00]<00:01.00>Little <00:01.50>snow<00:02.25>\n[00:03.00]<00:03.00>falls", 5.0
    )
    assert [line.text for line in sheet.lines] == ["Little snow", "falls"]
    assert sheet.words == (
        labels.Word("Little", 1.0, 1.5, 0),
        labels.Word("snow", 1.5, 2.25, 0),
        labels.Word("falls", 3.0, 5.0, 1),
    )


def test_the_sign_for_no_words_is_understood_and_an_empty_sheet_says_nothing():
    assert sheets.parse_sheet(" [instrumental]\n", 9.0) == sheets.Sheet(instrumental=True)
    assert sheets.parse_sheet("\n", 9.0) == sheets.Sheet()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[00:01.00]one\ntwo", "mix lines with times and without, for instance 'two'"),
        ("[00:01.00]<00:01.00>one\n[00:02.00]two", "word times, others do not.*'two'"),
    ],
)
def test_mixed_sheets_are_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        sheets.parse_sheet(text, 9.0)
