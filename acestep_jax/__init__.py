"""ACE-Step 1.5 in JAX: exact networks, jitted sampling, and every training stage as a script.

    import acestep_jax as ace

    pipe = ace.Pipeline.load("nano")  # or a folder of released weights, or a hub id
    song = pipe("a quiet waltz for accordion", instrumental=True, duration=20, seed=7)
    song.audio  # [samples, 2] at 48 kHz

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
from acestep_jax.sampling.steering import Steering
from acestep_jax.tasks.condition import Conditions, make_conditions
from acestep_jax.tasks.pipeline import Pipeline, Song
from acestep_jax.tasks.prompt import caption_prompt, lyric_prompt
from acestep_jax.tasks.request import BadRequest, Request
from acestep_jax.tasks.settings import Settings
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
    "BadRequest",
    "ConditionEncoder",
    "Conditions",
    "Detokenizer",
    "DiT",
    "ModelConfig",
    "Networks",
    "Pipeline",
    "Qwen3",
    "Qwen3Config",
    "Request",
    "Settings",
    "Song",
    "Steering",
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
