"""Prompts whose facts are drawn: they say what the batch tells, and nothing else."""

import re

import numpy as np
import pytest

from acestep_jax.data import facts, labels, sources, transforms
from acestep_jax.data.loader import NANO_TOKENIZER
from acestep_jax.tasks import tokens


def make_batches(seed=0, size=16, process=(0, 1), **spec):
    songs = sources.Synthetic(8, seed=0)
    tokenizer = tokens.load_tokenizer(str(NANO_TOKENIZER))
    return facts.FactBatches(
        songs, tokenizer, facts.FactSpec(**spec), seed=seed, batch_size=size, process=process
    )


def texts(batch):
    reader = transforms.load_tokenizer(str(NANO_TOKENIZER))
    rows = zip(batch.tokens, batch.mask, strict=True)
    return [reader.decode(row[mask].tolist(), skip_special_tokens=False) for row, mask in rows]


def test_prompts_say_what_the_batch_tells():
    batch = next(make_batches(size=64, untold=0.3))
    assert {-1} < set(batch.bpm.tolist()), "some tempi are told and some are not"
    for text, bpm, key, metre in zip(texts(batch), batch.bpm, batch.key, batch.metre, strict=True):
        told = {
            "bpm": "N/A" if bpm == facts.UNTOLD else str(bpm),
            "keyscale": "N/A" if key == facts.UNTOLD else facts.KEYS[key],
            "timesignature": "N/A" if metre == facts.UNTOLD else facts.METRES[metre],
        }
        for name, value in told.items():
            assert re.search(rf"^- {name}: {re.escape(value)}$", text, re.MULTILINE), (text, name)


def test_lines_end_at_the_token_of_their_newline():
    batch = next(make_batches(size=32))
    reader = transforms.load_tokenizer(str(NANO_TOKENIZER))
    for row, text, ends in zip(batch.tokens, texts(batch), batch.ends, strict=True):
        for end, name in zip(ends, ("bpm", "keyscale", "timesignature"), strict=True):
            until = reader.decode(row[: end + 1].tolist(), skip_special_tokens=False)
            assert until.endswith("\n") and text.startswith(until)
            assert until.splitlines()[-1].startswith(f"- {name}: ")


def test_prompts_without_room_are_not_cut():
    with pytest.raises(ValueError, match="longer than 20 tokens"):
        next(make_batches(length=20))


def test_tempi_are_drawn_between_the_limits_and_even_by_their_logarithm():
    bpm = next(make_batches(size=512, untold=0.0, slowest=50, fastest=200)).bpm
    assert bpm.min() >= 50 and bpm.max() <= 200
    np.testing.assert_allclose(np.mean(bpm < 100), 0.5, atol=0.08)


def test_batches_depend_on_seed_and_position_alone():
    first, again, other = make_batches(), make_batches(), make_batches(seed=1)
    next(first)
    state, second = first.get_state(), next(first)
    again.set_state(state)
    np.testing.assert_array_equal(next(again).tokens, second.tokens)
    next(other)
    assert not np.array_equal(next(other).tokens, second.tokens)


def test_processes_share_a_batch_and_refuse_one_that_they_cannot():
    whole = next(make_batches(size=8))
    parts = [next(make_batches(size=8, process=(index, 2))) for index in range(2)]
    np.testing.assert_array_equal(np.concatenate([p.tokens for p in parts]), whole.tokens)
    with pytest.raises(ValueError, match="8 rows cannot be shared by 3"):
        make_batches(size=8, process=(0, 3))


def test_a_song_is_retold_in_its_captions_too():
    song = labels.SongLabels(
        name="a", group="g", split="train", seconds=9.0, bpm=97, keyscale="D minor",
        instrumental=True, captions=("Slow, 97 BPM, in D minor", "97 bottles in G major"),
    )  # fmt: skip
    told = labels.retold(song, 120, "Eb major")
    assert (told.bpm, told.keyscale) == (120, "Eb major")
    assert told.captions == ("Slow, 120 BPM, in Eb major", "97 bottles in G major")
