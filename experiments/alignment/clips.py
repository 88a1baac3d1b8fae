"""Clips of songs whose every word has a known time, and a DiT that listens to them."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from acestep_jax.data import labels as labels_lib
from acestep_jax.data import sources, transforms
from acestep_jax.data.batch import Batch, stack_examples
from acestep_jax.ops.alignment import Scores, Sizes
from acestep_jax.sampling import attending
from acestep_jax.sampling.attending import Heads
from acestep_jax.tasks import alignment as songs
from acestep_jax.tasks import lyrics as lyrics_lib
from acestep_jax.tasks import prompt, timestamps
from acestep_jax.tasks.alignment import Reading
from acestep_jax.tasks.condition import Conditions
from acestep_jax.tasks.lyrics import LyricSpans, LyricTokens
from acestep_jax.training import models
from acestep_jax.training import scene as scene_lib
from acestep_jax.training.config import Model
from acestep_jax.typing import Array, Params
from acestep_jax.units import FRAME_RATE

NANO = "asset:nano/acestep-v15-nano"
ALIGNER = "asset:nano/aligners/1"
PATCH_SECONDS = 2 / FRAME_RATE
TEXT_TOKENS, LYRIC_TOKENS = 96, 64
"""Room for the prompts: what the nano recipes train with."""


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """A stretch of a song.

    Attributes:
      labels: of the song.
      latents: [T, C].
      words: sung in it, in order, with seconds from its beginning.
      lyrics: its part of the sheet, tags included.
    """

    labels: labels_lib.SongLabels
    latents: np.ndarray
    words: tuple[labels_lib.Word, ...]
    lyrics: str


def cut(latents: np.ndarray, labels: labels_lib.SongLabels, start: int, frames: int) -> Clip:
    """Cuts a clip of `frames` frames from a song; a word belongs to it if its middle does."""
    first, end = start / FRAME_RATE, (start + frames) / FRAME_RATE
    inside = [word for word in labels.words if first <= (word.start + word.end) / 2 < end]
    ordered = sorted(inside, key=lambda word: (word.line, word.start))
    moved = (
        dataclasses.replace(word, start=word.start - first, end=word.end - first)
        for word in ordered
    )
    sheet = transforms.clip_lyrics(labels, first, end)
    return Clip(labels, latents[start : start + frames].astype(np.float32), tuple(moved), sheet)


def read_clips(
    folder: pathlib.Path, split: str, count: int, frames: int, min_words: int = 4
) -> list[Clip]:
    """Cuts up to `count` clips, one song after another, from stretches that are sung."""
    found = _clips(sources.Songs([folder], split), frames, min_words)
    return [clip for clip, _ in zip(found, range(count), strict=False)]


def _clips(shard: sources.Songs, frames: int, min_words: int) -> Iterator[Clip]:
    """Walks through the songs, one window of each at a time."""
    records = [record for record in shard.all_records() if record.labels.words]
    for window in range(max((len(record.latents) for record in records), default=0) // frames):
        for record in records:
            if (window + 1) * frames <= len(record.latents):
                clip = cut(record.latents, record.labels, window * frames, frames)
                if len(clip.words) >= min_words:
                    yield clip


@dataclasses.dataclass(frozen=True, eq=False)
class Ear:
    """A DiT with its encoders, which listens to clips under any lyrics.

    Attributes:
      loaded: networks and parameters.
      tokenizer: of its text encoder.
      silence: [S, C].
    """

    loaded: models.Loaded
    tokenizer: tokenizers.Tokenizer
    silence: np.ndarray

    @classmethod
    def load(cls, weights: str, text_weights: str = "") -> "Ear":
        """Loads a model; the text encoder of nano, or the one that is named."""
        model = Model(weights=weights, text_weights=text_weights)
        loaded = models.load(model)
        if loaded.silence_latent is None:
            raise SystemExit(f"{weights!r} holds no silence latent.")
        tokenizer = transforms.load_tokenizer(str(models.tokenizer_folder(model)))
        return cls(loaded, tokenizer, np.asarray(loaded.silence_latent[0]))

    def tokens_of(self, lyrics: str, language: str) -> LyricTokens:
        """Tokenises a sheet as the DiT reads it."""
        return lyrics_lib.find_lyrics(self.tokenizer, self._lyric_prompt(lyrics, language)[0])

    def fits(self, lyrics: str, language: str) -> bool:
        """Tells whether a sheet has room in the prompt."""
        text = prompt.lyric_prompt(lyrics, language)
        return len(self.tokenizer.encode(text).ids) <= LYRIC_TOKENS

    def _lyric_prompt(self, lyrics: str, language: str) -> tuple[np.ndarray, np.ndarray]:
        text = prompt.lyric_prompt(lyrics, language)
        return transforms.tokenize(self.tokenizer, text, LYRIC_TOKENS)

    def open(
        self, clips: Sequence[Clip], sheets: Sequence[str]
    ) -> tuple[Conditions, LyricSpans, Array]:
        """Makes conditions of clips under `sheets`; their lyrics' places; and noise keys [B]."""
        batch = stack_examples([self._example(c, s) for c, s in zip(clips, sheets, strict=True)])
        scene = _encode(self.loaded.networks, self.loaded.params, batch)
        found = [lyrics_lib.find_lyrics(self.tokenizer, row) for row in batch.lyric_tokens]
        spans = lyrics_lib.stack(found, LYRIC_TOKENS)
        keys = jax.vmap(jax.random.key)(jnp.arange(len(clips), dtype=jnp.uint32))
        return Conditions(scene.tokens, scene.mask, scene.context), spans, keys

    def _example(self, clip: Clip, sheet: str) -> dict[str, np.ndarray]:
        frames = len(clip.latents)
        labels = clip.labels
        text = prompt.caption_prompt(
            labels.captions[0],
            bpm=labels.bpm,
            keyscale=labels.keyscale,
            timesignature=labels.timesignature,
            duration=frames / FRAME_RATE,
        )
        caption = transforms.tokenize(self.tokenizer, text, TEXT_TOKENS)
        lyrics = self._lyric_prompt(sheet, labels.language)
        reference = self.loaded.networks.config.timbre_fix_frame
        return {
            "latents": clip.latents,
            "frame_mask": np.ones(frames, bool),
            "source_latents": transforms.silence_frames(self.silence, frames),
            "edit_mask": np.ones(frames, np.float32),
            "text_tokens": caption[0],
            "text_mask": caption[1],
            "lyric_tokens": lyrics[0],
            "lyric_mask": lyrics[1],
            "timbre_latents": transforms.silence_frames(self.silence, reference),
            "is_cover": np.zeros((), bool),
        }

    def score(
        self, clips: Sequence[Clip], sheets: Sequence[str], reading: Reading, batch_size: int = 16
    ) -> Scores:
        """Scores clips under sheets, [N] each, a batch at a time."""
        parts = []
        for at in range(0, len(clips), batch_size):
            chosen, own = _full(clips, at, batch_size), _full(sheets, at, batch_size)
            conditions, spans, keys = self.open(chosen, own)
            latents = jnp.stack([clip.latents for clip in chosen])
            params = self.loaded.params["dit"]
            dit = self.loaded.networks.dit
            parts.append(_score(dit, reading, params, latents, conditions, spans, keys))
        whole = jax.tree.map(lambda *x: np.concatenate(x)[: len(clips)], *parts)
        return whole

    def maps(
        self, clips: Sequence[Clip], heads: Heads, t: float, batch_size: int = 16
    ) -> tuple[np.ndarray, np.ndarray, Sizes]:
        """Reads the maps of heads [N, H, tokens, patches] under the clips' own lyrics.

        Returns:
          The maps, which tokens are sung [N, tokens], and what of the maps is real.
        """
        parts, sung, counts = [], [], []
        for at in range(0, len(clips), batch_size):
            chosen = _full(clips, at, batch_size)
            conditions, spans, keys = self.open(chosen, [clip.lyrics for clip in chosen])
            latents = jnp.stack([clip.latents for clip in chosen])
            given = (self.loaded.params["dit"], latents, conditions, spans, keys)
            parts.append(np.asarray(_maps(self.loaded.networks.dit, heads, t, *given)))
            sung.append(spans.sung)
            counts.append(spans.count)
        maps, words, tokens = (np.concatenate(x)[: len(clips)] for x in (parts, sung, counts))
        return maps, words, Sizes(tokens, np.full(len(clips), maps.shape[-1], np.int32))


def _full(items: Sequence, at: int, size: int) -> list:
    """Takes `size` items from `at` on; the last one fills up, so that one program serves."""
    own = list(items[at : at + size])
    return own + own[-1:] * (size - len(own))


def word_tokens(ear: Ear, clip: Clip) -> np.ndarray | None:
    """Finds the first token of each of the clip's words; None where the sheet reads otherwise."""
    own = ear.tokens_of(clip.lyrics, clip.labels.language)
    found = timestamps.word_tokens(own.ids, own.sung, own.decode)
    if [text for text, _ in found] != [word.text for word in clip.words]:
        return None
    return np.array([group[0] for _, group in found])


@functools.partial(jax.jit, static_argnums=0)
def _encode(networks: models.Networks, params: Params, batch: Batch) -> scene_lib.Scene:
    return scene_lib.encode(networks, params, batch)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _score(
    dit: songs.DiT,
    reading: Reading,
    params: Params,
    latents: Array,
    conditions: Conditions,
    spans: LyricSpans,
    keys: Array,
) -> Scores:
    return songs.score(dit, params, reading, latents, conditions, None, spans, keys)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _maps(
    dit: songs.DiT,
    heads: Heads,
    t: float,
    params: Params,
    latents: Array,
    conditions: Conditions,
    spans: LyricSpans,
    keys: Array,
) -> Array:
    noise = attending.draw_noise(keys, 1, *latents.shape[1:])[0]
    return attending.lyric_maps(
        dit,
        params,
        heads,
        t * noise + (1 - t) * latents,
        t,
        conditions.tokens,
        conditions.context,
        jnp.asarray(spans.first),
        LYRIC_TOKENS,
        condition_mask=conditions.mask,
    )
