"""Songs listened to by their own DiT: batches, noise, and what cannot be scored."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.nn.config import MODELS
from acestep_jax.tasks import alignment
from acestep_jax.tasks.alignment import Reading
from acestep_jax.tasks.condition import Conditions
from acestep_jax.tasks.lyrics import LyricSpans
from acestep_jax.tasks.pipeline import Pipeline
from acestep_jax.tasks.request import BadRequest, Request
from tests import tiny, tiny_pipeline

HEADS = ((0, (1,)), (1, (0, 2)))
CHANNELS = tiny.CONFIG.audio_acoustic_hidden_dim
SONG = Request(lyrics="[verse]\nrow row your boat\ngently down", duration=10.0, language="en")


@functools.cache
def latents(seed=0):
    return np.random.default_rng(seed).standard_normal((250, CHANNELS)).astype(np.float32)


def scores(reading, songs, rubbish):
    """Scores two songs of ten frames and four lyric tokens, padded to 16 frames with rubbish."""
    tokens = jnp.repeat(tiny.conditions(1, 16, tokens=8)[0], 2, axis=0)
    context = jnp.repeat(tiny.conditions(1, 16)[1], 2, axis=0).at[:, 10:].set(rubbish)
    spans = LyricSpans(np.full(2, 2), np.full(2, 4), np.ones((2, 5), bool))
    padded = jnp.stack([jnp.pad(x, ((0, 6), (0, 0)), constant_values=rubbish) for x in songs])
    frames = jnp.broadcast_to(jnp.arange(16)[None] < 10, (2, 16))
    keys = jax.vmap(jax.random.key)(jnp.full(2, 7, jnp.uint32))
    conditions = Conditions(tokens, jnp.ones((2, 8), bool), context)
    given = (padded, conditions, frames, spans, keys)
    return alignment._score(tiny.networks().dit, reading, tiny.params()["dit"], *given)


@pytest.mark.slow
def test_a_song_scores_the_same_wherever_it_stands_and_whatever_pads_it():
    song, other, third = (jnp.asarray(latents(seed)[:10]) for seed in range(3))
    reading = Reading(HEADS, draws=2)
    before = scores(reading, (song, other), rubbish=0.0)
    behind = scores(reading, (third, song), rubbish=5.0)
    for part in ("coverage", "monotonicity", "confidence", "score"):
        np.testing.assert_allclose(
            getattr(behind, part)[1], getattr(before, part)[0], atol=1e-5, err_msg=part
        )
    assert before.score[0] != before.score[1]


def test_a_song_is_judged_and_its_lyrics_get_times_in_order():
    pipe = tiny_pipeline.pipe()
    songs = [latents(), latents(1)]
    verdict, other = alignment.judge(pipe, [SONG, SONG], songs, Reading(HEADS))
    assert 0 < verdict.confidence <= 1 and 0 <= verdict.score <= verdict.confidence
    assert verdict.score != other.score
    assert verdict.conditions_score == other.conditions_score  # there the song is not heard
    lines, words = alignment.time_lyrics(pipe, SONG, latents(), Reading(HEADS))
    assert [line.text for line in lines] == SONG.lyrics.split("\n")
    assert " ".join(word.text for word in words) == "row row your boat gently down"
    times = [time for piece in words for time in (piece.start, piece.end)]
    assert times == sorted(times) and 0 <= times[0] <= times[-1] <= 10


def test_what_has_no_words_or_another_length_is_refused():
    pipe = tiny_pipeline.pipe()
    silent = Request(instrumental=True, duration=10.0)
    with pytest.raises(BadRequest, match="without words"):
        alignment.judge(pipe, [silent], [latents()], Reading(HEADS))
    with pytest.raises(BadRequest, match="stands for 250"):
        alignment.judge(pipe, [SONG], [latents()[:200]], Reading(HEADS))
    with pytest.raises(ValueError, match=r"\(2, 0\).*layers 0 to 1 of 4"):
        alignment.judge(pipe, [SONG], [latents()], Reading(((2, (0,)),)))
    with pytest.raises(ValueError, match="listen at a t"):
        Reading(HEADS, t=0.0)


def test_heads_come_from_beside_the_weights_or_from_the_release(tmp_path):
    assert alignment.find_heads(str(tmp_path), MODELS["turbo"]) == alignment.RELEASED_HEADS
    with pytest.raises(FileNotFoundError, match="select some"):
        alignment.find_heads(str(tmp_path), MODELS["xl_turbo"])
    path = tmp_path / alignment.HEADS_FILE
    path.write_text(json.dumps({"heads": {"0": [1], "1": [0, 2]}, "songs": 5}))
    assert alignment.find_heads(str(tmp_path), MODELS["turbo"]) == HEADS
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="holds no heads"):
        alignment.read_heads(path)


def test_the_aligner_listens_for_the_shipped_models_and_nothing_else_of_them_changes():
    pipe = Pipeline.load("nano")
    ear, heads = alignment.open_ear(pipe, "nano")
    assert heads == alignment.read_heads(alignment.ALIGNER / alignment.HEADS_FILE)
    changed = {
        name
        for name in pipe.params
        for ours, theirs in zip(
            jax.tree.leaves(pipe.params[name]), jax.tree.leaves(ear.params[name]), strict=True
        )
        if ours is not theirs
    }
    assert changed == {"dit", "condition_encoder"}
    # the verdict is the aligner's, on the songs of either
    song = Request(lyrics=SONG.lyrics, duration=10.0, language="en")
    made = np.random.default_rng(0).standard_normal((250, 64)).astype(np.float32)
    given = ([song], [made], Reading(heads))
    assert alignment.judge(ear, *given) != alignment.judge(pipe, *given)
    # heads that are named are those of the model itself
    assert alignment.open_ear(pipe, "nano", heads=HEADS) == (pipe, HEADS)


def test_an_aligner_of_another_size_does_not_listen():
    with pytest.raises(ValueError, match="of other sizes than nowhere"):
        alignment.open_ear(tiny_pipeline.pipe(), "nowhere", aligner=str(alignment.ALIGNER))
