"""The wire format of the text streams, against strings written out by hand."""

import pytest

from acestep_jax.tasks import prompt


def test_a_complete_caption_prompt_is_byte_exact():
    text = prompt.caption_prompt(
        "calm piano", bpm=92, timesignature="3", keyscale="F# minor", duration=61.7
    )
    assert text == (
        "# Instruction\nFill the audio semantic mask based on the given conditions:\n\n"
        "# Caption\ncalm piano\n\n"
        "# Metas\n- bpm: 92\n- timesignature: 3\n- keyscale: F# minor\n- duration: 61 seconds\n"
        "<|endoftext|>\n"
    )


def test_missing_metadata_reads_not_available_and_thirty_seconds():
    assert prompt.metadata_block() == (
        "- bpm: N/A\n- timesignature: N/A\n- keyscale: N/A\n- duration: 30 seconds\n"
    )


def test_an_instruction_gains_the_colon_it_lacks():
    assert "# Instruction\nSing:\n\n" in prompt.caption_prompt("x", instruction="Sing")


def test_a_lyric_prompt_is_byte_exact():
    assert prompt.lyric_prompt("[verse]\nla", "de") == (
        "# Languages\nde\n\n# Lyric\n[verse]\nla<|endoftext|>"
    )


def test_tracks_are_named_in_capitals():
    assert prompt.task_instruction("lego", ["drums"]) == (
        "Generate the DRUMS track based on the audio context:"
    )
    assert prompt.task_instruction("complete", ["bass", "fx"]) == (
        "Complete the input track with BASS | FX:"
    )
    assert prompt.task_instruction("extract") == "Extract the track from the audio:"


def test_a_task_refuses_what_it_cannot_take():
    with pytest.raises(ValueError, match="unknown task 'remix'"):
        prompt.task_instruction("remix")
    with pytest.raises(ValueError, match="takes no track names"):
        prompt.task_instruction("cover", ["bass"])
    with pytest.raises(ValueError, match="one track name"):
        prompt.task_instruction("extract", ["bass", "drums"])
