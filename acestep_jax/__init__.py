"""ACE-Step 1.5 in JAX: exact networks, jitted sampling, and every training stage as a script.

    import acestep_jax as ace

    model = ace.load_model("acestep-v15-turbo")         # a folder, or a hub id
    networks = ace.build_networks(model.config, ace.TEXT_ENCODERS["qwen3_embedding_0p6b"])
    sample = ace.make_sampler(networks.dit)             # compiled on first use

What stands here is the front door; the files behind it are one subject each.
"""

from acestep_jax.nn.condition import ConditionEncoder
from acestep_jax.nn.config import (
    MODELS,
    PLANNERS,
    TEXT_ENCODERS,
    VAES,
    ModelConfig,
    Qwen3Config,
    VAEConfig,
)
from acestep_jax.nn.dit import DiT
from acestep_jax.nn.model import Networks, build_networks, init_params
from acestep_jax.nn.qwen3 import Qwen3
from acestep_jax.nn.tokenizer import AudioTokenizer, Detokenizer
from acestep_jax.nn.vae import VAE, fold_weight_norm
from acestep_jax.ops.attention import attention
from acestep_jax.ops.timesteps import shift_times, time_grid
from acestep_jax.sampling.flow import initial_noise, integrate, item_keys
from acestep_jax.sampling.sampler import make_sampler
from acestep_jax.tasks.condition import Conditions, make_conditions
from acestep_jax.tasks.prompt import caption_prompt, lyric_prompt
from acestep_jax.weights import (
    load_model,
    load_qwen3,
    load_vae,
    save_model,
    save_qwen3,
    save_vae,
)

__all__ = [
    "MODELS",
    "PLANNERS",
    "TEXT_ENCODERS",
    "VAES",
    "VAE",
    "AudioTokenizer",
    "ConditionEncoder",
    "Conditions",
    "Detokenizer",
    "DiT",
    "ModelConfig",
    "Networks",
    "Qwen3",
    "Qwen3Config",
    "VAEConfig",
    "attention",
    "build_networks",
    "caption_prompt",
    "fold_weight_norm",
    "init_params",
    "initial_noise",
    "integrate",
    "item_keys",
    "load_model",
    "load_qwen3",
    "load_vae",
    "lyric_prompt",
    "make_conditions",
    "make_sampler",
    "save_model",
    "save_qwen3",
    "save_vae",
    "shift_times",
    "time_grid",
]
