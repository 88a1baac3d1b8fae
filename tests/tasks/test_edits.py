"""The six tasks as arrays: each shows what its name promises, in training as in generation."""

import numpy as np
import pytest

from acestep_jax.tasks import edits, prompt

C = 3
SILENCE = -1 - np.arange(5, dtype=np.float32)[:, None].repeat(C, axis=1)  # -1, -2 ... -5
SONG = 1 + np.arange(8, dtype=np.float16)[:, None].repeat(C, axis=1)  # 1, 2 ... 8


def _first(latents):
    """The first channel, all of which are alike."""
    assert (latents == latents[:, :1]).all() and latents.dtype == np.float32
    return latents[:, 0].tolist()


def test_text2music_sees_silence_from_its_start_and_generates_everything():
    made = edits.make_edit("text2music", 7, SILENCE)
    assert _first(made.source_latents) == [-1, -2, -3, -4, -5, -1, -2]  # repeated where too short
    assert made.edit_mask.tolist() == [1] * 7
    assert not made.is_cover


@pytest.mark.parametrize("task", ["cover", "extract", "lego", "complete"])
def test_a_source_is_seen_whole_and_goes_on_as_silence_that_starts_anew(task):
    made = edits.make_edit(task, 10, SILENCE, SONG)
    assert _first(made.source_latents) == [1, 2, 3, 4, 5, 6, 7, 8, -1, -2]
    assert made.edit_mask.tolist() == [1] * 10
    assert made.is_cover == (task == "cover")


def test_repainting_hides_the_span_under_the_silence_of_its_own_place():
    made = edits.make_edit("repaint", 10, SILENCE, SONG, span=(2, 5))
    assert _first(made.source_latents) == [1, 2, -3, -4, -5, 6, 7, 8, -1, -2]
    assert made.edit_mask.tolist() == [0, 0, 1, 1, 1, 0, 0, 0, 0, 0]
    assert not made.is_cover


def test_lego_within_a_span_still_sees_all_of_the_music():
    made = edits.make_edit("lego", 8, SILENCE, SONG, span=(0, 3))
    assert _first(made.source_latents) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert made.edit_mask.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("remix", 8, SILENCE, SONG), "unknown task 'remix'; the model knows text2music, cover"),
        (("cover", 8, SILENCE), "'cover' needs source latents"),
        (("text2music", 8, SILENCE, SONG), "'text2music' takes no source"),
        (("repaint", 8, SILENCE, SONG), "needs a span of frames"),
        (("cover", 8, SILENCE, SONG, (1, 2)), "'cover' generates every frame"),
        (("repaint", 8, SILENCE, SONG, (5, 5)), "5 to 5 is empty"),
        (("repaint", 8, SILENCE, SONG, (5, 9)), "outside 0 to 8"),
        (("cover", 7, SILENCE, SONG), "8 frames do not fit into 7"),
    ],
)
def test_what_a_task_cannot_have_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        edits.make_edit(*arguments)


def test_every_task_has_its_instruction():
    for task in edits.TASKS:
        tracks = ["drums"] if task in edits.STEM_TASKS else []
        sentence = prompt.task_instruction(task, tracks)
        assert ("DRUMS" in sentence) == bool(tracks)
    assert set(edits.STEM_TASKS) | set(edits.SPAN_TASKS) < set(edits.TASKS)


@pytest.mark.parametrize(
    ("stems", "missing"),
    [((), {"extract", "lego", "complete"}), (("bass",), {"lego"}), (("bass", "drums"), set())],
)
def test_stems_decide_what_a_song_can_teach(stems, missing):
    assert set(edits.TASKS) - set(edits.possible_tasks(stems)) == missing
