"""Writes configurations as the releases' `config.json` files do, and reads diffusers' four.

`nn.config` reads the official files. Here is the way back, with the fields that a release carries
but no network uses, so that the original software accepts what we export.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acestep_jax.nn import config as nn_config
from acestep_jax.nn.config import ModelConfig, Qwen3Config, VAEConfig

Json = Mapping[str, Any]
"""A parsed `config.json`."""

_DIFFUSERS_VERSION = "0.42.1"  # the version whose layout we write

# What the released configuration carries without effect on the mathematics here.
_OFFICIAL_CONSTANTS = {
    "architectures": ["AceStepConditionGenerationModel"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "data_proportion": 0.5,
    "fsq_input_num_quantizers": 1,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 32_768,
    "model_type": "acestep",
    "num_audio_decoder_hidden_layers": 24,
    "rope_scaling": None,
    "use_cache": True,
    "vocab_size": 64_003,
}
_OUR_FIELDS = ("tasks", "prepend_timbre_token")  # ours; the release implies them


def read_json(file: Path, problems: list[str]) -> Json | None:
    """Reads a JSON object; a file that is missing or is none goes to `problems`."""
    if not file.is_file():
        problems.append(f"missing: {file.name} in {file.parent}")
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is not an object")
    except ValueError as error:
        problems.append(f"corrupt: {file.name} cannot be read ({error})")
        return None
    return values


def write_json(file: Path, values: Json) -> None:
    """Writes a JSON object with the indentation of `save_pretrained`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_model_config(values: Json) -> ModelConfig:
    """Reads a diffusion package's `config.json`, whichever transformers wrote it."""
    return nn_config.model_config_from_json(_with_plain_rope(values))


def read_qwen3_config(values: Json) -> Qwen3Config:
    """Reads a Qwen3 `config.json`, whichever transformers wrote it."""
    return nn_config.qwen3_config_from_json(_with_plain_rope(values))


def _with_plain_rope(values: Json) -> Json:
    """Lifts `rope_theta` out of the `rope_parameters` that transformers 5 puts it in."""
    rope = values.get("rope_parameters")
    if not isinstance(rope, Mapping):
        return values
    plain = rope.get("rope_type", "default") == "default"
    theta = {"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {}
    return {**values, **theta, "rope_scaling": None if plain else rope}


def is_bare_decoder(values: Json) -> bool:
    """Tells whether a Qwen3 folder holds the decoder alone, which has no head, tied or not."""
    return values.get("architectures") == ["Qwen3Model"]


def _layer_types(num_layers: int) -> list[str]:
    return [("sliding_attention", "full_attention")[index % 2] for index in range(num_layers)]


def _fields(config: ModelConfig | Qwen3Config | VAEConfig) -> dict[str, Any]:
    values = dataclasses.asdict(config)
    return {key: list(value) if isinstance(value, tuple) else value
            for key, value in values.items()}  # fmt: skip


def model_config_to_json(config: ModelConfig) -> dict[str, Any]:
    """Writes a diffusion package's configuration as the official `config.json`."""
    values = {key: value for key, value in _fields(config).items() if key not in _OUR_FIELDS}
    absent = [key for key, value in values.items() if key.startswith("encoder_") and value is None]
    for key in absent:  # the 2B release does not know these fields
        del values[key]
    values |= _OFFICIAL_CONSTANTS
    values["layer_types"] = _layer_types(config.num_hidden_layers)
    values["use_sliding_window"] = config.sliding_window is not None
    return dict(sorted(_with_the_rest(values, config, read_model_config(values)).items()))


def _with_the_rest(
    values: dict[str, Any], config: ModelConfig, implied: ModelConfig
) -> dict[str, Any]:
    """Adds the fields that what is already written does not imply."""
    for key, value in _fields(config).items():
        if getattr(config, key) != getattr(implied, key):
            values[key] = value
    return values


def qwen3_config_to_json(config: Qwen3Config, *, causal: bool) -> dict[str, Any]:
    """Writes a Qwen3 `config.json`.

    Args:
      config: the sizes.
      causal: whether the folder holds a language model (a planner) or the bare decoder.
    """
    values = _fields(config) | {
        "architectures": ["Qwen3ForCausalLM" if causal else "Qwen3Model"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "layer_types": ["full_attention"] * config.num_hidden_layers,
        "max_window_layers": config.num_hidden_layers,
        "model_type": "qwen3",
        "rope_scaling": None,
        "sliding_window": None,
        "use_cache": True,
        "use_sliding_window": False,
    }
    return dict(sorted(values.items()))


def vae_config_to_json(config: VAEConfig) -> dict[str, Any]:
    """Writes an `AutoencoderOobleck` `config.json`."""
    return diffusers_class("AutoencoderOobleck", _fields(config))


def diffusers_class(name: str, values: Json) -> dict[str, Any]:
    """Writes a configuration that names the class of diffusers that it is of."""
    head = {"_class_name": name, "_diffusers_version": _DIFFUSERS_VERSION}
    return head | dict(sorted(values.items()))


def diffusers_configs(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """Writes the four component configurations of the diffusers layout, by folder."""
    shared = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "sliding_window": config.sliding_window,
    }
    sizes = config.encoder
    encoder = shared | {
        "hidden_size": sizes.width,
        "intermediate_size": sizes.mlp_width,
        "layer_types": None,
        "num_attention_heads": sizes.num_heads,
        "num_key_value_heads": sizes.num_kv_heads,
    }
    transformer = (
        shared
        | _pick(config, _TRANSFORMER_FIELDS)
        | {"layer_types": _layer_types(config.num_hidden_layers)}
    )
    condition = encoder | _pick(config, _CONDITION_FIELDS)
    tokenizer = encoder | _pick(config, _DETOKENIZER_FIELDS)
    detokenizer = dict(tokenizer)
    tokenizer |= _pick(config, _TOKENIZER_FIELDS) | {"fsq_input_num_quantizers": 1}
    _with_the_rest(transformer, config, model_config_from_diffusers(
        {"transformer": transformer, "condition_encoder": condition, "audio_tokenizer": tokenizer}
    ))  # fmt: skip
    return {
        "transformer": diffusers_class("AceStepTransformer1DModel", transformer),
        "condition_encoder": diffusers_class("AceStepConditionEncoder", condition),
        "audio_tokenizer": diffusers_class("AceStepAudioTokenizer", tokenizer),
        "audio_token_detokenizer": diffusers_class("AceStepAudioTokenDetokenizer", detokenizer),
    }


_TRANSFORMER_FIELDS = (
    "audio_acoustic_hidden_dim",
    "encoder_hidden_size",
    "hidden_size",
    "in_channels",
    "intermediate_size",
    "is_turbo",
    "model_version",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "patch_size",
)
_CONDITION_FIELDS = (
    "num_lyric_encoder_hidden_layers",
    "num_timbre_encoder_hidden_layers",
    "text_hidden_dim",
    "timbre_hidden_dim",
)
_DETOKENIZER_FIELDS = (
    "audio_acoustic_hidden_dim",
    "num_attention_pooler_hidden_layers",
    "pool_window_size",
)
_TOKENIZER_FIELDS = ("fsq_dim", "fsq_input_levels")


def _pick(config: ModelConfig, keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: _fields(config)[key] for key in keys}


def model_config_from_diffusers(configs: Mapping[str, Json]) -> ModelConfig:
    """Joins diffusers' component configurations into one.

    Args:
      configs: parsed files by component folder; the detokenizer's says nothing new.

    Returns:
      The configuration. The encoders' sizes are spelled out only where they are not the DiT's.
    """
    transformer, condition = configs["transformer"], configs["condition_encoder"]
    values = {**transformer}
    values |= {key: condition[key] for key in _CONDITION_FIELDS if key in condition}
    tokenizer = configs["audio_tokenizer"]
    for key in (*_DETOKENIZER_FIELDS, *_TOKENIZER_FIELDS, "fsq_input_num_quantizers"):
        if key in tokenizer:
            values[key] = tokenizer[key]
    if transformer.get("encoder_hidden_size") is not None:
        for key in ("intermediate_size", "num_attention_heads", "num_key_value_heads"):
            if key in condition:
                values[f"encoder_{key}"] = condition[key]
    return read_model_config(values)
