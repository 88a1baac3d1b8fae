"""The modules of one ACE-Step model, side by side and without parameters.

Parameters travel separately, as one dictionary whose keys are the module names below plus
`null_condition` [1, 1, D], the learned state that stands for "no condition" under guidance.
"""

import dataclasses

import jax
import jax.numpy as jnp

from acestep_jax.nn.condition import ConditionEncoder
from acestep_jax.nn.config import ModelConfig, Qwen3Config
from acestep_jax.nn.dit import DiT
from acestep_jax.nn.qwen3 import Qwen3
from acestep_jax.nn.tokenizer import AudioTokenizer, Detokenizer
from acestep_jax.typing import Key, Params


@dataclasses.dataclass(frozen=True)
class Networks:
    """The five networks between text and latents.

    Attributes:
      config: sizes of the diffusion package.
      dit: velocity network; parameters under "dit".
      condition_encoder: lyrics, timbre and caption to condition tokens; "condition_encoder".
      tokenizer: 25 Hz latents to 5 Hz codes; "tokenizer".
      detokenizer: codes back to 25 Hz hints; "detokenizer".
      text_encoder: caption states and lyric embeddings; "text_encoder".
    """

    config: ModelConfig
    dit: DiT
    condition_encoder: ConditionEncoder
    tokenizer: AudioTokenizer
    detokenizer: Detokenizer
    text_encoder: Qwen3


def build_networks(
    config: ModelConfig,
    text_config: Qwen3Config,
    *,
    dtype: jnp.dtype = jnp.float32,
    remat: bool = False,
    attention: str = "auto",
) -> Networks:
    """Builds the modules of a preset.

    Args:
      config: the diffusion package, for instance `MODELS["turbo"]`.
      text_config: the text encoder, for instance `TEXT_ENCODERS["qwen3_embedding_0p6b"]`.
      dtype: compute dtype of all of them; parameters stay as they are given.
      remat: recompute the layers' activations in the backward pass.
      attention: one of `ops.attention.IMPLEMENTATIONS`; "portable" where a program is exported for
        another platform than the attached one.

    Raises:
      ValueError: if the text encoder's width is not what the condition encoder reads.
    """
    if text_config.hidden_size != config.text_hidden_dim:
        raise ValueError(
            f"the text encoder is {text_config.hidden_size} wide, but this model reads "
            f"{config.text_hidden_dim}; was it built for another preset?"
        )
    options = {"dtype": dtype, "remat": remat, "attention": attention}
    return Networks(
        config=config,
        dit=DiT(config, **options),
        condition_encoder=ConditionEncoder(config, **options),
        tokenizer=AudioTokenizer(config, **options),
        detokenizer=Detokenizer(config, **options),
        text_encoder=Qwen3(text_config, **options),
    )


def init_params(networks: Networks, key: Key) -> Params:
    """Initialises the parameters of every network, float32."""
    config = networks.config
    channels, width = config.audio_acoustic_hidden_dim, config.encoder.width
    keys = dict(zip(_PARTS, jax.random.split(key, len(_PARTS)), strict=True))
    frames = jnp.zeros((1, 2 * config.pool_window_size, channels))
    text = jnp.zeros((1, 2, config.text_hidden_dim))
    hidden = jnp.zeros((1, 2, width))
    mask = jnp.ones((1, 2), bool)
    owner = jnp.zeros((1,), jnp.int32)
    inputs = {
        "dit": (
            frames,
            jnp.ones(1),
            jnp.zeros((1, frames.shape[1], 2 * channels)),
            hidden,
        ),
        "condition_encoder": (text, mask, text, mask, frames, owner, 1),
        "tokenizer": (frames, frames),
        "detokenizer": (hidden,),
        "text_encoder": (jnp.zeros((1, 2), jnp.int32),),
    }
    params = {
        name: getattr(networks, name).init(keys[name], *arguments)["params"]
        for name, arguments in inputs.items()
    }
    # Small and random, as the release initialises its null embedding like any other weight.
    params["null_condition"] = 0.02 * jax.random.normal(keys["null_condition"], (1, 1, width))
    return params


_PARTS = (
    "dit",
    "condition_encoder",
    "tokenizer",
    "detokenizer",
    "text_encoder",
    "null_condition",
)
