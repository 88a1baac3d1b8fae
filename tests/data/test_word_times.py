"""When the tokens of a clip's lyrics are sung."""

import dataclasses

import numpy as np
import pytest

from acestep_jax.data import labels as labels_lib
from acestep_jax.data import transforms, word_times
from acestep_jax.data.loader import NANO_TOKENIZER
from acestep_jax.tasks import lyrics, prompt

TOKENIZER = transforms.load_tokenizer(str(NANO_TOKENIZER))
WORDS = (
    labels_lib.Word("row", 0.0, 0.9, 1),
    labels_lib.Word("your", 1.0, 1.5, 1),
    labels_lib.Word("boat", 1.5, 2.5, 1),
    labels_lib.Word("merrily", 3.0, 4.2, 2),
)
LABELS = labels_lib.SongLabels(
    name="a",
    group="a",
    split="train",
    seconds=6.0,
    captions=("a song",),
    language="en",
    lines=(
        labels_lib.Line("[verse]", 0.0, 4.2),
        labels_lib.Line("row your boat", 0.0, 2.5),
        labels_lib.Line("merrily", 3.0, 4.2),
    ),
    words=WORDS,
)


def frames_of(labels, start, end, room=40, told=None):
    """Gives {frames: word or other piece} of a clip, and the frames of the whole prompt."""
    told = told or (start, end)
    sheet = transforms.clip_lyrics(labels, *told)
    text = prompt.lyric_prompt(sheet, labels.language)
    tokens, _ = transforms.tokenize(TOKENIZER, text, room)
    frames = word_times.token_frames(labels, (start, end), told, TOKENIZER, tokens)
    own = lyrics.find_lyrics(TOKENIZER, tokens)
    pieces = {}
    for i, token in enumerate(own.ids):
        pieces.setdefault(tuple(frames[own.first + i].tolist()), []).append(token)
    return {span: own.decode(ids).strip() for span, ids in pieces.items()}, frames


def test_every_token_of_a_word_has_the_words_frames():
    pieces, frames = frames_of(LABELS, 0.0, 5.0)
    assert pieces == {
        (-1, -1): "[verse]",
        (0, 23): "row",
        (25, 38): "your",
        (37, 63): "boat",
        (75, 105): "merrily",
    }
    assert frames.shape == (40, 2)
    assert frames.dtype == np.int32


def test_times_count_from_the_clip_and_stay_within_it():
    pieces, _ = frames_of(LABELS, 1.0, 3.68)
    # boat lies in it whole; of "merrily" the middle does, and its end is cut off
    assert pieces == {(-1, -1): "[verse]", (0, 13): "your", (12, 38): "boat", (50, 67): "merrily"}


def test_words_of_the_margin_stand_in_the_sheet_and_have_no_time():
    pieces, frames = frames_of(LABELS, 1.0, 2.6, told=(0.0, 5.0))
    assert pieces[-1, -1].split() == ["[verse]", "rowmerrily"]
    assert pieces[0, 13] == "your" and pieces[12, 38] == "boat"
    _, alone = frames_of(LABELS, 1.0, 2.6)
    assert len(set(map(tuple, frames))) == len(set(map(tuple, alone))) == 3


def test_a_line_break_belongs_to_the_word_before_it():
    sheet = transforms.clip_lyrics(LABELS, 0.0, 5.0)
    tokens, _ = transforms.tokenize(TOKENIZER, prompt.lyric_prompt(sheet, "en"), 40)
    frames = word_times.token_frames(LABELS, (0.0, 5.0), (0.0, 5.0), TOKENIZER, tokens)
    own = lyrics.find_lyrics(TOKENIZER, tokens)
    breaks = [i for i, t in enumerate(own.ids) if "\n" in own.decode([t]) and own.sung[i]]
    spans = {tuple(frames[own.first + i].tolist()) for i in breaks}
    assert (37, 63) in spans  # behind boat
    assert spans <= {(37, 63), (-1, -1)}  # that behind [verse] is nobody's


def test_a_prompt_that_was_cut_keeps_the_words_it_has():
    whole, frames = frames_of(LABELS, 0.0, 5.0)
    room = int(np.flatnonzero(frames[:, 0] == 75)[0])
    cut, short = frames_of(LABELS, 0.0, 5.0, room)
    assert len(short) == room
    assert (75, 105) in whole
    assert (75, 105) not in cut


@pytest.mark.parametrize("instrumental", [True, False])
def test_without_words_nothing_is_known(instrumental):
    silent = dataclasses.replace(LABELS, words=(), lines=(), instrumental=instrumental)
    _, frames = frames_of(silent, 0.0, 5.0)
    assert (frames == word_times.UNKNOWN).all()


def test_from_a_word_on_that_is_written_otherwise_nothing_is_known():
    other = dataclasses.replace(WORDS[1], text="my")
    text = prompt.lyric_prompt(transforms.clip_lyrics(LABELS, 0.0, 5.0), "en")
    tokens, _ = transforms.tokenize(TOKENIZER, text, 40)
    labels = dataclasses.replace(LABELS, words=(WORDS[0], other, *WORDS[2:]))
    frames = word_times.token_frames(labels, (0.0, 5.0), (0.0, 5.0), TOKENIZER, tokens)
    assert {tuple(row) for row in frames.tolist()} == {(-1, -1), (0, 23)}
