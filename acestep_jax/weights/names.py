"""The table of released tensor names: where each one lives in our trees, and how it is turned.

An `Entry` is one row: the official name and shape, the path of our leaf, and the axes that lead
from one to the other. `model_entries`, `vae_entries` and `qwen3_entries` list every tensor of a
configuration, nothing else being stored in a release; `diffusers_location` renames the first.

Our trees differ from the released names in four ways:

  * Linear kernels are [in, out], convolution kernels [k, in, out];
  * layers of one kind are stacked along a leading axis, as `nn.scan` wants them: alternating stacks
    as pairs (`layers/pairs/sliding`, `layers/pairs/full`, and `layers/last` if their number is
    odd), Qwen3's as they are (`layers`);
  * weight-norm gains and Snake parameters lose their axes of size one;
  * the sequence indices of wrappers go (`proj_in.1`), and `block.3` is `block_3`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

from acestep_jax.nn.config import ModelConfig, Qwen3Config, TransformerSizes, VAEConfig

Path = tuple[str, ...]
"""Keys from the root of a parameter tree to a leaf."""

_AS_IS: tuple[int, ...] = ()
_LINEAR = (1, 0)  # [out, in] -> [in, out]
_CONV = (2, 1, 0)  # [out, in, k] -> [k, in, out]
_CONV_TRANSPOSE = (2, 0, 1)  # [in, out, k] -> [k, in, out]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One released tensor and its place in our tree.

    Attributes:
      name: official key.
      shape: shape as released.
      path: our leaf.
      axes: our tensor is `released.transpose(axes)`; empty leaves it alone.
      squeeze: drop axes of size one after transposing.
      row: index along the leaf's leading stack axis, None for leaves that are not stacked.
      num_rows: length of that axis.
    """

    name: str
    shape: tuple[int, ...]
    path: Path
    axes: tuple[int, ...] = _AS_IS
    squeeze: bool = False
    row: int | None = None
    num_rows: int = 1

    @property
    def turned_shape(self) -> tuple[int, ...]:
        """Shape after the transposition, before anything is dropped or stacked."""
        return tuple(self.shape[axis] for axis in self.axes) if self.axes else self.shape

    @property
    def leaf_shape(self) -> tuple[int, ...]:
        """Shape of the whole leaf, stack axis included."""
        shape = self.turned_shape
        if self.squeeze:
            shape = tuple(size for size in shape if size != 1) or (1,)
        return shape if self.row is None else (self.num_rows, *shape)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return math.prod(self.shape)


Entries = Iterator[Entry]


def _under(name: str, path: Path | str, entries: Entries) -> Entries:
    """Moves entries below a name and a path."""
    path = (path,) if isinstance(path, str) else path
    for entry in entries:
        yield dataclasses.replace(entry, name=f"{name}.{entry.name}", path=(*path, *entry.path))


def _linear(name: str, fan_in: int, fan_out: int, *, bias: bool = True) -> Entries:
    yield Entry(f"{name}.weight", (fan_out, fan_in), (name, "kernel"), _LINEAR)
    if bias:
        yield Entry(f"{name}.bias", (fan_out,), (name, "bias"))


def _norm(name: str, width: int) -> Entries:
    yield Entry(f"{name}.weight", (width,), (name, "weight"))


def _free(name: str, *shape: int) -> Entries:
    yield Entry(name, shape, (name,))


def _attention(name: str, sizes: TransformerSizes) -> Entries:
    """Query, key, value and output projections, and the norms of queries and keys."""
    query = sizes.num_heads * sizes.head_dim
    key_value = sizes.num_kv_heads * sizes.head_dim

    def parts() -> Entries:
        yield from _linear("q_proj", sizes.width, query, bias=False)
        yield from _linear("k_proj", sizes.width, key_value, bias=False)
        yield from _linear("v_proj", sizes.width, key_value, bias=False)
        yield from _linear("o_proj", query, sizes.width, bias=False)
        yield from _norm("q_norm", sizes.head_dim)
        yield from _norm("k_norm", sizes.head_dim)

    return _under(name, name, parts())


def _mlp(sizes: TransformerSizes) -> Entries:
    def parts() -> Entries:
        yield from _linear("gate_proj", sizes.width, sizes.mlp_width, bias=False)
        yield from _linear("up_proj", sizes.width, sizes.mlp_width, bias=False)
        yield from _linear("down_proj", sizes.mlp_width, sizes.width, bias=False)

    return _under("mlp", "mlp", parts())


def _plain_layer(sizes: TransformerSizes) -> Entries:
    """A layer of Qwen3, and of every encoder here."""
    yield from _norm("input_layernorm", sizes.width)
    yield from _attention("self_attn", sizes)
    yield from _norm("post_attention_layernorm", sizes.width)
    yield from _mlp(sizes)


def _dit_layer(sizes: TransformerSizes) -> Entries:
    yield from _free("scale_shift_table", 1, 6, sizes.width)
    yield from _norm("self_attn_norm", sizes.width)
    yield from _attention("self_attn", sizes)
    yield from _norm("cross_attn_norm", sizes.width)
    yield from _attention("cross_attn", sizes)
    yield from _norm("mlp_norm", sizes.width)
    yield from _mlp(sizes)


LayerFn = Callable[[TransformerSizes], Entries]


def _alternating(layer: LayerFn, sizes: TransformerSizes, num_layers: int) -> Entries:
    """Lists layers that alternate sliding and full, stacked in pairs."""
    num_pairs = num_layers // 2
    for index in range(num_layers):
        for entry in layer(sizes):
            if index == 2 * num_pairs:
                place: dict = {"path": ("layers", "last", *entry.path)}
            else:
                kind = ("sliding", "full")[index % 2]
                place = {
                    "path": ("layers", "pairs", kind, *entry.path),
                    "row": index // 2,
                    "num_rows": num_pairs,
                }
            yield dataclasses.replace(entry, name=f"layers.{index}.{entry.name}", **place)


def _alike(layer: LayerFn, sizes: TransformerSizes, num_layers: int) -> Entries:
    """Lists layers of one kind, stacked as they are."""
    for index in range(num_layers):
        for entry in layer(sizes):
            yield dataclasses.replace(
                entry,
                name=f"layers.{index}.{entry.name}",
                path=("layers", *entry.path),
                row=index,
                num_rows=num_layers,
            )


def _time_embedding(name: str, width: int) -> Entries:
    def parts() -> Entries:
        yield from _linear("linear_1", 256, width)  # 128 cosines and 128 sines
        yield from _linear("linear_2", width, width)
        yield from _linear("time_proj", width, 6 * width)

    return _under(name, name, parts())


def _dit(config: ModelConfig) -> Entries:
    sizes, patch = config.dit, config.patch_size
    width, channels = sizes.width, config.audio_acoustic_hidden_dim
    yield from _free("scale_shift_table", 1, 2, width)
    shape = (width, config.in_channels, patch)
    yield Entry("proj_in.1.weight", shape, ("proj_in", "kernel"), _CONV)
    yield Entry("proj_in.1.bias", (width,), ("proj_in", "bias"))
    yield from _time_embedding("time_embed", width)
    yield from _time_embedding("time_embed_r", width)
    yield from _linear("condition_embedder", config.encoder.width, width)
    yield from _alternating(_dit_layer, sizes, config.num_hidden_layers)
    yield from _norm("norm_out", width)
    shape = (width, channels, patch)
    yield Entry("proj_out.1.weight", shape, ("proj_out", "kernel"), _CONV_TRANSPOSE)
    yield Entry("proj_out.1.bias", (channels,), ("proj_out", "bias"))


def _encoder_stack(name: str, fan_in: int, sizes: TransformerSizes, num_layers: int) -> Entries:
    """A linear embedding, alternating layers and a final norm, under one name."""

    def parts() -> Entries:
        yield from _linear("embed_tokens", fan_in, sizes.width)
        yield from _alternating(_plain_layer, sizes, num_layers)
        yield from _norm("norm", sizes.width)

    return _under(name, name, parts())


def _condition_encoder(config: ModelConfig) -> Entries:
    sizes, text = config.encoder, config.text_hidden_dim
    yield from _linear("text_projector", text, sizes.width, bias=False)
    num_layers = config.num_lyric_encoder_hidden_layers
    yield from _encoder_stack("lyric_encoder", text, sizes, num_layers)
    token = _free("special_token", 1, 1, sizes.width)
    yield from _under("timbre_encoder", "timbre_encoder", token)
    num_layers = config.num_timbre_encoder_hidden_layers
    yield from _encoder_stack("timbre_encoder", config.timbre_hidden_dim, sizes, num_layers)


def _tokenizer(config: ModelConfig) -> Entries:
    sizes, digits = config.encoder, len(config.fsq_input_levels)
    yield from _linear("audio_acoustic_proj", config.audio_acoustic_hidden_dim, sizes.width)
    token = _free("special_token", 1, 1, sizes.width)
    yield from _under("attention_pooler", "attention_pooler", token)
    num_layers = config.num_attention_pooler_hidden_layers
    yield from _encoder_stack("attention_pooler", sizes.width, sizes, num_layers)
    project_in = _linear("project_in", config.fsq_dim, digits)
    yield from _under("quantizer", "quantizer", project_in)
    project_out = _linear("project_out", digits, config.fsq_dim)
    yield from _under("quantizer", "quantizer", project_out)


def _detokenizer(config: ModelConfig) -> Entries:
    sizes = config.encoder
    yield from _free("special_tokens", 1, config.pool_window_size, sizes.width)
    yield from _linear("embed_tokens", sizes.width, sizes.width)
    num_layers = config.num_attention_pooler_hidden_layers  # the release shares the field
    yield from _alternating(_plain_layer, sizes, num_layers)
    yield from _norm("norm", sizes.width)
    yield from _linear("proj_out", sizes.width, config.audio_acoustic_hidden_dim)


def model_entries(config: ModelConfig) -> list[Entry]:
    """Lists the tensors of a diffusion package: 677 for the 2B models, 829 for XL."""
    null = Entry("null_condition_emb", (1, 1, config.encoder.width), ("null_condition",))
    return [
        *_under("decoder", "dit", _dit(config)),
        *_under("encoder", "condition_encoder", _condition_encoder(config)),
        *_under("tokenizer", "tokenizer", _tokenizer(config)),
        *_under("detokenizer", "detokenizer", _detokenizer(config)),
        null,
    ]


def qwen3_entries(config: Qwen3Config, *, head: bool | None = None) -> list[Entry]:
    """Lists the tensors of a Qwen3 without the `model.` prefix: 310 for the 0.6B.

    Args:
      config: the decoder's sizes.
      head: whether a separate `lm_head.weight` is stored; None means "unless tied".
    """
    sizes = config.sizes
    head = not config.tie_word_embeddings if head is None else head
    table = (config.vocab_size, sizes.width)
    return [
        Entry("embed_tokens.weight", table, ("embed_tokens",)),
        *_alike(_plain_layer, sizes, config.num_hidden_layers),
        *_norm("norm", sizes.width),
        *([Entry("lm_head.weight", table, ("lm_head", "kernel"), _LINEAR)] if head else []),
    ]


def _snake(name: str, channels: int) -> Entries:
    for part in ("alpha", "beta"):
        yield Entry(f"{name}.{part}", (1, channels, 1), (name, part), squeeze=True)


def _normed_conv(
    name: str, fan_in: int, fan_out: int, taps: int, *, transposed: bool = False, bias: bool = True
) -> Entries:
    """A weight-normalised convolution; the gain belongs to the kernel's first released axis."""
    first, second = (fan_in, fan_out) if transposed else (fan_out, fan_in)
    axes = _CONV_TRANSPOSE if transposed else _CONV
    yield Entry(f"{name}.weight_g", (first, 1, 1), (name, "weight_g"), squeeze=True)
    yield Entry(f"{name}.weight_v", (first, second, taps), (name, "weight_v"), axes)
    if bias:
        yield Entry(f"{name}.bias", (fan_out,), (name, "bias"))


def _residual_units(channels: int) -> Entries:
    def unit() -> Entries:
        yield from _snake("snake1", channels)
        yield from _normed_conv("conv1", channels, channels, 7)
        yield from _snake("snake2", channels)
        yield from _normed_conv("conv2", channels, channels, 1)

    for index in (1, 2, 3):
        yield from _under(f"res_unit{index}", f"res_unit{index}", unit())


def _vae_widths(base: int, multiples: Sequence[int]) -> list[int]:
    """Channels between blocks; a leading multiple of one is implied by the released config."""
    return [base * multiple for multiple in (1, *multiples)]


def _vae_encoder(config: VAEConfig) -> Entries:
    widths = _vae_widths(config.encoder_hidden_size, config.channel_multiples)
    yield from _normed_conv("conv1", config.audio_channels, widths[0], 7)
    for index, stride in enumerate(config.downsampling_ratios):
        fan_in, fan_out = widths[index : index + 2]

        def block(fan_in: int = fan_in, fan_out: int = fan_out, stride: int = stride) -> Entries:
            yield from _residual_units(fan_in)
            yield from _snake("snake1", fan_in)
            yield from _normed_conv("conv1", fan_in, fan_out, 2 * stride)

        yield from _under(f"block.{index}", f"block_{index}", block())
    yield from _snake("snake1", widths[-1])
    yield from _normed_conv("conv2", widths[-1], 2 * config.decoder_input_channels, 3)


def _vae_decoder(config: VAEConfig) -> Entries:
    widths = _vae_widths(config.decoder_channels, config.channel_multiples)[::-1]
    yield from _normed_conv("conv1", config.decoder_input_channels, widths[0], 7)
    for index, stride in enumerate(reversed(config.downsampling_ratios)):
        fan_in, fan_out = widths[index : index + 2]

        def block(fan_in: int = fan_in, fan_out: int = fan_out, stride: int = stride) -> Entries:
            yield from _snake("snake1", fan_in)
            yield from _normed_conv("conv_t1", fan_in, fan_out, 2 * stride, transposed=True)
            yield from _residual_units(fan_out)

        yield from _under(f"block.{index}", f"block_{index}", block())
    yield from _snake("snake1", widths[-1])
    yield from _normed_conv("conv2", widths[-1], config.audio_channels, 7, bias=False)


def vae_entries(config: VAEConfig) -> list[Entry]:
    """Lists the tensors of an autoencoder: 365 for the release."""
    return [
        *_under("encoder", "encoder", _vae_encoder(config)),
        *_under("decoder", "decoder", _vae_decoder(config)),
    ]


DIFFUSERS_COMPONENTS = (
    "transformer",
    "condition_encoder",
    "audio_tokenizer",
    "audio_token_detokenizer",
)
"""Folders that a diffusion package becomes in the diffusers layout."""

_COMPONENT_OF = {
    "decoder": "transformer",
    "encoder": "condition_encoder",
    "tokenizer": "audio_tokenizer",
    "detokenizer": "audio_token_detokenizer",
}
_DIFFUSERS_PARTS = {
    "q_proj": "to_q",
    "k_proj": "to_k",
    "v_proj": "to_v",
    "o_proj": "to_out.0",
    "q_norm": "norm_q",
    "k_norm": "norm_k",
}


def diffusers_location(name: str) -> tuple[str, str]:
    """Renames an official model tensor for diffusers: (component folder, key in its file).

    Source: the released diffusers checkpoints and diffusers 0.42.1.
    """
    if name == "null_condition_emb":
        return "condition_encoder", name
    part, _, key = name.partition(".")
    if part == "decoder" and key.startswith(("proj_in.1.", "proj_out.1.")):
        key = key.replace(".1.", "_conv.", 1)  # the detokenizer's proj_out keeps its name
    words = [_DIFFUSERS_PARTS.get(word, word) for word in key.split(".")]
    return _COMPONENT_OF[part], ".".join(words)
