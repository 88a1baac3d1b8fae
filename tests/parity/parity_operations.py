"""What each operation of a parity folder is here: the table `OPERATIONS`, and `LATER`.

An operation takes (checkpoint folder, parameters, inputs) and returns its outputs as arrays. A new
one is a function in the table. Arrays are laid out as in the official code; ours put channels last.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from parity_cases import Arrays, NotYet, load_model, load_qwen3, load_vae

from acestep_jax import weights
from acestep_jax.nn.condition import ConditionEncoder
from acestep_jax.nn.config import ModelConfig
from acestep_jax.nn.dit import DiT
from acestep_jax.nn.qwen3 import Qwen3
from acestep_jax.nn.tokenizer import AudioTokenizer, Detokenizer
from acestep_jax.nn.vae import VAE
from acestep_jax.ops import solvers, timesteps
from acestep_jax.sampling import flow, sampler
from acestep_jax.tasks import condition
from acestep_jax.typing import Array

Params = Mapping[str, Any]
Operation = Callable[[Path, Params, Arrays], Mapping[str, Any]]


@functools.partial(jax.jit, static_argnames=("module", "method", "static"))
def run(module: Any, params: Any, *args: Any, method: str = "__call__", static: tuple = (), **kw):
    """Applies a module; `static` are trailing arguments that shapes depend on."""
    return module.apply({"params": params}, *args, *static, method=method, **kw)


def dit_velocity(folder: Path, params: Params, inputs: Arrays) -> Mapping[str, Any]:
    """Evaluates the DiT once; both masks are inputs, and the official code ignores them."""
    model = load_model(folder)
    velocity = run(
        DiT(model.config),
        model.params["dit"],
        inputs["hidden_states"],
        inputs["timestep"],
        inputs["context_latents"],
        inputs["encoder_hidden_states"],
        r=inputs["timestep_r"],
    )
    return {"velocity": velocity}


def encode_condition(folder: Path, params: Params, inputs: Arrays) -> Mapping[str, Any]:
    """Encodes lyrics, references and caption, and packs them."""
    model = load_model(folder)
    tokens, mask = _encode(
        model, inputs, inputs["text_hidden_states"], inputs["text_attention_mask"]
    )
    return {"encoder_hidden_states": tokens, "encoder_attention_mask": mask}


def _encode(
    model: weights.Model, inputs: Arrays, text: np.ndarray, text_mask: np.ndarray
) -> tuple[Array, Array]:
    owner = inputs["refer_audio_order_mask"].astype(np.int32)
    return run(
        ConditionEncoder(model.config),
        model.params["condition_encoder"],
        text,
        text_mask,
        inputs["lyric_hidden_states"],
        inputs["lyric_attention_mask"],
        inputs["refer_audio_latents"],
        owner,
        static=(len(text), int(np.bincount(owner).max())),
    )


def tokenize(folder: Path, params: Params, inputs: Arrays) -> Mapping[str, Any]:
    """Turns latents into codes."""
    model = load_model(folder)
    quantized, codes = run(
        AudioTokenizer(model.config),
        model.params["tokenizer"],
        inputs["latents"],
        model.silence_latent,
    )
    return {"quantized": quantized, "indices": codes[..., None]}


def detokenize(folder: Path, params: Params, inputs: Arrays) -> Mapping[str, Any]:
    """Turns codes back into 25 Hz latents."""
    model = load_model(folder)
    quantized = run(
        AudioTokenizer(model.config),
        model.params["tokenizer"],
        inputs["indices"][..., 0].astype(np.int32),
        method="decode_codes",
    )
    hints = run(Detokenizer(model.config), model.params["detokenizer"], quantized)
    return {"quantized": quantized, "hints_25hz": hints}


def vae_encode(folder: Path, params: Params, inputs: Arrays) -> Mapping[str, Any]:
    """Encodes audio [B, 2, W] to a posterior [B, C, T]."""
    vae = load_vae(folder)
    audio = np.swapaxes(inputs["audio"], 1, 2)
    posterior = run(VAE(vae.config), vae.params, audio, method="encode")
    return {"mean": posterior.mean.swapaxes(1, 2), "std": posterior.std.swapaxes(1, 2)}


def vae_decode(folder: Path, params: Params, inputs: Arrays) -> Mapping[str, Any]:
    """Decodes latents [B, C, T] to audio [B, 2, W]."""
    vae = load_vae(folder)
    latents = np.swapaxes(inputs["latents"], 1, 2)
    return {"audio": run(VAE(vae.config), vae.params, latents, method="decode").swapaxes(1, 2)}


def text_encode(folder: Path, params: Params, inputs: Arrays) -> Mapping[str, Any]:
    """Runs the text encoder without a mask, and looks its table up."""
    encoder = load_qwen3(folder)
    module, tokens = Qwen3(encoder.config), inputs["input_ids"].astype(np.int32)
    return {
        "last_hidden_state": run(module, encoder.params, tokens),
        "embeddings": run(module, encoder.params, tokens, method="embed"),
    }


def lm_forward(folder: Path, params: Params, inputs: Arrays) -> Mapping[str, Any]:
    """Runs the planner over padded prompts."""
    planner = load_qwen3(folder)
    module, tokens = Qwen3(planner.config), inputs["input_ids"].astype(np.int32)
    hidden = run(module, planner.params, tokens, mask=inputs["attention_mask"].astype(bool))
    logits = run(module, planner.params, hidden, method="logits")
    return {"last_hidden_state": hidden, "logits": logits}


# What the official `generate_audio` takes, with the values that ask for nothing beyond one velocity
# an ODE or SDE step. Other values need guidance or editing.
_PLAIN = {
    "infer_steps": None,
    "shift": None,
    "timesteps": None,
    "infer_method": ("ode", "sde"),
    "diffusion_guidance_scale": None,
    "sampler_mode": ("euler",),
    "dcw_enabled": (False,),
    "use_adg": (False,),
    "cfg_interval_start": None,
    "cfg_interval_end": None,
    "velocity_norm_threshold": (0, 0.0),
    "velocity_ema_factor": (0, 0.0),
    "retake_variance": (0, 0.0),
    "audio_cover_strength": (1, 1.0),
    "cover_noise_strength": (0, 0.0),
    "repaint_crossfade_frames": None,
    "repaint_injection_ratio": None,
    "dcw_mode": None,
    "dcw_scaler": None,
    "dcw_high_scaler": None,
}
_EDITING_INPUTS = ("repaint_mask", "clean_src_latents", "retake_noise")


def _refuse_later(config: ModelConfig, params: Params, inputs: Arrays) -> None:
    """Raises `NotYet` for what lies beyond plain sampling, KeyError for unknown settings."""
    for name, value in params.items():
        if name not in _PLAIN:
            raise KeyError(f"unknown parameter {name!r} of sample; known are {sorted(_PLAIN)}")
        if _PLAIN[name] is not None and value not in _PLAIN[name]:
            raise NotYet(f"{name}={value}")
    if params.get("dcw_enabled", True):
        raise NotYet("wavelet correction, which is on unless dcw_enabled is false")
    # the base models' default scale is 7; distilled ones take no guidance
    if not config.is_turbo and params.get("diffusion_guidance_scale", 7.0) > 1:
        raise NotYet("guidance")
    for name in _EDITING_INPUTS:
        if name in inputs:
            raise NotYet(f"editing with {name}")


def _times(config: ModelConfig, params: Params) -> np.ndarray:
    """Lays out the official time grid, the final 0 included.

    Turbo snaps given times to the nearest of the twenty it was distilled on; base takes them as
    they are.
    """
    given = params.get("timesteps")
    if given is None:
        default_steps = 8 if config.is_turbo else 30
        steps = int(params.get("infer_steps", default_steps))
        return np.asarray(timesteps.time_grid(steps, float(params.get("shift", 1.0))))
    if not config.is_turbo:
        return np.asarray(given, np.float32)
    while given and given[-1] == 0:
        given = given[:-1]
    valid = np.array([float(level) for level in timesteps.levels(8)])
    snapped = [valid[np.argmin(np.abs(valid - time))] for time in given]
    return np.asarray([*snapped, 0.0], np.float32)


def _base_renoise(velocity: Any, x_t: Array, t: Array, t_next: Array, fresh: Any) -> Array:
    """The base models' SDE step: re-noises to the even grid, whatever grid it is queried on."""
    noise, even_next = fresh
    return solvers.renoise(velocity, x_t, t, even_next, noise)


def _solver(config: ModelConfig, params: Params, inputs: Arrays, steps: int) -> tuple[Any, Any]:
    """Chooses the step, and the randomness of each step."""
    if params.get("infer_method", "ode") == "ode":
        return solvers.euler, None
    given = inputs["sde_noise"]
    silent = np.zeros((steps - len(given), *given.shape[1:]), given.dtype)  # the last adds none
    noise = np.concatenate([given, silent])
    if config.is_turbo:
        return solvers.renoise, noise
    return _base_renoise, (noise, np.asarray(timesteps.time_grid(steps))[1:])


@functools.partial(jax.jit, static_argnames=("dit", "step"))
def _trajectory(
    dit: DiT,
    step: Any,
    params: Any,
    tokens: Array,
    context: Array,
    noise: Array,
    times: Array,
    per_step: Any,
) -> Array:
    velocity = sampler.conditional_velocity(dit, params, tokens, context)
    return flow.trajectory(velocity, noise, times, step, per_step)


def sample(folder: Path, params: Params, inputs: Arrays) -> Mapping[str, Any]:
    """Generates latents from given noise, keeping the state after every step."""
    model = load_model(folder)
    _refuse_later(model.config, params, inputs)
    encoded = encode_condition(folder, params, inputs)
    context = _context(model, inputs)
    times = _times(model.config, params)
    step, per_step = _solver(model.config, params, inputs, len(times) - 1)
    states = _trajectory(
        DiT(model.config),
        step,
        model.params["dit"],
        encoded["encoder_hidden_states"],
        context,
        inputs["noise"],
        times,
        per_step,
    )
    # the official trajectory holds the states that the DiT is queried at: noise first, result not
    queried = jnp.concatenate([inputs["noise"][None], states[:-1]])
    return {"latents": states[-1], "trajectory": queried, "context_latents": context, **encoded}


def _context(model: weights.Model, inputs: Arrays) -> Array:
    """Joins source and mask; covers read given hints, or their source through the codes."""
    source = inputs["src_latents"]
    hints = inputs.get("precomputed_lm_hints_25hz")
    if hints is None:
        quantized, _ = run(
            AudioTokenizer(model.config), model.params["tokenizer"], source, model.silence_latent
        )
        hints = run(Detokenizer(model.config), model.params["detokenizer"], quantized)
    chunk_masks = jnp.asarray(inputs["chunk_masks"])
    return condition.frame_context(jnp.asarray(source), chunk_masks, hints, inputs["is_covers"])


OPERATIONS: dict[str, Operation] = {
    "dit_velocity": dit_velocity,
    "encode_condition": encode_condition,
    "tokenize": tokenize,
    "detokenize": detokenize,
    "vae_encode": vae_encode,
    "vae_decode": vae_decode,
    "text_encode": text_encode,
    "lm_forward": lm_forward,
    "sample": sample,
}
"""Operations by their name in a manifest."""

LATER = {
    "generate": "text to audio",
    "lm_greedy": "decoding with the planner",
    "lm_cfg_greedy": "decoding with the planner",
}
"""Operations that are not built yet, and what they need."""
