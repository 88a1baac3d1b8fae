"""Audio as codes: 25 Hz latents to 5 Hz codes and back.

  tokenize    five frames -> Linear -> pooled by attention into a learned token -> FSQ
  detokenize  a code's vector, five times, each with a learned place -> attention -> five frames

The way back is not an inverse: codes keep the outline of the music, which is what the planner
writes and a cover preserves.
"""

import flax.linen as nn
import jax.numpy as jnp

from acestep_jax.nn.condition import Encoder, Summarizer, token_init
from acestep_jax.nn.config import ModelConfig
from acestep_jax.nn.layers import Linear, Quirks
from acestep_jax.nn.parameter import param
from acestep_jax.ops import fsq
from acestep_jax.typing import Array


def fill_with_silence(latents: Array, silence_latent: Array, frame_mask: Array) -> Array:
    """Writes silence, from its start, behind the last real frame of each item.

    Args:
      latents: [B, T, C].
      silence_latent: [1, S, C], S at least T.
      frame_mask: [B, T], real frames first.
    """
    if silence_latent.shape[1] < latents.shape[1]:
        raise ValueError(
            f"the silence latent has {silence_latent.shape[1]} frames, fewer than the "
            f"{latents.shape[1]} it may have to fill; the released one has 15,000."
        )
    length = frame_mask.astype(jnp.int32).sum(axis=1, keepdims=True)
    behind = jnp.arange(latents.shape[1])[None] - length
    padding = silence_latent[0][jnp.maximum(behind, 0)]  # real frames read row 0 and drop it
    return jnp.where(frame_mask[..., None].astype(bool), latents, padding)


class AttentionPooler(Summarizer):
    """Pools each window of frames into one vector: [B, F, He] to [B, He]."""

    def setup(self) -> None:
        self.build(self.config.num_attention_pooler_hidden_layers)

    def __call__(self, frames: Array) -> Array:
        """Reads what the learned token, put first, has gathered from its window."""
        return self.summarize(frames)


class Quantizer(nn.Module):
    """Rounds vectors to codes through a few channels: Linear -> FSQ -> Linear.

    FSQ itself runs in float32: codes up to 63,999 have more bits than bfloat16.
    """

    config: ModelConfig
    dtype: jnp.dtype = jnp.float32
    quirks: Quirks = Quirks()

    def setup(self) -> None:
        levels = self.config.fsq_input_levels
        self.project_in = Linear(len(levels), use_bias=True)
        self.project_out = Linear(self.config.fsq_dim, use_bias=True, dtype=self.dtype)

    def __call__(self, hidden: Array) -> tuple[Array, Array]:
        """Quantises [..., fsq_dim]; returns vectors of the same shape and int32 codes [...]."""
        values, codes = fsq.quantize(
            self.project_in(hidden),
            self.config.fsq_input_levels,
            bfloat16=self.quirks.bfloat16_codebook,
        )
        return self.project_out(values), codes

    def decode(self, codes: Array) -> Array:
        """Looks codes [...] up as vectors [..., fsq_dim]."""
        levels = self.config.fsq_input_levels
        values = fsq.values_from_digits(
            fsq.digits_from_codes(codes, levels), levels, bfloat16=self.quirks.bfloat16_codebook
        )
        return self.project_out(values)


class AudioTokenizer(nn.Module):
    """Turns 25 Hz latents into 5 Hz codes.

    Attributes:
      config: the package's sizes.
      dtype, remat, attention, quirks: as for the DiT.
      pooler: what summarises a window, [B, F, He] to [B, He]; its parameters have the released name
        whatever it is, but only the attention pooler's can be read from a release or exported.
    """

    config: ModelConfig
    dtype: jnp.dtype = jnp.float32
    remat: bool = False
    attention: str = "auto"
    quirks: Quirks = Quirks()
    pooler: type[nn.Module] = AttentionPooler

    def setup(self) -> None:
        config = self.config
        self.audio_acoustic_proj = Linear(config.encoder.width, use_bias=True, dtype=self.dtype)
        self.attention_pooler = self.pooler(
            config, self.dtype, self.remat, self.attention, self.quirks
        )
        self.quantizer = Quantizer(config, self.dtype, self.quirks)

    def __call__(
        self, latents: Array, silence_latent: Array, frame_mask: Array | None = None
    ) -> tuple[Array, Array]:
        """Tokenizes latents; the gradient passes the rounding straight through.

        Args:
          latents: [B, T, C].
          silence_latent: the recorded silence [1, S, C]; its first frames complete the last window.
          frame_mask: [B, T], real frames first; padding is read as silence, so that an item in a
            bucket gets the codes it gets alone. None takes every frame as real.

        Returns:
          Quantised vectors [B, Q, He] and codes int32 [B, Q], Q = ceil(T / 5).
        """
        return self.quantizer(self.pool(latents, silence_latent, frame_mask))

    def pool(self, latents: Array, silence_latent: Array, frame_mask: Array | None = None) -> Array:
        """Summarises each window before quantisation, [B, Q, He]."""
        window = self.config.pool_window_size
        batch, length, channels = latents.shape
        if frame_mask is not None:
            latents = fill_with_silence(latents, silence_latent, frame_mask)
        latents = self._complete(latents, silence_latent, frame_mask, -length % window)
        hidden = self.audio_acoustic_proj(latents.reshape(-1, window, channels))
        return self.attention_pooler(hidden).reshape(batch, -1, self.config.encoder.width)

    def _complete(
        self, latents: Array, silence_latent: Array, frame_mask: Array | None, missing: int
    ) -> Array:
        """Appends the frames the last window lacks, going on where each item's silence is."""
        batch, _, channels = latents.shape
        silence = jnp.broadcast_to(silence_latent[:, :missing], (batch, missing, channels))
        latents = jnp.concatenate([latents, silence.astype(latents.dtype)], axis=1)
        if frame_mask is None or not missing:
            return latents
        frame_mask = jnp.pad(frame_mask.astype(bool), ((0, 0), (0, missing)))
        return fill_with_silence(latents, silence_latent, frame_mask)

    def decode_codes(self, codes: Array) -> Array:
        """Looks codes [B, Q] up as quantised vectors [B, Q, He]."""
        return self.quantizer.decode(codes)


class Detokenizer(Encoder):
    """Unfolds quantised vectors to 25 Hz latents: [B, Q, He] to [B, 5 Q, C].

    Windows do not see one another.
    """

    def setup(self) -> None:
        config = self.config
        self.build(config.num_attention_pooler_hidden_layers)  # as the released configuration
        self.special_tokens = param(
            self, "special_tokens", token_init, (1, config.pool_window_size, config.encoder.width)
        )
        self.proj_out = Linear(config.audio_acoustic_hidden_dim, use_bias=True, dtype=self.dtype)

    def __call__(self, quantized: Array) -> Array:
        """Detokenizes; the latents are the hints a cover or a plan gives the DiT."""
        batch = quantized.shape[0]
        hidden = self.embed_tokens(quantized).reshape(-1, 1, self.config.encoder.width)
        hidden = hidden + self.special_tokens.astype(hidden.dtype)
        frames = self.proj_out(self.run_layers(hidden))
        return frames.reshape(batch, -1, frames.shape[-1]).astype(jnp.float32)
