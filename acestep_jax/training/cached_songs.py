"""The real class of the adversary: recorded songs, or the teacher's own, made once and kept.

The teacher's songs need no recordings, and cannot teach what the teacher does not know. There are
as many of them as `gan.cached_batches` batches; then the same prompts come round again.

    batches = cached_songs.open_batches(game, frozen, mesh, workdir)
"""

import dataclasses
import functools
import io
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from acestep_jax.data import loader
from acestep_jax.data.batch import Batch
from acestep_jax.training import files, models, processes
from acestep_jax.training import game as game_lib
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training.game import Game
from acestep_jax.typing import Array, Key, Params

Sample = Callable[[Batch, int], np.ndarray]
"""A batch of this process and its number -> songs for its prompts, [B, T, C]."""


class CachedSongs:
    """Iterates over the first batches of a stream, again and again, with other songs in them."""

    def __init__(
        self, batches: loader.Batches, sample: Sample, folder: pathlib.Path, count: int
    ) -> None:
        """Begins at the beginning of `batches`.

        Args:
          batches: freshly opened.
          sample: makes the songs of a batch, when they are not in the folder.
          folder: where songs are kept, a file a batch and process.
          count: of batches.
        """
        self._batches, self._sample, self._folder, self._count = batches, sample, folder, count
        self._start, self._position = batches.get_state(), 0

    @property
    def silence_latent(self) -> np.ndarray:
        """Encoded silence [1, S, C] of the shards."""
        return self._batches.silence_latent

    def __next__(self) -> Batch:
        number = self._position % self._count
        if number == 0:
            self._batches.set_state(self._start)
        self._position += 1
        batch = next(self._batches)
        songs = np.where(batch.frame_mask[..., None], self._songs(batch, number), batch.latents)
        return dataclasses.replace(batch, latents=songs)

    def _songs(self, batch: Batch, number: int) -> np.ndarray:
        path = self._folder / f"{number:06}-{jax.process_index()}.npy"
        if path.exists():
            return np.load(path)
        songs = self._sample(batch, number)
        content = io.BytesIO()
        np.save(content, songs)
        self._folder.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, content.getvalue())
        return songs

    def get_state(self) -> dict[str, Any]:
        """Gives the position after the last batch handed out."""
        return {"position": self._position, "songs": self._batches.get_state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes back to a position."""
        self._position = state["position"]
        self._batches.set_state(state["songs"])


def open_batches(
    game: Game, frozen: Params, mesh: jax.sharding.Mesh, workdir: pathlib.Path
) -> loader.Batches | CachedSongs:
    """Opens the training data of a distillation with the real class that `gan.real` names."""
    batches = models.open_batches(game.config, "train")
    return REAL[game.config.gan.real](game, frozen, mesh, workdir, batches)


def _songs(game: Game, frozen: Params, mesh: Any, workdir: Any, batches: Any) -> loader.Batches:
    del game, frozen, mesh, workdir
    return batches


def _teacher(
    game: Game,
    frozen: Params,
    mesh: jax.sharding.Mesh,
    workdir: pathlib.Path,
    batches: loader.Batches,
) -> CachedSongs:
    run = jax.jit(functools.partial(sample, game))

    def of_this_process(batch: Batch, number: int) -> np.ndarray:
        key = jax.random.fold_in(jax.random.key(game.config.seed), number)
        songs = run(frozen, mesh_lib.place_batch(batch, mesh), key)
        return mesh_lib.own_share(processes.whole(songs))

    folder = workdir / "teacher_songs"
    return CachedSongs(batches, of_this_process, folder, game.config.gan.cached_batches)


def sample(game: Game, frozen: Params, batch: Batch, key: Key) -> Array:
    """Samples the guided teacher's songs for the prompts of a batch, [B, T, C]."""
    scene = game_lib.encode(game, frozen, batch)
    noise = jax.random.normal(key, scene.real.shape)
    return game_lib.guided_songs(game, frozen["teacher"], scene, noise)


REAL = {"songs": _songs, "teacher": _teacher}
"""Sources of the real class by the name that `Gan.real` gives."""
