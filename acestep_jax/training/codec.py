"""Tokenizer and detokenizer as one thing to train: latents to codes to hints, and mistakes between.

    codec = Codec(networks, silence_latent)
    vectors, codes = codec.encode(params, latents)             # [B, T, C] -> [B, Q, D], [B, Q]
    vectors = codec.misread(key, params, vectors, codes, 0.02) # some codes are a neighbour's
    hints = codec.decode(params, vectors, num_frames)          # [B, Q, D] -> [B, T, C]

`params` are those of both, {"tokenizer": ..., "detokenizer": ...}; other parts may be among them.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.data import transforms
from acestep_jax.nn import poolers
from acestep_jax.nn.model import Networks
from acestep_jax.nn.tokenizer import AttentionPooler
from acestep_jax.ops import codes as codes_lib
from acestep_jax.typing import Array, Key, Params

PARTS = ("tokenizer", "detokenizer")
POOLERS: dict[str, type[nn.Module]] = {
    "attention": AttentionPooler,
    "mean": poolers.MeanPooler,
    "conv": poolers.ConvPooler,
}
"""What may summarise a window. The release has the first; the others are for comparison."""


def with_pooler(networks: Networks, name: str) -> Networks:
    """Puts a tokenizer with another pooler in the place of the one there is."""
    tokenizer = dataclasses.replace(networks.tokenizer, pooler=POOLERS[name])
    return dataclasses.replace(networks, tokenizer=tokenizer)


def draw_params(networks: Networks, key: Key) -> Params:
    """Draws the parameters of tokenizer and detokenizer."""
    tokenizer_key, detokenizer_key = jax.random.split(key)
    sizes = networks.config
    frames = jnp.zeros((1, sizes.pool_window_size, sizes.audio_acoustic_hidden_dim))
    vectors = jnp.zeros((1, 1, sizes.fsq_dim))
    return {
        "tokenizer": networks.tokenizer.init(tokenizer_key, frames, frames)["params"],
        "detokenizer": networks.detokenizer.init(detokenizer_key, vectors)["params"],
    }


@dataclasses.dataclass(frozen=True)
class Codec:
    """The two modules, among their neighbours, and the silence that fills gaps.

    Attributes:
      networks: the modules.
      silence_latent: [S, C], the recorded silence.
    """

    networks: Networks
    silence_latent: np.ndarray

    @property
    def levels(self) -> tuple[int, ...]:
        """FSQ levels of each channel."""
        return self.networks.config.fsq_input_levels

    def encode(self, params: Params, latents: Array) -> tuple[Array, Array]:
        """Tokenizes latents [B, T, C]: quantised vectors [B, Q, D] and codes [B, Q]."""
        variables = {"params": params["tokenizer"]}
        return self.networks.tokenizer.apply(variables, latents, self.silence_latent[None])

    def decode(self, params: Params, vectors: Array, num_frames: int) -> Array:
        """Detokenizes vectors [B, Q, D] to hints [B, num_frames, C]."""
        variables = {"params": params["detokenizer"]}
        return self.networks.detokenizer.apply(variables, vectors)[:, :num_frames]

    def misread(
        self, key: Key, params: Params, vectors: Array, codes: Array, probability: float
    ) -> Array:
        """Moves some vectors to those of a neighbouring code; gradients pass as if none had moved.

        Args:
          key: of which codes, and where to.
          params: of the tokenizer.
          vectors: [B, Q, D], from `encode`.
          codes: [B, Q], from `encode`.
          probability: of each code to be wrong.
        """
        variables = {"params": params["tokenizer"]}
        lookup = functools.partial(self.networks.tokenizer.apply, variables, method="decode_codes")
        wrong = codes_lib.step_aside(key, codes, self.levels, probability)
        return vectors + lookup(wrong) - lookup(codes)

    def silence_windows(self, hints: Array, kept: Array) -> Array:
        """Silences the windows [B, Q] of hints [B, T, C] that are not kept."""
        window, num_frames = self.networks.config.pool_window_size, hints.shape[1]
        heard = jnp.repeat(kept, window, axis=1)[:, :num_frames, None]
        silence = transforms.silence_frames(self.silence_latent, num_frames)
        return jnp.where(heard, hints, silence[None])

    def start_on(self, params: Params, latents: Array) -> Params:
        """Fits the two ends of a codec drawn at random to the songs it will see.

        The quantizer looks along the principal directions of the summaries, each at unit scale:
        random summaries differ little from one another, and a few codes would take everything. The
        hints begin as the mean of all frames, whatever the code: what a random detokenizer makes of
        codes is noise, and the quickest way to less of it is to use a single code.

        Args:
          params: of both modules, drawn at random.
          latents: [B, T, C], songs to measure on.
        """
        tokenizer, detokenizer = params["tokenizer"], params["detokenizer"]
        pool = jax.jit(functools.partial(self.networks.tokenizer.apply, method="pool"))
        summaries = pool({"params": tokenizer}, latents, self.silence_latent[None])
        rows = np.asarray(summaries, np.float64).reshape(-1, summaries.shape[-1])
        mean = rows.mean(axis=0)
        variances, directions = np.linalg.eigh(np.cov(rows.T))  # in rising order
        largest = slice(-1, -len(self.levels) - 1, -1)
        kernel = directions[:, largest] / np.sqrt(np.maximum(variances[largest], 1e-12))
        project_in = {"kernel": np.float32(kernel), "bias": np.float32(-mean @ kernel)}
        proj_out = {
            "kernel": np.zeros(detokenizer["proj_out"]["kernel"].shape, np.float32),
            "bias": np.asarray(latents, np.float64).mean(axis=(0, 1)).astype(np.float32),
        }
        quantizer = {**tokenizer["quantizer"], "project_in": project_in}
        return {
            **params,
            "tokenizer": {**tokenizer, "quantizer": quantizer},
            "detokenizer": {**detokenizer, "proj_out": proj_out},
        }
