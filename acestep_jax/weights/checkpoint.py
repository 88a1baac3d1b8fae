"""What a loaded checkpoint is: configuration, parameters, and how it was stored.

Three layouts of a diffusion package are known:

  official    config.json, model.safetensors, silence_latent.pt
  diffusers   a folder a component: transformer, condition_encoder, audio_tokenizer,
              audio_token_detokenizer
  native      config.json, model.safetensors with our own leaves, silence included

Autoencoders and Qwen3s look the same in the first two.
"""

import dataclasses
from collections.abc import Mapping
from typing import Generic, TypeVar

from acestep_jax.nn.config import ModelConfig, Qwen3Config, VAEConfig
from acestep_jax.typing import Array, Params
from acestep_jax.weights.configs import Json

LAYOUTS = ("official", "diffusers", "native")
"""Ways to lay out a diffusion package on disk."""

SILENCE = "silence_latent"
"""Name of the recorded silence, as a file and as a tensor."""

STEMS = ("model", "diffusion_pytorch_model")
"""Names that weight files have, without suffix."""

NATIVE_METADATA = {"format": "acestep-jax"}
"""What marks a file of our own layout; PyTorch's say "pt"."""


@dataclasses.dataclass(frozen=True)
class Source:
    """How a checkpoint was stored, so that it can be stored so again.

    Attributes:
      layout: one of `LAYOUTS`.
      configs: its configuration files as found, by component ("" for the folder's own).
      dtypes: header dtype by tensor name.
      prefix: what precedes every tensor name: "model." in some Qwen3 folders.
      tied_head: whether a copy of the embedding was stored as the head.
    """

    layout: str = "official"
    configs: Mapping[str, Json] = dataclasses.field(default_factory=dict)
    dtypes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prefix: str = ""
    tied_head: bool = False


@dataclasses.dataclass(frozen=True)
class Model:
    """A diffusion package.

    Attributes:
      config: its sizes.
      params: "dit", "condition_encoder", "tokenizer", "detokenizer" and "null_condition".
      silence_latent: [1, S, C], the recorded silence.
      source: how it was stored, if it was loaded.
    """

    config: ModelConfig
    params: Params
    silence_latent: Array
    source: Source = dataclasses.field(default_factory=Source)


ConfigT = TypeVar("ConfigT", VAEConfig, Qwen3Config)


@dataclasses.dataclass(frozen=True)
class Network(Generic[ConfigT]):
    """An autoencoder or a Qwen3: sizes, parameters, and how it was stored if it was loaded."""

    config: ConfigT
    params: Params
    source: Source = dataclasses.field(default_factory=Source)
