"""Turns sound and labels into what records hold: latents, 5 Hz codes, text and lyric states.

Sound comes in blocks and is encoded by overlapping windows of one shape, so that a song of any
length needs the memory of a window and the program is compiled once.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

from acestep_jax import units
from acestep_jax.data import audio, shards
from acestep_jax.data.labels import SongLabels
from acestep_jax.nn.config import ModelConfig, VAEConfig
from acestep_jax.nn.qwen3 import Qwen3
from acestep_jax.nn.tokenizer import AudioTokenizer
from acestep_jax.nn.vae import VAE
from acestep_jax.sampling import tiles
from acestep_jax.tasks import prompt, tokens
from acestep_jax.typing import Params
from acestep_jax.weights import load

WINDOW = 256
"""Frames encoded at once: one shape for songs of every length."""
CONTEXT = tiles.CONTEXT
"""Frames dropped at inner edges of windows, so that they join without a seam: the encoder sees less
than six frames to either side (dilated units reach 39 samples at 250 Hz, 3.9 frames; the stages
before add less than one, the last convolution one)."""
_TOKENIZED_FRAMES = 500
"""Frames tokenized at once; codes of different windows of five frames do not see each other."""

LatentEncoder = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Audio [B, W, 2] to posterior mean and standard deviation [B, T, C]."""
CodeEncoder = Callable[[np.ndarray], np.ndarray]
"""Latents [T, C] to codes [Q] int32."""
TextEncoder = Callable[[SongLabels], dict[str, np.ndarray]]
"""Labels to the `states` of a record."""


@dataclasses.dataclass(frozen=True)
class Encoders:
    """What makes the parts of a record; None leaves a part out. `codebook` counts the codes."""

    latents: LatentEncoder
    codes: CodeEncoder | None = None
    text: TextEncoder | None = None
    codebook: int = 0


@functools.cache
def load_encoders(vae: str, model: str = "", text_encoder: str = "") -> Encoders:
    """Loads networks from their folders and compiles them; once a process.

    Args:
      vae: autoencoder.
      model: diffusion package whose FSQ tokenizer writes the codes; empty: no codes.
      text_encoder: Qwen3 with its `tokenizer.json`; empty: no states.
    """
    network = load.load_vae(vae)
    latents = make_latent_encoder(network.config, network.params)
    codes, text, codebook = None, None, 0
    if model:
        package = load.load_model(model)
        silence = package.silence_latent
        codes = make_code_encoder(package.config, package.params["tokenizer"], silence)
        codebook = math.prod(package.config.fsq_input_levels)
    if text_encoder:
        qwen3 = load.load_qwen3(text_encoder)
        text = make_text_encoder(Qwen3(qwen3.config), qwen3.params, text_encoder)
    return Encoders(latents, codes, text, codebook)


def make_latent_encoder(config: VAEConfig, params: Params) -> LatentEncoder:
    """Compiles the autoencoder's encoder."""
    vae = VAE(config)

    @jax.jit
    def encode(samples: jax.Array) -> tuple[jax.Array, jax.Array]:
        posterior: Any = vae.apply({"params": params}, samples, method="encode")
        return posterior.mean, posterior.std

    return lambda samples: jax.tree.map(np.asarray, encode(jnp.asarray(samples)))


def make_code_encoder(config: ModelConfig, params: Params, silence: Any) -> CodeEncoder:
    """Compiles the FSQ tokenizer.

    Args:
      config: of the model.
      params: of its tokenizer.
      silence: its recorded silence [1, S, C], which completes a last window of five frames.
    """
    tokenizer = AudioTokenizer(config)
    # frames behind the end only need to exist; the last window of five takes the first of them
    fill = np.resize(np.asarray(silence), (1, _TOKENIZED_FRAMES, silence.shape[-1]))

    @jax.jit
    def tokenize(latents: jax.Array, frame_mask: jax.Array) -> jax.Array:
        return tokenizer.apply({"params": params}, latents, jnp.asarray(fill), frame_mask)[1]

    def encode(latents: np.ndarray) -> np.ndarray:
        pieces = []
        for start in range(0, len(latents), _TOKENIZED_FRAMES):
            piece = latents[start : start + _TOKENIZED_FRAMES].astype(np.float32)
            padded = np.zeros((1, _TOKENIZED_FRAMES, latents.shape[1]), np.float32)
            padded[0, : len(piece)] = piece
            mask = np.arange(_TOKENIZED_FRAMES)[None] < len(piece)
            num_codes = -(-len(piece) // units.FRAMES_PER_CODE)
            pieces.append(np.asarray(tokenize(padded, mask))[0, :num_codes])
        return np.concatenate(pieces).astype(np.int32)

    return encode


def make_text_encoder(qwen3: Qwen3, params: Params, tokenizer_folder: str) -> TextEncoder:
    """Compiles the text encoder: last states of each caption's prompt, and lyric embeddings.

    The prompts are those of text2music over the whole song, with all that is known of it.
    """
    tokenizer = tokens.load_tokenizer(tokenizer_folder)
    read = jax.jit(lambda ids: qwen3.apply({"params": params}, ids))
    embed = jax.jit(lambda ids: qwen3.apply({"params": params}, ids, method="embed"))

    def encode(labels: SongLabels) -> dict[str, np.ndarray]:
        rows, masks = [], []
        for caption in labels.captions:
            text = _whole_song_prompt(labels, caption)
            ids, mask = tokens.tokenize(tokenizer, text, prompt.MAX_CAPTION_TOKENS)
            rows.append(np.asarray(read(ids[None]))[0])
            masks.append(mask)
        lyrics = prompt.lyric_prompt(labels.lyrics, labels.language)
        ids, mask = tokens.tokenize(tokenizer, lyrics, prompt.MAX_LYRIC_TOKENS)
        length = int(np.sum(masks, axis=1).max())
        return {
            "text": np.stack(rows)[:, :length].astype(np.float16),
            "text_mask": np.stack(masks)[:, :length],
            "lyrics": np.asarray(embed(ids[None]))[0, : mask.sum()].astype(np.float16),
            "lyric_mask": mask[: mask.sum()],
        }

    return encode


def _whole_song_prompt(labels: SongLabels, caption: str) -> str:
    return prompt.caption_prompt(
        caption,
        bpm=labels.bpm,
        keyscale=labels.keyscale,
        timesignature=labels.timesignature,
        duration=labels.seconds,
    )


def encode_song(
    encode: LatentEncoder, samples: np.ndarray, window: int = WINDOW
) -> tuple[np.ndarray, np.ndarray]:
    """Encodes a song [W, 2] that is in memory; see `encode_blocks`."""
    return encode_blocks(encode, [samples], window)


def encode_blocks(
    encode: LatentEncoder,
    blocks: Iterable[np.ndarray],
    window: int = WINDOW,
    dtype: DTypeLike = np.float32,
) -> tuple[np.ndarray, np.ndarray]:
    """Encodes a song of any length by overlapping windows of one shape.

    Args:
      encode: the compiled encoder.
      blocks: of samples, [W, 2] each; a last part shorter than one frame is left out, as in the
        release.
      window: frames encoded at once.
      dtype: of the result.

    Returns:
      Posterior mean and standard deviation [T, C], equal to encoding the song at once, but for
      songs shorter than a window, whose last frames see silence after the end.

    Raises:
      BadAudio: if there is not one whole frame.
    """
    pieces = []
    for samples, low, high in cut_windows(blocks, window):
        mean, std = encode(samples[None])
        pieces.append((mean[0, low:high].astype(dtype), std[0, low:high].astype(dtype)))
    if not pieces:
        raise audio.BadAudio("lasts less than one latent frame (1,920 samples)")
    means, stds = zip(*pieces, strict=True)
    return np.concatenate(means), np.concatenate(stds)


def cut_windows(
    blocks: Iterable[np.ndarray], window: int = WINDOW
) -> Iterator[tuple[np.ndarray, int, int]]:
    """Cuts a stream of samples into overlapping windows.

    The last window ends with the song, wherever the one before stood: the samples of one window
    are kept for it. A song shorter than a window is followed by zeros.

    Returns:
      (samples [window·1920, 2], low, high): the window gives its frames low..high; together they
      cover every whole frame once.
    """
    buffer, first, covered = np.zeros((0, 2), np.float32), 0, 0  # buffer begins at frame `first`
    for block in blocks:
        buffer = np.concatenate([buffer, block])
        known = first + len(buffer) // units.SAMPLES_PER_FRAME
        while (start := max(0, covered - CONTEXT)) + window < known:
            yield _frames(buffer, start - first, window), covered - start, window - CONTEXT
            covered = start + window - CONTEXT
        drop = max(0, min(covered - CONTEXT, known - window) - first)
        buffer, first = buffer[drop * units.SAMPLES_PER_FRAME :], first + drop
    total = first + len(buffer) // units.SAMPLES_PER_FRAME
    while covered < total:
        start = max(0, min(covered - CONTEXT, total - window))
        high = total - start if start + window >= total else window - CONTEXT
        yield _frames(buffer, start - first, window), covered - start, high
        covered = start + high


def _frames(buffer: np.ndarray, start: int, count: int) -> np.ndarray:
    """Samples of frames [start, start + count); zeros follow the last whole frame."""
    rate = units.SAMPLES_PER_FRAME
    stop = min(start + count, len(buffer) // rate)
    piece = buffer[start * rate : stop * rate]
    return np.pad(piece, ((0, count * rate - len(piece)), (0, 0))).astype(np.float32, copy=False)


def silence_latent(encode: LatentEncoder, num_frames: int = shards.SILENCE_FRAMES) -> np.ndarray:
    """Encodes silence: [1, num_frames, C], the model's sign for "nothing here"."""
    samples = np.zeros((max(num_frames, WINDOW) * units.SAMPLES_PER_FRAME, 2), np.float32)
    mean, _ = encode_song(encode, samples)
    return mean[None, :num_frames].astype(np.float32)
