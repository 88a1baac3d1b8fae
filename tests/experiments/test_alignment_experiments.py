"""Measures of the alignment score against clips whose truth is made by hand."""

import json

import numpy as np
import pytest

from acestep_jax.data import labels as labels_lib
from experiments.alignment import clips as clips_lib
from experiments.alignment import damage, dtw_speed, heads, truth

BOAT = ["row", "row", "your", "boat", "gently", "down"]
WORDS = tuple(labels_lib.Word(text, 0.5 + i, 1.0 + i, 1 + i // 3) for i, text in enumerate(BOAT))
LINES = tuple(
    labels_lib.Line(text, start, end)
    for text, start, end in [
        ("[verse]", 0.0, 7.0),
        ("row row your", 0.5, 3.0),
        ("boat gently down", 3.5, 6.0),
    ]
)
LABELS = labels_lib.SongLabels(
    name="boat",
    group="boat",
    split="train",
    seconds=7.0,
    captions=("a round",),
    language="en",
    lines=LINES,
    words=WORDS,
)
LATENTS = np.arange(175, dtype=np.float32)[:, None]


def clip():
    return clips_lib.cut(LATENTS, LABELS, 0, 150)


def test_a_clip_holds_the_words_whose_middle_it_holds():
    own = clips_lib.cut(LATENTS, LABELS, 50, 75)  # from 2 s to 5 s
    assert [word.text for word in own.words] == ["your", "boat", "gently"]
    np.testing.assert_allclose([word.start for word in own.words], [0.5, 1.5, 2.5])
    assert own.lyrics == "[verse]\nyour\nboat gently"
    np.testing.assert_array_equal(own.latents[:, 0], np.arange(50, 125))


@pytest.mark.parametrize(
    ("asked", "sung", "rate"),
    [
        ("a b c", "a b c", 0.0),
        ("a b c", "a c", 1 / 3),
        ("a b", "a x b", 1 / 2),
        ("a b c d", "b a c d", 2 / 4),
        ("a b", "x y", 1.0),
    ],
)
def test_word_error_rates_counted_by_hand(asked, sung, rate):
    assert damage.error_rate(asked.split(), sung.split()) == rate


@pytest.mark.parametrize(
    ("kind", "worst"),
    [("unsung", 0.5), ("unasked", 5.0), ("replaced", 1.0), ("stretched", 0.0)],
)
def test_damage_is_none_at_first_and_known_at_its_worst(kind, worst):
    rng = np.random.default_rng(0)
    spoilt = [damage.spoil(kind, clip(), grade, ["zzz"], rng) for grade in (0.0, 1.0)]
    assert [s.damage for s in spoilt] == [0.0, worst]
    assert spoilt[0].sheet == clip().lyrics
    np.testing.assert_array_equal(spoilt[0].clip.latents, clip().latents)
    assert spoilt[1].sheet.startswith("[verse]\n")


def test_swapped_words_are_the_same_words_in_another_order():
    spoilt = damage.spoil("swapped", clip(), 1.0, [], np.random.default_rng(0))
    words = damage.words_of(damage.split(spoilt.sheet))
    assert sorted(words) == sorted(word.text for word in WORDS) and spoilt.damage > 0


def test_a_rotated_clip_sings_its_end_first():
    moved = damage.shifted(clip(), 1.0)  # by half of six seconds
    assert [word.text for word in moved.words] == BOAT[3:] + BOAT[:3]
    np.testing.assert_array_equal(moved.latents[:75], clip().latents[75:])


def test_a_stretched_clip_keeps_its_order():
    frames = damage.stretched(clip(), 0.5).latents[:, 0]
    assert np.all(np.diff(frames) >= 0) and frames[0] == 0 and frames[-1] > 145
    assert np.abs(frames - np.arange(150)).max() > 20


def test_areas_and_ranks_of_made_up_scores():
    right, wrong = np.array([3.0, 2.0, 2.0]), np.array([1.0, 2.0, 0.0])
    assert truth.area(right, wrong) == 8 / 9  # of nine pairs two are ties
    assert truth.paired(right, wrong) == 2.5 / 3
    grades = np.tile(np.arange(4.0), (3, 1))
    assert truth.overall(-grades, grades) == pytest.approx(-1)
    either = np.array([[3.0, 2, 1, 0], [0, 1, 2, 3]])
    np.testing.assert_allclose(truth.within(either, grades[:2]), [-1, 1])
    assert truth.spearman(np.ones(3), np.arange(3)) == 0
    assert truth.spearman(np.array([1.0, 1, 2]), np.array([1.0, 2, 3])) == pytest.approx(3**0.5 / 2)
    value, low, high = truth.interval(truth.paired, right, wrong)
    assert low <= value <= high


def test_strangers_and_other_sheets_come_from_other_tunes_in_the_same_language():
    def other(group, language, text):
        word = labels_lib.Word(text, 0.5, 1.0, 0)
        labels = labels_lib.SongLabels(
            name=group,
            group=group,
            split="train",
            seconds=7.0,
            captions=("a",),
            language=language,
            lines=(labels_lib.Line(text, 0.5, 1.0),),
            words=(word,),
        )
        return clips_lib.Clip(labels, LATENTS, (word,), text)

    every = [clip(), other("boat", "en", "same"), other("a", "de", "Hund"), other("b", "en", "dog")]
    assert truth.strangers_of(every, every[0]) == ["dog"]
    assert truth.strangers_of(every[:3], every[0]) == ["Hund"]

    class Roomy:
        def fits(self, *_):
            return True

    assert truth.other_sheet(every, every[0], Roomy(), np.random.default_rng(0)) == "dog"


def test_heads_are_added_while_the_error_falls():
    # head 1 is the best, 3 helps it, nothing helps the two
    table = {(0,): 5.0, (1,): 1.0, (2,): 4.0, (3,): 3.0, (0, 1): 2.0, (1, 3): 0.5, (1, 2): 1.5}

    class Made:
        def error(self, chosen):
            return table.get(chosen, 0.9)

    assert heads.select(Made(), 4, 3, 7) == (1, 3)
    assert heads.select(Made(), 4, 3, 1) == (1,)
    assert heads.by_layer((1, 3, 8, 13), 6) == {"0": [1, 3], "1": [2], "2": [1]}


@pytest.mark.slow  # numba compiles for five seconds
def test_warping_and_the_compiled_loop_agree(capsys):
    dtw_speed.main(["--songs", "3", "--tokens", "7", "--patches", "11", "--repeats", "1"])
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert results["random"]["equal"] and results["song"]["equal"]
