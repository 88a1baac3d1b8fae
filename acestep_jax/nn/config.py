"""What each network is: one frozen dataclass a network, and the released models as values.

Field names are those of the released `config.json` files, so that a folder's configuration reads
straight into these classes and back. Fields the released files carry without any effect on the
mathematics (`vocab_size`, `initializer_range`, ...) are left out.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from acestep_jax import units


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerSizes:
    """Sizes of one stack of transformer layers.

    Attributes:
      width: channels of the residual stream (D).
      mlp_width: channels inside the gated MLP (F).
      num_heads: query heads (N).
      num_kv_heads: key and value heads (K); query head n reads head n // (N / K).
      head_dim: channels of one head (H); N * H need not equal D.
    """

    width: int
    mlp_width: int
    num_heads: int
    num_kv_heads: int
    head_dim: int

    def __post_init__(self) -> None:
        _require(
            self.num_heads % self.num_kv_heads == 0,
            f"num_attention_heads={self.num_heads} must be a multiple of "
            f"num_key_value_heads={self.num_kv_heads}.",
        )
        _require(self.head_dim % 2 == 0, f"head_dim={self.head_dim} must be even for RoPE.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The diffusion package: DiT, condition encoder, audio tokenizer and detokenizer.

    Defaults are the released 2B model (turbo = base = sft); the XL models change the DiT's sizes
    and give the encoders their own. Source: AceStepConfig of the release.
    """

    model_version: str = "turbo"
    is_turbo: bool = False  # distilled: no guidance, few steps
    tasks: tuple[str, ...] = ("text2music", "cover", "repaint")  # what the weights were trained for
    # DiT
    hidden_size: int = 2048
    intermediate_size: int = 6144
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_key_value_heads: int = 8
    head_dim: int = 128
    # Encoders, tokenizer and detokenizer; None means "as the DiT" (the 2B family)
    encoder_hidden_size: int | None = None
    encoder_intermediate_size: int | None = None
    encoder_num_attention_heads: int | None = None
    encoder_num_key_value_heads: int | None = None
    num_lyric_encoder_hidden_layers: int = 8
    num_timbre_encoder_hidden_layers: int = 4
    num_attention_pooler_hidden_layers: int = 2  # the pooler's depth and the detokenizer's
    prepend_timbre_token: bool = False  # XL pools a learned token, the 2B models the first frame
    # Shared
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    sliding_window: int | None = 128  # patches in the DiT, tokens or frames in the encoders
    text_hidden_dim: int = 1024
    timbre_hidden_dim: int = 64
    timbre_fix_frame: int = 750  # 30 s of reference
    audio_acoustic_hidden_dim: int = 64  # latent channels
    in_channels: int = 192  # source | edit mask | noisy
    patch_size: int = 2
    pool_window_size: int = 5
    fsq_dim: int = 2048
    fsq_input_levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    timestep_mu: float = -0.4  # logit-normal training times
    timestep_sigma: float = 1.0

    def __post_init__(self) -> None:
        _require(
            self.in_channels == 3 * self.audio_acoustic_hidden_dim,
            f"in_channels={self.in_channels} must be three times audio_acoustic_hidden_dim="
            f"{self.audio_acoustic_hidden_dim}: source, edit mask and noisy latents.",
        )
        _require(self.patch_size == 2, f"patch_size={self.patch_size}; only 2 was ever released.")
        _require(
            self.fsq_dim == self.encoder.width,
            f"fsq_dim={self.fsq_dim} must equal the encoder width {self.encoder.width}.",
        )
        _ = self.dit  # its checks run here

    @property
    def dit(self) -> TransformerSizes:
        """Sizes of the DiT's layers."""
        return TransformerSizes(
            width=self.hidden_size,
            mlp_width=self.intermediate_size,
            num_heads=self.num_attention_heads,
            num_kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
        )

    @property
    def encoder(self) -> TransformerSizes:
        """Sizes of the lyric, timbre, pooling and detokenizing layers."""
        return TransformerSizes(
            width=self.encoder_hidden_size or self.hidden_size,
            mlp_width=self.encoder_intermediate_size or self.intermediate_size,
            num_heads=self.encoder_num_attention_heads or self.num_attention_heads,
            num_kv_heads=self.encoder_num_key_value_heads or self.num_key_value_heads,
            head_dim=self.head_dim,
        )

    def is_built_like(self, other: "ModelConfig") -> bool:
        """Tells whether another model's parts fit into this one, whatever it was trained for."""
        trained_for = ("model_version", "is_turbo", "tasks")
        same = {name: getattr(other, name) for name in trained_for}
        return dataclasses.replace(self, **same) == other

    @property
    def num_codes(self) -> int:
        """Size of the FSQ codebook."""
        product = 1
        for levels in self.fsq_input_levels:
            product *= levels
        return product


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen3Config:
    """A Qwen3 decoder: the text encoder (no head) or the planner (tied head).

    Defaults are Qwen3-Embedding-0.6B.
    """

    vocab_size: int = 151_669
    hidden_size: int = 1024
    intermediate_size: int = 3072
    num_hidden_layers: int = 28
    num_attention_heads: int = 16
    num_key_value_heads: int = 8
    head_dim: int = 128
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 32_768
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        _ = self.sizes

    @property
    def sizes(self) -> TransformerSizes:
        """Sizes of the decoder layers."""
        return TransformerSizes(
            width=self.hidden_size,
            mlp_width=self.intermediate_size,
            num_heads=self.num_attention_heads,
            num_kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The Oobleck autoencoder: waveform to 25 Hz latents and back. Defaults are the release."""

    audio_channels: int = 2
    sampling_rate: int = units.SAMPLE_RATE
    encoder_hidden_size: int = 128
    downsampling_ratios: tuple[int, ...] = (2, 4, 4, 6, 10)
    channel_multiples: tuple[int, ...] = (1, 2, 4, 8, 16)
    decoder_channels: int = 128
    decoder_input_channels: int = 64

    def __post_init__(self) -> None:
        _require(
            len(self.downsampling_ratios) == len(self.channel_multiples),
            f"downsampling_ratios {self.downsampling_ratios} and channel_multiples "
            f"{self.channel_multiples} must have one entry a block each.",
        )

    @property
    def hop(self) -> int:
        """Samples summarised by one latent frame: 1,920 in the release."""
        product = 1
        for ratio in self.downsampling_ratios:
            product *= ratio
        return product


_ALL_TASKS = ("text2music", "cover", "repaint", "extract", "lego", "complete")
_XL = dict(
    hidden_size=2560,
    intermediate_size=9728,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    encoder_hidden_size=2048,
    encoder_intermediate_size=6144,
    encoder_num_attention_heads=16,
    encoder_num_key_value_heads=8,
    prepend_timbre_token=True,
)
_NANO = dict(
    hidden_size=192,
    intermediate_size=576,
    num_hidden_layers=8,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=32,
    num_lyric_encoder_hidden_layers=2,
    num_timbre_encoder_hidden_layers=2,
    num_attention_pooler_hidden_layers=2,
    sliding_window=16,
    text_hidden_dim=128,
    timbre_fix_frame=128,
    fsq_dim=192,
    # 1,000 codes: nano data is far too small to fill the release's 64,000
    fsq_input_levels=(8, 5, 5, 5),
    tasks=_ALL_TASKS,
)
_TOY = dict(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    num_lyric_encoder_hidden_layers=1,
    num_timbre_encoder_hidden_layers=1,
    num_attention_pooler_hidden_layers=1,
    sliding_window=4,
    text_hidden_dim=32,
    timbre_fix_frame=16,
    fsq_dim=64,
    fsq_input_levels=(5, 5, 5),
    tasks=_ALL_TASKS,
)

MODELS: dict[str, ModelConfig] = {
    "turbo": ModelConfig(model_version="turbo", is_turbo=True),
    "base": ModelConfig(model_version="base", tasks=_ALL_TASKS),
    "sft": ModelConfig(model_version="sft"),
    "xl_turbo": ModelConfig(model_version="turbo", is_turbo=True, **_XL),
    "xl_base": ModelConfig(model_version="base", tasks=_ALL_TASKS, **_XL),
    "xl_sft": ModelConfig(model_version="sft", **_XL),
    "nano": ModelConfig(model_version="base", **_NANO),
    "nano_turbo": ModelConfig(model_version="turbo", is_turbo=True, **_NANO),
    "toy": ModelConfig(model_version="base", **_TOY),
}
"""The diffusion models by preset name; `toy` has every kind of layer once, and compiles soonest."""

TEXT_ENCODERS: dict[str, Qwen3Config] = {
    "qwen3_embedding_0p6b": Qwen3Config(),
    "nano": Qwen3Config(
        vocab_size=2176,  # 2,048 text tokens and room for Qwen3's special tokens
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
    ),
    "toy": Qwen3Config(
        vocab_size=2176,  # it reads the nano tokenizer's ids
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    ),
}
"""The text encoders by preset name."""

_PLANNER_VOCAB = 217_204  # Qwen3's 151,669 ids and 65,535 audio tokens
_NANO_PLANNER_VOCAB = 3176  # the nano tokenizer's 2,176 rows and 1,000 audio tokens
PLANNERS: dict[str, Qwen3Config] = {
    "planner_0p6b": Qwen3Config(vocab_size=_PLANNER_VOCAB, max_position_embeddings=40_960),
    "planner_1p7b": Qwen3Config(
        vocab_size=_PLANNER_VOCAB,
        hidden_size=2048,
        intermediate_size=6144,
        max_position_embeddings=40_960,
    ),
    "planner_4b": Qwen3Config(
        vocab_size=_PLANNER_VOCAB,
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
        max_position_embeddings=40_960,
    ),
    "planner_nano": Qwen3Config(
        vocab_size=_NANO_PLANNER_VOCAB,
        hidden_size=192,
        intermediate_size=576,
        num_hidden_layers=4,
        num_attention_heads=4,  # few and wide: their softmax is a quarter of a step on a processor
        num_key_value_heads=2,
        head_dim=48,
        rope_theta=10_000.0,  # songs of 30 s: at 1,000,000 half of the channels would hardly turn
    ),
    "planner_toy": Qwen3Config(
        vocab_size=_NANO_PLANNER_VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    ),
}
"""The planners by preset name."""

VAES: dict[str, VAEConfig] = {
    "vae": VAEConfig(),
    "nano": VAEConfig(encoder_hidden_size=16, decoder_channels=16),
}
"""The autoencoders by preset name."""


def model_config_from_json(values: Mapping[str, Any]) -> ModelConfig:
    """Reads a released diffusion `config.json`.

    Args:
      values: the parsed file. Keys that do not change the mathematics are ignored.

    Returns:
      The configuration; a separate encoder width marks an XL model, whose timbre encoder pools a
      learned token.

    Raises:
      ValueError: if the file asks for something no released model uses (other layer patterns,
        biases, several quantizers).
    """
    _refuse_unknown_variants(values)
    known = {field.name for field in dataclasses.fields(ModelConfig)}
    fields = {key: value for key, value in values.items() if key in known}
    fields["fsq_input_levels"] = tuple(fields.get("fsq_input_levels", (8, 8, 8, 5, 5, 5)))
    if "tasks" in fields:
        fields["tasks"] = tuple(fields["tasks"])
    elif values.get("model_version") == "base":
        fields["tasks"] = _ALL_TASKS
    if not values.get("use_sliding_window", True):
        fields["sliding_window"] = None
    fields.setdefault("prepend_timbre_token", values.get("encoder_hidden_size") is not None)
    return ModelConfig(**fields)


def _refuse_unknown_variants(values: Mapping[str, Any]) -> None:
    layer_types = values.get("layer_types")
    if layer_types is not None:
        expected = [("sliding", "full")[i % 2] + "_attention" for i in range(len(layer_types))]
        _require(
            list(layer_types) == expected,
            f"layer_types {layer_types} do not alternate sliding, full, ... as in every release.",
        )
    _require(not values.get("attention_bias", False), "attention_bias=true was never released.")
    _require(values.get("rope_scaling") is None, "rope_scaling was never used by the release.")
    quantizers = values.get("fsq_input_num_quantizers", 1)
    _require(quantizers == 1, f"fsq_input_num_quantizers={quantizers}; the release has one.")


def qwen3_config_from_json(values: Mapping[str, Any]) -> Qwen3Config:
    """Reads a Qwen3 `config.json`, whatever the case of its head.

    Raises:
      ValueError: if the file asks for attention biases, rope scaling or a sliding window.
    """
    _require(not values.get("attention_bias", False), "Qwen3 with attention_bias is not supported.")
    _require(values.get("rope_scaling") is None, "Qwen3 with rope_scaling is not supported.")
    _require(
        not values.get("use_sliding_window", False), "Qwen3 with a sliding window is not supported."
    )
    known = {field.name for field in dataclasses.fields(Qwen3Config)}
    return Qwen3Config(**{key: value for key, value in values.items() if key in known})


def vae_config_from_json(values: Mapping[str, Any]) -> VAEConfig:
    """Reads a diffusers `AutoencoderOobleck` `config.json`."""
    known = {field.name for field in dataclasses.fields(VAEConfig)}
    fields = {key: value for key, value in values.items() if key in known}
    for key in ("downsampling_ratios", "channel_multiples"):
        if key in fields:
            fields[key] = tuple(fields[key])
    return VAEConfig(**fields)
