"""What the DiT listens to: lyrics, voices to imitate and a caption, joined into one sequence.

  lyric   text-encoder embedding rows -> Linear -> layers -> norm          [B, Ll, He]
  timbre  25 Hz latents of reference clips -> Linear -> layers -> norm,
          first position only, gathered for each item                      [B, M, He]
  text    text-encoder hidden states -> Linear                             [B, Lt, He]

Joined in that order with the real tokens first: [lyric | timbre | text | padding]. Padding keeps
its encoder outputs; the release attends to it.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.nn.attention import TransformerLayer
from acestep_jax.nn.config import ModelConfig
from acestep_jax.nn.layers import Linear, Quirks, RMSNorm
from acestep_jax.nn.parameter import param
from acestep_jax.nn.stack import AlternatingStack, run_plain_layer
from acestep_jax.ops import rope
from acestep_jax.typing import Array

token_init = nn.initializers.normal(0.02)  # initializer_range of the release


class Encoder(nn.Module):
    """Embeds a sequence and runs it through plain alternating layers, ending in a norm.

    Attributes:
      config: the package's sizes; the encoder widths are used.
      dtype, remat, attention, quirks: as for the DiT.
    """

    config: ModelConfig
    dtype: jnp.dtype = jnp.float32
    remat: bool = False
    attention: str = "auto"
    quirks: Quirks = Quirks()

    def build(self, num_layers: int) -> None:
        """Makes embedding, layers and norm; the `setup` of every kind of encoder calls it."""
        config = self.config
        self.embed_tokens = Linear(config.encoder.width, use_bias=True, dtype=self.dtype)
        make_layer = functools.partial(
            TransformerLayer,
            config.encoder,
            eps=config.rms_norm_eps,
            dtype=self.dtype,
            implementation=self.attention,
        )
        self.layers = AlternatingStack(make_layer, num_layers, config.sliding_window, self.remat)
        self.norm = RMSNorm(config.rms_norm_eps)

    def run_layers(self, hidden: Array, mask: Array | None = None) -> Array:
        """Runs layers and norm on embedded tokens [B, T, He] at positions 0 .. T - 1."""
        frequencies = rope.inverse_frequencies(
            self.config.head_dim,
            self.config.rope_theta,
            bfloat16=self.quirks.bfloat16_frequencies,
        )
        rotation = rope.rotation_at(jnp.arange(hidden.shape[1]), frequencies)
        hidden, _ = self.layers.run(run_plain_layer, hidden, (rotation, mask))
        return self.norm(hidden)

    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        """Encodes [B, T, ...] to [B, T, He]; `mask` [B, T] hides padding from every token."""
        return self.run_layers(self.embed_tokens(x), mask)


class LyricEncoder(Encoder):
    """Encodes lyric tokens."""

    def setup(self) -> None:
        self.build(self.config.num_lyric_encoder_hidden_layers)


class Summarizer(Encoder):
    """Encodes a sequence to the one vector that its first position gathers."""

    def build(self, num_layers: int) -> None:
        """Adds the learned token that may stand before the sequence."""
        super().build(num_layers)
        self.special_token = param(
            self, "special_token", token_init, (1, 1, self.config.encoder.width)
        )

    def summarize(self, x: Array, *, prepend_token: bool = True) -> Array:
        """Encodes [N, T, ...], with the learned token put first or without, to [N, He]."""
        hidden = self.embed_tokens(x)
        if prepend_token:
            token = jnp.broadcast_to(self.special_token, (hidden.shape[0], 1, hidden.shape[-1]))
            hidden = jnp.concatenate([token.astype(hidden.dtype), hidden], axis=1)
        return self.run_layers(hidden)[:, 0]


class TimbreEncoder(Summarizer):
    """Summarises a reference clip in one vector: latents [N, F, C] to [N, He].

    The 2B models read the encoding of the first frame, the XL models that of a learned token put
    before the frames. The released 2B files hold the token too, unused.
    """

    def setup(self) -> None:
        self.build(self.config.num_timbre_encoder_hidden_layers)

    def __call__(self, latents: Array) -> Array:
        """Encodes each clip; clips are not masked, their whole length counts."""
        return self.summarize(latents, prepend_token=self.config.prepend_timbre_token)


class ConditionEncoder(nn.Module):
    """Encodes lyrics, references and caption into the sequence the DiT attends to."""

    config: ModelConfig
    dtype: jnp.dtype = jnp.float32
    remat: bool = False
    attention: str = "auto"
    quirks: Quirks = Quirks()

    def setup(self) -> None:
        config = self.config
        options = dict(
            dtype=self.dtype, remat=self.remat, attention=self.attention, quirks=self.quirks
        )
        self.text_projector = Linear(config.encoder.width, dtype=self.dtype)
        self.lyric_encoder = LyricEncoder(config, **options)
        self.timbre_encoder = TimbreEncoder(config, **options)

    def __call__(
        self,
        text_hidden: Array,
        text_mask: Array,
        lyric_hidden: Array,
        lyric_mask: Array,
        timbre_latents: Array,
        timbre_owner: Array | None = None,
        num_items: int | None = None,
        max_refs: int | None = None,
    ) -> tuple[Array, Array]:
        """Builds the condition.

        Args:
          text_hidden: last hidden states of the text encoder for the caption [B, Lt, 1024].
          text_mask: [B, Lt].
          lyric_hidden: rows of the text encoder's embedding table [B, Ll, 1024].
          lyric_mask: [B, Ll]; hides padding inside the lyric encoder, too.
          timbre_latents: reference clips of all items together [N, F, C].
          timbre_owner: the item each clip belongs to, int [N]; None for one clip an item, in order.
          num_items: B; None takes it from `text_hidden`.
          max_refs: room for clips an item (M), static. None counts them where `timbre_owner` is
            known before compilation, and otherwise leaves room for all N in each item, which is
            right but long: pass it inside jit.

        Returns:
          condition [B, Ll + M + Lt, He], and its mask [B, Ll + M + Lt], real tokens first.

        Raises:
          ValueError: if clips and items do not match.
        """
        num_items = text_hidden.shape[0] if num_items is None else num_items
        timbre = self.timbre_encoder(timbre_latents)
        owner, max_refs = _resolve_owner(timbre_owner, timbre.shape[0], num_items, max_refs)
        timbre, timbre_mask = gather_references(timbre, owner, num_items, max_refs)
        lyric = self.lyric_encoder(lyric_hidden, lyric_mask.astype(bool))
        text = self.text_projector(text_hidden)
        sung, sung_mask = pack(lyric, timbre, lyric_mask, timbre_mask)
        return pack(sung, text, sung_mask, text_mask)


def _resolve_owner(
    owner: Array | None, num_refs: int, num_items: int, max_refs: int | None
) -> tuple[Array, int]:
    if owner is None:
        if num_refs != num_items:
            raise ValueError(
                f"{num_refs} reference clips for {num_items} items: pass timbre_owner, the item "
                "each clip belongs to."
            )
        return jnp.arange(num_items), 1 if max_refs is None else max_refs
    try:
        counts = np.bincount(np.asarray(owner), minlength=num_items)
    except jax.errors.TracerArrayConversionError:
        return owner, num_refs if max_refs is None else max_refs
    if len(counts) > num_items:
        raise ValueError(f"timbre_owner names item {len(counts) - 1} of {num_items}.")
    most = int(counts.max())
    if max_refs is not None and max_refs < most:
        raise ValueError(f"an item has {most} reference clips but max_refs is {max_refs}.")
    return jnp.asarray(owner), most if max_refs is None else max_refs


def gather_references(
    timbre: Array, owner: Array, num_items: int, max_refs: int
) -> tuple[Array, Array]:
    """Sorts references to their items, in their original order.

    Args:
      timbre: one vector a reference [N, D].
      owner: the item of each [N].
      num_items: B.
      max_refs: M, at least the largest count.

    Returns:
      [B, M, D], zeros where an item has fewer, and the mask [B, M].
    """
    same = owner[None, :] == owner[:, None]
    slot = jnp.sum(jnp.tril(same, -1), axis=1)  # references of the same item before this one
    gathered = jnp.zeros((num_items, max_refs, timbre.shape[-1]), timbre.dtype)
    mask = jnp.zeros((num_items, max_refs), bool)
    return gathered.at[owner, slot].set(timbre), mask.at[owner, slot].set(True)


def pack(first: Array, second: Array, first_mask: Array, second_mask: Array) -> tuple[Array, Array]:
    """Joins two sequences, real tokens first, each group in its original order.

    Args:
      first: [B, L1, D].
      second: [B, L2, D].
      first_mask: [B, L1].
      second_mask: [B, L2].

    Returns:
      [B, L1 + L2, D], padding kept at the end, and the mask.
    """
    joined = jnp.concatenate([first, second.astype(first.dtype)], axis=1)
    mask = jnp.concatenate([first_mask.astype(bool), second_mask.astype(bool)], axis=1)
    order = jnp.argsort(~mask, axis=1, stable=True)
    return jnp.take_along_axis(joined, order[..., None], axis=1), jnp.take_along_axis(
        mask, order, axis=1
    )
