"""Songs as conversations: prompts as in generation, what the loss counts, rows of one length."""

import dataclasses
import functools

import numpy as np
import pytest
import tokenizers

from acestep_jax.data import chat, sources
from acestep_jax.data.chat import ChatBatches, ChatSpec, SyntheticCodes
from acestep_jax.data.loader import NANO_TOKENIZER
from acestep_jax.tasks.planning import blueprint
from acestep_jax.tasks.planning.vocabulary import Vocabulary

NEVER = dict(no_input=0.0, no_thought=0.0, no_caption=0.0, no_lyrics=0.0, few_fields=0.0)
SPEC = ChatSpec(seconds=(10, 12), **NEVER)


@functools.cache
def vocabulary():
    return Vocabulary.of(tokenizers.Tokenizer.from_file(f"{NANO_TOKENIZER}/tokenizer.json"), 3176)


@functools.cache
def songs():
    return SyntheticCodes(sources.Synthetic(128, seed=0), 1000)


def talk(task, spec=SPEC, seed=0):
    rng = np.random.default_rng(seed)
    clip = chat.cut_clip(songs().record(1), 11, rng)
    return clip, chat.converse(vocabulary(), clip, task, spec, rng)


def parts(one):
    """Text of each kind of token, in order of kinds."""
    tokens, kinds = np.asarray(one.tokens), np.asarray(one.kinds)
    return [vocabulary().decode(tokens[kinds == kind]) for kind in range(4)]


def test_a_song_to_generate_has_thought_and_codes_in_the_assistants_turn():
    clip, one = talk("generate")
    asked, thought, lyrics, codes = parts(one)
    assert asked.startswith("<|im_start|>system\n# Instruction\nGenerate audio semantic tokens")
    assert asked.endswith("# Lyric\n[Instrumental]\n<|im_end|>\n<|im_start|>assistant\n")
    fields = blueprint.parse_fields(blueprint.reasoning_of(thought))
    assert fields["bpm"] == clip.labels.bpm and fields["duration"] == 11
    assert thought.endswith("</think>\n\n") and lyrics == ""
    assert vocabulary().codes(one.tokens) == clip.codes and len(clip.codes) == 55
    assert codes.endswith("<|im_end|>")


def test_a_retold_song_is_asked_for_as_it_is_planned_and_has_no_codes():
    clip, _ = talk("generate")
    labels = dataclasses.replace(
        clip.labels, bpm=84, keyscale="D minor", captions=("Folk in D minor, 84 BPM",)
    )
    clip = dataclasses.replace(clip, labels=labels)
    spec, rng = dataclasses.replace(SPEC, retold=1.0), np.random.default_rng(3)
    asked, thought, _, codes = parts(chat.converse(vocabulary(), clip, "generate", spec, rng))
    fields = blueprint.parse_fields(blueprint.reasoning_of(thought))
    assert (fields["bpm"], fields["keyscale"]) != (84, "D minor")
    assert f"Folk in {fields['keyscale']}, {fields['bpm']} BPM\n" in asked and codes == ""
    heard = parts(chat.converse(vocabulary(), clip, "understand", spec, rng))[1]
    assert "bpm: 84\n" in heard and "keyscale: D minor\n" in heard  # what the codes sound like


def test_jitter_moves_a_code_by_one_level_of_one_digit():
    spec, codes = dataclasses.replace(SPEC, jitter=0.5, levels=(8, 5, 5, 5)), np.arange(1000)
    steps = np.array(chat.jitter(codes, spec, np.random.default_rng(0))) - codes
    assert set(steps.tolist()) == {0, 1, -1, 8, -8, 40, -40, 200, -200}
    # half are chosen, and of the digits at an end half of those stay: 0.5 (1 - mean of 1 / levels)
    assert np.mean(steps != 0) == pytest.approx(0.41, abs=0.05)
    assert chat.jitter(codes, SPEC, np.random.default_rng(0)) == codes.tolist()


@pytest.mark.parametrize("task", ["understand", "inspire", "format"])
def test_other_tasks_answer_with_thought_and_lyrics(task):
    _, one = talk(task)
    asked, thought, lyrics, codes = parts(one)
    assert ("<|audio_code_" in asked) == (task == "understand")
    assert ("instrumental: true" in asked) == (task == "inspire")
    assert thought.startswith("<think>\n") and codes == ""
    assert lyrics == "# Lyric\n[Instrumental]<|im_end|>"


def test_dropped_users_and_thoughts_are_those_that_guidance_subtracts():
    _, one = talk("generate", dataclasses.replace(SPEC, no_thought=1.0))
    asked, thought, _, _ = parts(one)
    assert asked.endswith(
        "user\nNO USER INPUT<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert thought == ""  # an empty thought is read, not taught
    _, one = talk("understand", dataclasses.replace(SPEC, no_input=1.0))
    assert "user\nNO USER INPUT<|im_end|>" in parts(one)[0]


def test_a_short_thought_is_read_and_not_taught():
    _, one = talk("generate", dataclasses.replace(SPEC, few_fields=1.0))
    asked, thought, _, codes = parts(one)
    assert "bpm: " in asked and "language" not in asked.split("assistant")[1]
    assert thought == "" and "<|audio_code_" in codes


def batches(process=(0, 1), seed=0):
    spec = dataclasses.replace(SPEC, length=400)
    return ChatBatches(songs(), vocabulary(), spec, seed=seed, batch_size=4, process=process)


def test_rows_are_deterministic_resumable_and_shared_by_processes():
    first = batches()
    one, two = next(first), next(first)
    again = batches()
    again.set_state({"position": 1})
    np.testing.assert_array_equal(next(again).tokens, two.tokens)
    assert again.get_state() == {"position": 2}
    halves = [next(batches((index, 2))).tokens for index in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves), one.tokens)
    assert (one.tokens != next(batches(seed=1)).tokens).any()


def test_rows_hold_whole_conversations_and_padding_is_context():
    batch = next(batches())
    padded = batch.segments == 0
    assert (batch.tokens[padded] == vocabulary().pad).all()
    assert (batch.kinds[padded] == chat.CONTEXT).all()
    for tokens, segments in zip(batch.tokens, batch.segments, strict=True):
        for number in range(1, segments.max() + 1):
            text = vocabulary().decode(tokens[segments == number])
            assert text.startswith("<|im_start|>system") and text.endswith("<|im_end|>")


def test_songs_without_codes_say_how_to_get_them():
    with pytest.raises(ValueError, match="has no audio codes; add them"):
        chat.cut_clip(sources.Synthetic(128, seed=0).record(0), 10, np.random.default_rng(0))


def test_clips_that_fit_no_row_and_songs_that_are_too_short_are_refused():
    spec = dataclasses.replace(SPEC, length=40)
    with pytest.raises(ValueError, match="longer than 40 tokens"):
        next(ChatBatches(songs(), vocabulary(), spec, seed=0, batch_size=1))
    spec = dataclasses.replace(SPEC, seconds=(60, 90))
    with pytest.raises(ValueError, match="no song lasts 60 s"):
        ChatBatches(songs(), vocabulary(), spec, seed=0, batch_size=1)
