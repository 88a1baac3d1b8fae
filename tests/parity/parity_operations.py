"""What each operation of a parity folder is here: the table `OPERATIONS`.

An operation takes (checkpoint folder, parameters, inputs) and returns its outputs as arrays. A new
one is a function in the table. Arrays are laid out as in the official code; ours put channels last.
"""

import functools
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import parity_prompts
from parity_cases import Arrays, load_model, load_qwen3, load_vae

from acestep_jax import weights
from acestep_jax.nn import model as model_lib
from acestep_jax.nn.condition import ConditionEncoder
from acestep_jax.nn.config import ModelConfig
from acestep_jax.nn.dit import DiT
from acestep_jax.nn.qwen3 import Qwen3
from acestep_jax.nn.tokenizer import AudioTokenizer, Detokenizer
from acestep_jax.nn.vae import VAE
from acestep_jax.ops import corrections, grammar, levels, solvers, timesteps
from acestep_jax.ops import flow as ops_flow
from acestep_jax.ops.logits import Rules
from acestep_jax.sampling import decode, sampler, schedule
from acestep_jax.sampling.steering import Hold, Steering
from acestep_jax.tasks import condition, settings, tokens
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


def lm_greedy(folder: Path, params: Params, inputs: Arrays) -> Mapping[str, Any]:
    """Continues left-padded prompts by the best tokens."""
    return _greedy(folder, params, inputs, len(inputs["input_ids"]), None)


def lm_cfg_greedy(folder: Path, params: Params, inputs: Arrays) -> Mapping[str, Any]:
    """The same with guidance: conditional rows, then as many unconditional ones."""
    return _greedy(folder, params, inputs, len(inputs["input_ids"]) // 2, params["cfg_scale"])


def _greedy(
    folder: Path, params: Params, inputs: Arrays, items: int, scale: float | None
) -> Mapping[str, Any]:
    planner = load_qwen3(folder)
    rules = Rules(
        temperature=jnp.zeros(items), guidance=None if scale is None else jnp.full(items, scale)
    )
    program = [1 + grammar.ANY, 1 + grammar.END]
    written = decode.decode_text(
        Qwen3(planner.config),
        planner.params,
        decode.Prompts(inputs["input_ids"].astype(np.int32), inputs["attention_mask"].astype(bool)),
        jax.random.split(jax.random.key(0), items),
        grammar.unconstrained(planner.config.vocab_size),
        jnp.tile(jnp.asarray(program), (items, 1)),
        jnp.zeros(items, jnp.int32),
        rules,
        budget=params["max_new_tokens"],
    )
    dtype = np.int64  # as torch counts
    return {"new_tokens": np.asarray(written.tokens, dtype)}


# What the official `generate_audio` takes; other names are a mistake in the folder.
_SAMPLE_PARAMETERS = {
    *("infer_steps", "shift", "timesteps", "infer_method", "sampler_mode"),
    *("diffusion_guidance_scale", "use_adg", "cfg_interval_start", "cfg_interval_end"),
    *("dcw_enabled", "dcw_mode", "dcw_scaler", "dcw_high_scaler"),
    *("velocity_norm_threshold", "velocity_ema_factor", "retake_variance"),
    *("audio_cover_strength", "cover_noise_strength"),
    *("repaint_crossfade_frames", "repaint_injection_ratio"),
}


def _times(config: ModelConfig, params: Params) -> np.ndarray:
    """Lays out the official time grid, the final 0 included."""
    given = params.get("timesteps")
    if given is None:
        default_steps = 8 if config.is_turbo else 30
        steps = int(params.get("infer_steps", default_steps))
        times = np.asarray(timesteps.time_grid(steps, float(params.get("shift", 1.0))))
    elif config.is_turbo:
        times = schedule.snap_to_distilled(given)
    else:
        times = np.asarray(given, np.float32)
    return schedule.start_at(times, 1.0 - float(params.get("cover_noise_strength", 0.0)))


def _solver(config: ModelConfig, params: Params, inputs: Arrays, steps: int) -> tuple[Any, Any]:
    """Chooses the step, and the randomness of each step."""
    if params.get("infer_method", "ode") == "ode":
        if params.get("sampler_mode", "euler") == "euler":
            return solvers.euler, None
        return (settings.heun_but_last if config.is_turbo else solvers.heun), None
    given = inputs["sde_noise"]
    silent = np.zeros((steps - len(given), *given.shape[1:]), given.dtype)  # the last adds none
    noise = np.concatenate([given, silent])
    if config.is_turbo:
        return solvers.renoise, noise
    return settings.renoise_evenly, (noise, np.asarray(timesteps.time_grid(steps))[1:])


def _steering(config: ModelConfig, params: Params, inputs: Arrays, steps: int) -> Steering:
    """Reads guidance, corrections and edits from the official parameters and their defaults."""
    scale = float(params.get("diffusion_guidance_scale", 7.0))
    # distilled models take no guidance
    rule = "none" if config.is_turbo or scale <= 1 else "apg"
    if rule == "apg" and params.get("use_adg"):
        rule = "adg"
    interval = params.get("cfg_interval_start", 0.0), params.get("cfg_interval_end", 1.0)
    corrected = params.get("dcw_enabled", True)
    mode = params.get("dcw_mode", "double") if corrected else "none"
    low = params.get("dcw_scaler", 0.05)
    strength = params.get("audio_cover_strength", 1.0)
    return Steering(
        rule=rule,
        scale=scale,
        interval=None if interval == (0.0, 1.0) else interval,
        velocity_limit=params.get("velocity_norm_threshold") or None,
        velocity_memory=params.get("velocity_ema_factor") or None,
        wavelet="pixel" if mode == "pix" else mode,
        wavelet_low=low,
        wavelet_high=low if mode == "high" else params.get("dcw_high_scaler", 0.02),
        switch_step=None if strength >= 1 else int(steps * strength),
        hold=_hold(config, params, inputs, steps),
    )


def _hold(config: ModelConfig, params: Params, inputs: Arrays, steps: int) -> Hold | None:
    if "repaint_mask" not in inputs:
        return None
    held = round(float(params.get("repaint_injection_ratio", 0.5)) * steps)
    return Hold(
        edit_mask=jnp.asarray(inputs["repaint_mask"]),
        source=jnp.asarray(inputs["clean_src_latents"]),
        steps=min(held, steps - 1) if config.is_turbo else held,
        ramp=int(params.get("repaint_crossfade_frames", 10)) or None,
    )


def _start(params: Params, inputs: Arrays, first: float) -> Array:
    """The state at the schedule's first level: noise, or a cover's source under noise."""
    noise = jnp.asarray(inputs["noise"])
    if params.get("retake_variance"):
        noise = corrections.mix_noise(noise, inputs["retake_noise"], params["retake_variance"])
    if params.get("cover_noise_strength"):
        return ops_flow.interpolate(jnp.asarray(inputs["src_latents"]), noise, first)
    return noise


def _plain_conditions(model: weights.Model, inputs: Arrays) -> tuple[Array, None, Array]:
    """What a cover of less than full strength turns to: its text as text2music, on silence."""
    tokens, _ = _encode(
        model,
        inputs,
        inputs["non_cover_text_hidden_states"],
        inputs["non_cover_text_attention_mask"],
    )
    batch, frames = inputs["src_latents"].shape[:2]
    silence = jnp.repeat(model.silence_latent[:, :frames], batch, axis=0)
    return tokens, None, condition.frame_context(silence, jnp.asarray(inputs["chunk_masks"]))


@functools.partial(jax.jit, static_argnames=("dit", "step"))
def _trajectory(dit: DiT, step: Any, params: Any, conditions: Any, state: Array, grid: Any) -> Any:
    tokens, context, null, later, steering = conditions
    field = sampler.make_field(
        dit, params, tokens, None, context, None, null=null, later=later, steering=steering
    )
    times, per_step = grid
    return sampler.steered_trajectory(field, state, times, step, per_step, keep=True)


def sample(folder: Path, params: Params, inputs: Arrays) -> Mapping[str, Any]:
    """Generates latents from given noise, keeping the state after every step."""
    unknown = set(params) - _SAMPLE_PARAMETERS
    if unknown:
        raise KeyError(f"unknown parameters {sorted(unknown)} of sample")
    model = load_model(folder)
    encoded = encode_condition(folder, params, inputs)
    context, times = _context(model, inputs), _times(model.config, params)
    steps = len(times) - 1
    step, per_step = _solver(model.config, params, inputs, steps)
    steering = _steering(model.config, params, inputs, steps)
    later = None if steering.switch_step is None else _plain_conditions(model, inputs)
    state = _start(params, inputs, times[0])
    latents, states = _trajectory(
        DiT(model.config),
        step,
        model.params["dit"],
        (
            encoded["encoder_hidden_states"],
            context,
            model.params["null_condition"],
            later,
            steering,
        ),
        state,
        (times, per_step),
    )
    # the official trajectory holds the states that the DiT is queried at: noise first, result not
    queried = jnp.concatenate([state[None], states[:-1]])
    return {"latents": latents, "trajectory": queried, "context_latents": context, **encoded}


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


def generate(folder: Path, params: Params, inputs: Arrays) -> Mapping[str, Any]:
    """Goes from requests as strings to latents and audio, as the official handler does."""
    package, others = _packages(folder, params["model"])
    model = load_model(package)
    text = load_qwen3(others / "Qwen3-Embedding-0.6B")
    tokenizer = tokens.load_tokenizer(str(others / "Qwen3-Embedding-0.6B"))
    networks = model_lib.build_networks(model.config, text.config)
    batch = _handler_batch(params["requests"], tokenizer, model, len(inputs["noise"][0]))
    everything = model.params | {"text_encoder": text.params}
    made = _conditions(networks, everything, batch, model.silence_latent)
    hints, context = inputs.get("precomputed_lm_hints_25hz"), made.context
    if hints is not None:
        covers = np.full(len(hints), params["is_cover"])
        mask = jnp.asarray(batch.edit_mask)
        context = condition.frame_context(jnp.asarray(batch.source_latents), mask, hints, covers)
    times = _times(model.config, params["sampler"])
    steering = _steering(model.config, params["sampler"], inputs, len(times) - 1)
    latents, _ = _trajectory(
        networks.dit,
        solvers.euler,
        everything["dit"],
        (made.tokens, context, everything["null_condition"], None, steering),
        jnp.asarray(inputs["noise"]),
        (times, None),
    )
    vae = load_vae(others / "vae")
    audio = levels.normalize_peak(run(VAE(vae.config), vae.params, latents, method="decode"))
    return {
        "latents": latents,
        "audio": audio.swapaxes(1, 2),
        "text_ids": batch.text_tokens,
        "lyric_ids": batch.lyric_tokens,
    }


def _packages(folder: Path, name: str) -> tuple[Path, Path]:
    """Finds the diffusion package, and the folder that text encoder and autoencoder lie in.

    In the official layout all are in `folder`; of the other, `folder` is the package itself.
    """
    if (folder / name).is_dir():
        return folder / name, folder
    return folder, folder.parents[1] / "checkpoints"


def _handler_batch(
    requests: Sequence[Mapping[str, Any]], tokenizer: Any, model: weights.Model, frames: int
) -> Any:
    """Lays out what the official handler feeds text2music with: silence wherever nothing is."""
    texts = [parity_prompts.texts(request) for request in requests]
    arrays = {}
    for name, column in zip(("text", "lyric"), zip(*texts, strict=True), strict=True):
        room = max(len(tokenizer.encode(text).ids) for text in column)
        pairs = [tokens.tokenize(tokenizer, text, room) for text in column]
        ids, masks = map(np.stack, zip(*pairs, strict=True))
        arrays |= {f"{name}_tokens": ids, f"{name}_mask": masks}
    silence = np.asarray(model.silence_latent)
    return types.SimpleNamespace(
        **arrays,
        timbre_latents=np.repeat(silence[:, : model.config.timbre_fix_frame], len(texts), axis=0),
        source_latents=np.repeat(silence[:, :frames], len(texts), axis=0),
        edit_mask=np.ones((len(texts), frames), np.float32),
        is_cover=np.zeros(len(texts), bool),
    )


def _conditions(networks: Any, params: Params, batch: Any, silence: Array) -> Any:
    return condition.make_conditions(networks, params, batch, silence, covers=False)


OPERATIONS: dict[str, Operation] = {
    "dit_velocity": dit_velocity,
    "encode_condition": encode_condition,
    "tokenize": tokenize,
    "detokenize": detokenize,
    "vae_encode": vae_encode,
    "vae_decode": vae_decode,
    "text_encode": text_encode,
    "lm_forward": lm_forward,
    "lm_greedy": lm_greedy,
    "lm_cfg_greedy": lm_cfg_greedy,
    "sample": sample,
    "generate": generate,
}
"""Operations by their name in a manifest."""
