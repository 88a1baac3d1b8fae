"""The teacher's songs as the real class: made once, found again, and in step with their prompts."""

import dataclasses

import jax
import numpy as np
import pytest

from acestep_jax.training import cached_songs, models
from acestep_jax.training import game as game_lib
from acestep_jax.training.cached_songs import CachedSongs
from acestep_jax.training.config import Data
from tests import tiny
from tests.train import toys

CONFIG = dataclasses.replace(
    toys.DISTILL,
    data=Data(shards="synthetic", batch_size=2, num_frames=16, timbre_frames=16),
    gan=dataclasses.replace(toys.DISTILL.gan, real="teacher", cached_batches=3),
)


class Teacher:
    """Numbers its songs in the order in which they are made."""

    def __init__(self):
        self.made = []

    def __call__(self, batch, number):
        self.made.append(number)
        return np.full_like(batch.latents, 100 + number)


@pytest.fixture
def songs(tmp_path):
    teacher = Teacher()
    batches = models.open_batches(CONFIG, "train")
    return teacher, CachedSongs(batches, teacher, tmp_path / "songs", 3)


def _prompts(batch):
    return batch.text_tokens, batch.lyric_tokens


def test_every_song_is_made_once_and_comes_back_with_its_prompt(songs):
    teacher, stream = songs
    first = [next(stream) for _ in range(3)]
    again = [next(stream) for _ in range(4)]
    assert teacher.made == [0, 1, 2]
    for number, (one, other) in enumerate(zip([*first, first[0]], again, strict=True)):
        kept = one.latents[one.frame_mask]
        np.testing.assert_array_equal(kept, 100 + number % 3)
        np.testing.assert_array_equal(one.latents, other.latents)
        for left, right in zip(_prompts(one), _prompts(other), strict=True):
            np.testing.assert_array_equal(left, right)


def test_frames_beyond_a_song_stay_as_the_data_has_them(songs):
    _, stream = songs
    batch, plain = next(stream), next(models.open_batches(CONFIG, "train"))
    np.testing.assert_array_equal(
        batch.latents[~batch.frame_mask], plain.latents[~batch.frame_mask]
    )


def test_a_stream_resumes_where_it_stopped(songs, tmp_path):
    _, stream = songs
    for _ in range(4):
        next(stream)
    state, following = stream.get_state(), [next(stream) for _ in range(3)]
    fresh = Teacher()
    other = CachedSongs(models.open_batches(CONFIG, "train"), fresh, tmp_path / "songs", 3)
    other.set_state(state)
    for batch in following:
        resumed = next(other)
        np.testing.assert_array_equal(resumed.latents, batch.latents)
        np.testing.assert_array_equal(resumed.text_tokens, batch.text_tokens)
    assert fresh.made == []  # all were found on the disk


def test_the_teachers_songs_are_its_guided_ones_for_the_batchs_prompts():
    game = game_lib.make_game(CONFIG, tiny.networks())
    frozen = game_lib.separate(CONFIG, tiny.params())
    key = jax.random.key(0)

    @jax.jit
    def both(frozen, batch):
        scene = game_lib.encode(game, frozen, batch)
        noise = jax.random.normal(key, scene.real.shape)
        expected = game_lib.guided_songs(game, frozen["teacher"], scene, noise)
        return cached_songs.sample(game, frozen, batch, key), expected

    np.testing.assert_allclose(*both(frozen, toys.batch()), rtol=1e-4, atol=1e-4)  # float32
    recorded = object()
    assert cached_songs.REAL["songs"](game, frozen, None, None, recorded) is recorded
