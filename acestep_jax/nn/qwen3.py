"""Qwen3: a causal transformer, the text encoder and the planner alike.

  h = embedding[token]; h += attention(norm(h)); h += mlp(norm(h)) for every layer; norm(h)

All layers are alike, stacked and scanned. Without a cache the whole sequence runs at once; with
one, new tokens are written behind the old ones into buffers of fixed size, so that a decoding loop
compiles once. Such a loop runs layer after layer, each with weights (`apart`) and buffers of its
own. The planner ties its output head to the embedding table.
"""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from acestep_jax.nn.attention import KeyValue, TransformerLayer
from acestep_jax.nn.config import Qwen3Config
from acestep_jax.nn.layers import Linear, Quirks, RMSNorm
from acestep_jax.nn.lora import WithAdapters
from acestep_jax.nn.parameter import param
from acestep_jax.ops import masks, rope
from acestep_jax.ops.sharding import share_batch
from acestep_jax.typing import Array, Params


@flax.struct.dataclass
class Cache:
    """Keys and values of the tokens seen so far, in buffers of fixed size.

    All items share one clock: token n of a call goes to slot `length + n` for the whole batch, and
    items of unequal length are padded on the left, so that decoding stays in step.

    Attributes:
      k: keys of each layer [B · K, H, S], as `ops.attention.attend_cached` reads them.
      v: values of each layer [B · K, S, H].
      mask: which slots hold a real token [B, S].
      length: slots written so far, int32 scalar.
    """

    k: tuple[Array, ...]
    v: tuple[Array, ...]
    mask: Array
    length: Array

    @property
    def size(self) -> int:
        """Slots an item (S)."""
        return self.mask.shape[1]

    def repeat(self, copies: int) -> "Cache":
        """Gives each item that many times, copies side by side."""
        batch = self.mask.shape[0]

        def rows(x: Array) -> Array:
            split = x.reshape(batch, -1, *x.shape[1:])
            return jnp.repeat(split, copies, axis=0).reshape(-1, *x.shape[1:])

        k, v = jax.tree.map(rows, (self.k, self.v))
        return Cache(k, v, jnp.repeat(self.mask, copies, axis=0), self.length)


def init_cache(config: Qwen3Config, batch: int, size: int, dtype: jnp.dtype = jnp.float32) -> Cache:
    """Makes an empty cache.

    Args:
      config: sizes of the model.
      batch: items (B).
      size: slots an item (S): prompt and continuation together.
      dtype: of keys and values; that of the model's products.
    """
    heads, width = batch * config.num_key_value_heads, config.head_dim
    layers = range(config.num_hidden_layers)
    return Cache(
        k=tuple(jnp.zeros((heads, width, size), dtype) for _ in layers),
        v=tuple(jnp.zeros((heads, size, width), dtype) for _ in layers),
        mask=jnp.zeros((batch, size), bool),
        length=jnp.zeros((), jnp.int32),
    )


def apart(params: Params) -> Params:
    """Gives each layer weights of its own, `layers/0`, `layers/1`, ...; `Qwen3` takes either form.

    For decoding loops: a layer that is cut out of stacked weights within the loop is copied at
    every token, which took half of the time at nano size on a processor. The price is memory for
    the layers once more, unless the stacked weights are let go.

    Args:
      params: of a Qwen3, perhaps with adapters (`nn.lora.WithAdapters`); if their layers are apart
        already, they are given back as they are.
    """
    if isinstance(params, WithAdapters):
        return params._replace(params=apart(params.params), lora=apart(params.lora))
    layers = params.get("layers", {})
    if not layers or "0" in layers:
        return params
    count = jax.tree.leaves(layers)[0].shape[0]
    split = {str(n): jax.tree.map(lambda x, n=n: x[n], layers) for n in range(count)}
    return {**params, "layers": split}


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
            hidden, _ = self._run(hidden, rotation, None if mask is None else present)
            return self.norm(hidden)
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
        present = mask.astype(bool)
        rotation = rope.rotation_at(masks.positions(present), self._frequencies())
        hidden = self.embed(tokens).astype(self.dtype)
        hidden, new = self._run(hidden, rotation, present, keep=True)
        k, v = zip(*(_buffers(kv, size, dtype or self.dtype) for kv in new), strict=True)
        seen = jnp.pad(present, ((0, 0), (0, size - tokens.shape[1])))
        return self.norm(hidden), Cache(k, v, seen, jnp.asarray(tokens.shape[1], jnp.int32))

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

    def head_of(self, tokens: Array) -> Array | None:
        """Gives the output head of some tokens alone, a kernel [D, K].

        For loops that score the same few tokens at every step: what is cut out of the head within
        the loop is copied each time. None where the head is a layer of its own, perhaps adapted.
        """
        if not self.config.tie_word_embeddings:
            return None
        return jnp.take(self.embed_tokens, tokens, axis=0).astype(self.dtype).T

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

    def _run(
        self, hidden: Array, rotation: rope.Rotation, mask: Array | None, *, keep: bool = False
    ) -> tuple[Array, list[KeyValue]]:
        """Runs whole sequences, and keeps each layer's keys and values [B, T, K, H] if asked."""

        def body(layer: TransformerLayer, hidden: Array, shared: Any) -> tuple[Array, Any]:
            q, kv = layer.project(hidden, shared[0])
            hidden = layer.finish(hidden, layer.self_attn.attend(q, kv, shared[1]))
            return hidden, kv if keep else None

        if not self._is_apart():
            hidden, kept = self._scan(body)(self.layers, hidden, (rotation, mask))
            count = self.config.num_hidden_layers
            return hidden, [jax.tree.map(lambda x, n=n: x[n], kept) for n in range(count)]
        new = []
        for layer in self._each_layer():
            hidden, kept = body(layer, hidden, (rotation, mask))
            new.append(kept)
        return hidden, new

    def _extend(
        self, hidden: Array, rotation: rope.Rotation, present: Array, cache: Cache
    ) -> tuple[Array, Cache]:
        """Appends to the cache and attends to all of it."""
        start = cache.length
        seen = jax.lax.dynamic_update_slice(cache.mask, present, (0, start))
        visible = seen[:, None] & masks.causal(present.shape[1], cache.size, start)[None]
        k, v = [], []
        for n, layer in enumerate(self._each_layer()):
            q, new = layer.project(hidden, rotation)
            own_k, own_v = _as_read(new, cache.k[n].dtype)
            k.append(jax.lax.dynamic_update_slice(cache.k[n], own_k, (0, 0, start)))
            v.append(jax.lax.dynamic_update_slice(cache.v[n], own_v, (0, start, 0)))
            hidden = layer.finish(hidden, layer.self_attn.attend_cached(q, k[n], v[n], visible))
        length = jnp.asarray(start + present.shape[1], jnp.int32)
        return hidden, Cache(tuple(k), tuple(v), seen, length)

    def _is_apart(self) -> bool:
        return "0" in self.layers.variables.get("params", {})

    def _each_layer(self) -> Iterator[TransformerLayer]:
        """Gives every layer, bound to its own weights."""
        variables = dict(self.layers.variables)
        for n in range(self.config.num_hidden_layers):
            if self._is_apart():
                own = {name: tree[str(n)] for name, tree in variables.items()}
            else:
                own = jax.tree.map(lambda x, n=n: x[n], variables)
            yield self.layers.clone(parent=None).bind(own)

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


def _as_read(kv: KeyValue, dtype: jnp.dtype) -> tuple[Array, Array]:
    """Turns [B, T, K, H] to a cache's [B · K, H, T] and [B · K, T, H]."""
    batch, length, heads, width = kv.k.shape
    k = kv.k.transpose(0, 2, 3, 1).reshape(batch * heads, width, length)
    v = kv.v.swapaxes(1, 2).reshape(batch * heads, length, width)
    return k.astype(dtype), v.astype(dtype)


def _buffers(kv: KeyValue, size: int, dtype: jnp.dtype) -> tuple[Array, Array]:
    """Makes a layer's buffers of `size` slots that begin with these."""
    k, v = _as_read(kv, dtype)
    rest = size - k.shape[2]
    return jnp.pad(k, ((0, 0), (0, 0), (0, rest))), jnp.pad(v, ((0, 0), (0, rest), (0, 0)))
