"""Qwen3: a causal transformer, the text encoder and the planner alike.

  h = embedding[token]; h += attention(norm(h)); h += mlp(norm(h)) for every layer; norm(h)

All layers are alike and scanned. Without a cache the whole sequence runs at once; with one, new
tokens are written behind the old ones into buffers of fixed size, so that a decoding loop compiles
once. The planner ties its output head to the embedding table.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from acestep_jax.nn.attention import KeyValue, TransformerLayer
from acestep_jax.nn.config import Qwen3Config
from acestep_jax.nn.layers import Linear, Quirks, RMSNorm
from acestep_jax.nn.parameter import param
from acestep_jax.ops import masks, rope
from acestep_jax.ops.sharding import share_batch
from acestep_jax.typing import Array


@flax.struct.dataclass
class Cache:
    """Keys and values of the tokens seen so far, in buffers of fixed size.

    All items share one clock: token n of a call goes to slot `length + n` for the whole batch, and
    items of unequal length are padded on the left, so that decoding stays in step.

    Attributes:
      k: keys [num_layers, B, S, K, H].
      v: values, the same shape.
      mask: which slots hold a real token [B, S].
      length: slots written so far, int32 scalar.
    """

    k: Array
    v: Array
    mask: Array
    length: Array

    @property
    def size(self) -> int:
        """Slots an item (S)."""
        return self.k.shape[2]


def init_cache(config: Qwen3Config, batch: int, size: int, dtype: jnp.dtype = jnp.float32) -> Cache:
    """Makes an empty cache.

    Args:
      config: sizes of the model.
      batch: items (B).
      size: slots an item (S): prompt and continuation together.
      dtype: of keys and values; that of the model's products.
    """
    shape = (config.num_hidden_layers, batch, size, config.num_key_value_heads, config.head_dim)
    return Cache(
        k=jnp.zeros(shape, dtype),
        v=jnp.zeros(shape, dtype),
        mask=jnp.zeros((batch, size), bool),
        length=jnp.zeros((), jnp.int32),
    )


class Qwen3(nn.Module):
    """Runs tokens to hidden states, and those to logits.

    Attributes:
      config: the model's sizes.
      dtype: of the products; norms and softmax stay float32.
      remat: recompute each layer in the backward pass.
      attention: see `ops.attention.IMPLEMENTATIONS`.
      quirks: roundings of the bfloat16 release to reproduce.
    """

    config: Qwen3Config
    dtype: jnp.dtype = jnp.float32
    remat: bool = False
    attention: str = "auto"
    quirks: Quirks = Quirks()

    def setup(self) -> None:
        config = self.config
        self.embed_tokens = param(
            self,
            "embed_tokens",
            nn.initializers.normal(0.02),  # initializer_range of Qwen3
            (config.vocab_size, config.hidden_size),
        )
        self.layers = TransformerLayer(
            config.sizes,
            causal=True,
            eps=config.rms_norm_eps,
            dtype=self.dtype,
            implementation=self.attention,
        )
        self.norm = RMSNorm(config.rms_norm_eps)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.vocab_size, dtype=self.dtype)

    def __call__(
        self,
        tokens: Array,
        *,
        mask: Array | None = None,
        positions: Array | None = None,
        cache: Cache | None = None,
    ) -> Array | tuple[Array, Cache]:
        """Encodes tokens.

        Args:
          tokens: int [B, T].
          mask: [B, T], False for padding on either side; None takes all tokens as real, as the
            release calls its text encoder. [B, T, T] says what each token sees (`ops.packing`);
            positions must then be given, and there is no cache.
          positions: rotary positions [B, T]; None numbers the real tokens of each item from 0,
            after those in the cache.
          cache: what earlier calls left; the T new tokens are appended. The caller sees to it that
            cache.length + T stays within cache.size, which cannot be checked while compiling.

        Returns:
          Hidden states [B, T, D] after the final norm; with a cache, also the new cache.
        """
        if cache is not None and tokens.shape[1] > cache.size:
            raise ValueError(f"{tokens.shape[1]} tokens do not fit a cache of {cache.size} slots.")
        present = jnp.ones(tokens.shape, bool) if mask is None else mask.astype(bool)
        if present.ndim == 3 and (positions is None or cache is not None):
            raise ValueError("a mask [B, T, T] needs positions and takes no cache.")
        if positions is None:
            positions = masks.positions(present)
            if cache is not None:
                positions = positions + cache.mask.sum(axis=1, keepdims=True, dtype=jnp.int32)
        rotation = rope.rotation_at(positions, self._frequencies())
        hidden = self.embed(tokens).astype(self.dtype)
        if cache is None:
            return self.norm(self._run(hidden, rotation, None if mask is None else present))
        hidden, cache = self._extend(hidden, rotation, present, cache)
        return self.norm(hidden), cache

    def prefill(
        self, tokens: Array, mask: Array, size: int, dtype: jnp.dtype | None = None
    ) -> tuple[Array, Cache]:
        """Runs prompts and keeps their keys and values, as the beginning of a cache.

        The same as a call with an empty cache, but prompts attend to themselves alone and not to
        the whole buffer.

        Args:
          tokens: int [B, T].
          mask: [B, T], False for padding, which must stand on the left.
          size: slots an item (S), T and what will be appended together.
          dtype: of the cache; by default that of the products.

        Returns:
          Hidden states [B, T, D] after the final norm, and the cache.
        """
        if tokens.shape[1] > size:
            raise ValueError(f"{tokens.shape[1]} tokens do not fit a cache of {size} slots.")
        cache = init_cache(self.config, tokens.shape[0], size, dtype or self.dtype)
        rotation = rope.rotation_at(masks.positions(mask), self._frequencies())
        hidden = self.embed(tokens).astype(self.dtype)
        hidden, cache = self._extend(hidden, rotation, mask.astype(bool), cache, first=True)
        return self.norm(hidden), cache

    def embed(self, tokens: Array) -> Array:
        """Looks tokens [B, T] up in the embedding table, [B, T, D]."""
        return share_batch(jnp.take(self.embed_tokens, tokens, axis=0))

    def logits(self, hidden: Array, rows: tuple[int, int] | None = None) -> Array:
        """Scores the next token, float32 [B, T, V].

        Args:
          hidden: final hidden states [B, T, D].
          rows: score only tokens start <= id < stop, the audio codes for example.
        """
        start, stop = rows or (0, self.config.vocab_size)
        hidden = hidden.astype(self.dtype)
        if self.config.tie_word_embeddings:
            table = self.embed_tokens[start:stop].astype(self.dtype)
            return jnp.einsum("BTD,VD->BTV", hidden, table, preferred_element_type=jnp.float32)
        return self.lm_head(hidden)[..., start:stop].astype(jnp.float32)

    def token_logits(self, hidden: Array, tokens: Array) -> Array:
        """Scores a few tokens of each item alone: float32 [B, K].

        Args:
          hidden: final hidden states [B, D].
          tokens: int [B, K].
        """
        hidden = hidden.astype(self.dtype)
        if self.config.tie_word_embeddings:
            rows = jnp.take(self.embed_tokens, tokens, axis=0).astype(self.dtype)
            return jnp.einsum("BD,BKD->BK", hidden, rows, preferred_element_type=jnp.float32)
        scores = self.lm_head(hidden).astype(jnp.float32)
        return jnp.take_along_axis(scores, tokens, axis=1)

    def score(self, tokens: Array, *, mask: Array | None = None) -> Array:
        """Scores the next token everywhere in a sequence, float32 [B, T, V]."""
        return self.logits(self(tokens, mask=mask))

    def _frequencies(self) -> Any:
        config = self.config
        return rope.inverse_frequencies(
            config.head_dim, config.rope_theta, bfloat16=self.quirks.bfloat16_frequencies
        )

    def _run(self, hidden: Array, rotation: rope.Rotation, mask: Array | None) -> Array:
        def body(layer: TransformerLayer, hidden: Array, shared: Any) -> tuple[Array, None]:
            return layer(hidden, *shared), None

        hidden, _ = self._scan(body)(self.layers, hidden, (rotation, mask))
        return hidden

    def _extend(
        self,
        hidden: Array,
        rotation: rope.Rotation,
        present: Array,
        cache: Cache,
        *,
        first: bool = False,
    ) -> tuple[Array, Cache]:
        """Appends to the cache and attends to all of it, or to the new tokens alone if `first`.

        The buffers travel in the carry and are written in place, a slice a layer: as outputs of the
        scan they would be copied whole at every token.
        """
        start = 0 if first else cache.length
        seen = jax.lax.dynamic_update_slice(cache.mask, present, (0, start))

        def body(layer: TransformerLayer, carry: Any, shared: Any) -> tuple[Any, None]:
            hidden, k, v, index = carry
            q, new = layer.project(hidden, shared[0])
            at = (index, 0, start, 0, 0)
            k = jax.lax.dynamic_update_slice(k, new.k[None].astype(k.dtype), at)
            v = jax.lax.dynamic_update_slice(v, new.v[None].astype(v.dtype), at)
            if first:
                hidden = layer.finish(hidden, q, new, shared[1])
            else:
                own = KeyValue(
                    jax.lax.dynamic_index_in_dim(k, index, keepdims=False),
                    jax.lax.dynamic_index_in_dim(v, index, keepdims=False),
                )
                hidden = layer.finish(hidden, q, own, shared[1], start)
            return (hidden, k, v, index + 1), None

        carry = (hidden, cache.k, cache.v, jnp.zeros((), jnp.int32))
        shared = (rotation, present if first else seen)
        (hidden, k, v, _), _ = self._scan(body)(self.layers, carry, shared)
        return hidden, Cache(k, v, seen, jnp.asarray(start + present.shape[1], jnp.int32))

    def _scan(self, body: Any) -> Any:
        if self.remat:
            body = nn.remat(body, prevent_cse=False)  # a scan's body is never merged with another
        return nn.scan(
            body,
            variable_axes={"params": 0, "lora": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=self.config.num_hidden_layers,
        )
