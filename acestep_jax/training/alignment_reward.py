"""What sung songs are worth: how well a frozen DiT places their lyrics (tasks/alignment.py).

    lyrics = read_lyrics(tokenizer, batch.lyric_tokens)             # on the host, once a batch
    scores = align(reading(config, heads), networks, params, scene, songs, lyrics, key)

Songs are noised a little, to the last time of a sampler, and one pass through the first layers of
the DiT tells where each lyric token is attended to. Noise moves the score, so that a few draws are
averaged. Everything from latents to score runs on the device.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from acestep_jax.nn.config import ModelConfig
from acestep_jax.nn.model import Networks
from acestep_jax.ops.alignment import Rules, Scores
from acestep_jax.sampling.attending import Heads
from acestep_jax.tasks import alignment
from acestep_jax.tasks import lyrics as lyrics_lib
from acestep_jax.tasks.alignment import Reading
from acestep_jax.tasks.condition import Conditions
from acestep_jax.tasks.lyrics import LyricSpans
from acestep_jax.training import models
from acestep_jax.training.config import Model
from acestep_jax.training.recipes.grpo_dit import AasReward
from acestep_jax.training.scene import Scene
from acestep_jax.typing import Array, Key, Params


class Lyrics(NamedTuple):
    """The lyrics of a batch: where they stand in its prompts, and whether there are words [B]."""

    spans: LyricSpans
    valid: Array | np.ndarray


def read_lyrics(tokenizer: Any, tokens: np.ndarray) -> Lyrics:
    """Finds the lyrics in lyric prompts [B, L], with room for as many tokens as a prompt has."""
    found = [lyrics_lib.find_lyrics(tokenizer, ids.tolist()) for ids in np.asarray(tokens)]
    spans = lyrics_lib.stack(found, room=tokens.shape[1])
    return Lyrics(spans, np.array([song.has_words for song in found]))


def find_heads(config: AasReward, model: Model, sizes: ModelConfig) -> Heads:
    """Gives the heads that the configuration names, or those that are known of who listens."""
    listener = models.locate(config.aligner or model.weights)
    return config.heads or alignment.find_heads(listener, sizes)


def reading(config: AasReward, heads: Heads) -> Reading:
    """Says how songs are read."""
    rules = Rules(powers=config.powers)
    return Reading(heads, t=1.0 / config.steps, draws=config.draws, rules=rules)


def align(
    how: Reading,
    networks: Networks,
    params: Params,
    scene: Scene,
    songs: Array,
    lyrics: Lyrics,
    key: Key,
) -> Scores:
    """Scores songs [B, T, C] by the attention of one DiT, whose parameters are given."""
    conditions = Conditions(scene.tokens, scene.mask, scene.context)
    keys = jax.random.split(key, songs.shape[0])
    return alignment.score(
        networks.dit, params, how, songs, conditions, scene.frame_mask, lyrics.spans, keys
    )
