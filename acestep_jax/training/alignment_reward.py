"""What sung songs are worth: how well a frozen DiT places their lyrics (ops/alignment.py).

    lyrics = read_lyrics(batch.lyric_tokens, reader, stop)          # on the host, once a batch
    scores = align(config, networks, params, scene, songs, lyrics, key)

Songs are noised a little, to the last time of a sampler, and one pass through the first layers of
the DiT tells where each lyric token is attended to. Noise moves the score, so that a few draws are
averaged. Everything from latents to score runs on the device.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.nn.model import Networks
from acestep_jax.nn.shallow import shallow
from acestep_jax.ops import alignment, flow, masks
from acestep_jax.ops.alignment import Rules, Scores, Sizes
from acestep_jax.training.recipes.grpo_dit import AasReward
from acestep_jax.training.scene import Scene
from acestep_jax.typing import Array, Key, Params

_HEADER_END = "# Lyric\n"


class Lyrics(NamedTuple):
    """Which tokens of the lyric prompts are lyrics; the first condition tokens, in their order.

    Attributes:
      start: [B] int32, where the lyrics begin, behind the header.
      count: [B] int32, how many tokens they have, tags included.
      sung: [B, N] bool, of those N at most the ones that are sung: not within [tags].
    """

    start: Array | np.ndarray
    count: Array | np.ndarray
    sung: Array | np.ndarray

    @property
    def valid(self) -> Array:
        """Tells which songs have anything to sing, [B]."""
        return jnp.any(self.sung, axis=1)


def read_lyrics(tokens: np.ndarray, spell: Callable[[int], str], stop: int) -> Lyrics:
    """Finds lyrics and tags in lyric prompts [B, L].

    Args:
      tokens: of the prompts.
      spell: the text of one token.
      stop: the token that ends a prompt.
    """
    batch, size = tokens.shape
    start, count = np.zeros(batch, np.int32), np.zeros(batch, np.int32)
    sung = np.zeros((batch, size), bool)
    for row, ids in enumerate(np.asarray(tokens)):
        ends = np.flatnonzero(ids == stop)
        last = int(ends[0]) if len(ends) else size
        texts = [spell(int(i)) for i in ids[:last]]
        start[row] = first = _behind_header(texts)
        count[row] = last - first
        sung[row, : last - first] = _sung(texts[first:])
    return Lyrics(start, count, sung)


def _behind_header(texts: list[str]) -> int:
    """Counts the tokens up to the end of the header; all of them, where there is none."""
    seen = ""
    for place, text in enumerate(texts):
        seen += text
        if _HEADER_END in seen:
            return place + 1
    return len(texts)


def _sung(texts: list[str]) -> list[bool]:
    """Marks what stands outside brackets; a token that closes a tag still belongs to it."""
    marks, inside = [], False
    for text in texts:
        inside = inside or "[" in text
        marks.append(not inside)
        inside = inside and "]" not in text
    return marks


def align(
    config: AasReward,
    networks: Networks,
    params: Params,
    scene: Scene,
    songs: Array,
    lyrics: Lyrics,
    key: Key,
) -> Scores:
    """Scores songs by the attention of one DiT, averaged over draws of noise.

    Args:
      config: heads, noise level, draws and powers.
      networks: the modules.
      params: of the DiT that reads.
      scene: conditions of the songs.
      songs: latents [B, T, C].
      lyrics: of the songs.
      key: of the noise; every song has its own.
    """
    rules = Rules(powers=config.powers)
    sizes = Sizes(lyrics.count, patches(networks, songs, scene.frame_mask))
    read = reader(config, networks, params, scene)

    def once(key: Key) -> Scores:
        noise = jax.random.normal(key, songs.shape)
        t = 1.0 / config.steps
        maps = read(flow.interpolate(songs, noise, t), jnp.full(songs.shape[:1], t))
        energies = alignment.energy(lyric_rows(maps, lyrics), sizes, rules)
        return alignment.score(energies, lyrics.sung, sizes, rules)[0]

    drawn = jax.lax.map(once, jax.random.split(key, config.draws))
    return jax.tree.map(functools.partial(jnp.mean, axis=0), drawn)


def reader(
    config: AasReward, networks: Networks, params: Params, scene: Scene
) -> Callable[[Array, Array], Array]:
    """Gives (x_t, t) -> maps [B, H, L, M] of the chosen heads; only their layers are run."""
    heads = grouped(config.heads)
    dit, own = shallow(networks.dit, params, max(heads) + 1)
    variables = {"params": own}
    cross = dit.apply(variables, scene.tokens, scene.mask, method="project_condition")

    def read(x_t: Array, t: Array) -> Array:
        maps = dit.apply(
            variables,
            x_t,
            t,
            scene.context,
            cross,
            heads,
            frame_mask=scene.frame_mask,
            method="cross_attention_maps",
        )
        joined = jnp.concatenate([maps[layer] for layer in sorted(maps)], axis=1)
        return jnp.swapaxes(joined, 2, 3)

    return read


def grouped(heads: tuple[tuple[int, int], ...]) -> Mapping[int, tuple[int, ...]]:
    """Groups (layer, head) pairs by layer."""
    layers = sorted({layer for layer, _ in heads})
    return {layer: tuple(h for other, h in heads if other == layer) for layer in layers}


def lyric_rows(maps: Array, lyrics: Lyrics) -> Array:
    """Takes the rows of the lyrics, behind each song's header: [B, H, L, M] -> [B, H, N, M]."""
    size = lyrics.sung.shape[1]
    places = jnp.minimum(lyrics.start[:, None] + jnp.arange(size)[None], maps.shape[2] - 1)
    return jnp.take_along_axis(maps, places[:, None, :, None], axis=2)


def patches(networks: Networks, songs: Array, frame_mask: Array | None) -> Array:
    """Counts each song's patches, [B] int32."""
    patch = networks.config.patch_size
    if frame_mask is None:
        return jnp.full(songs.shape[:1], -(-songs.shape[1] // patch), jnp.int32)
    return jnp.sum(masks.patches(frame_mask, patch), axis=1, dtype=jnp.int32)
