"""The other side: PyTorch's diffusers at the same sizes, run as its pipeline runs it.

Imported only where it is asked for; PyTorch is no dependency of the package.
"""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import (
    AceStepTransformer1DModel,
    AutoencoderOobleck,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.pipelines.ace_step import modeling_ace_step
from diffusers.utils import logging as diffusers_logging
from transformers import AutoConfig, AutoModelForCausalLM

from acestep_jax.ops import timesteps
from acestep_jax.weights import configs
from experiments.benchmarks.ours import product_size
from experiments.benchmarks.problem import Problem, draw_inputs, split_item
from experiments.benchmarks.timing import Contestant, Run
from experiments.planner import speed

Call = Callable[[], Any]

diffusers_logging.set_verbosity_error()  # it warns of every cast, also of the one to float32


def contestant(problem: Problem, item: str, *, threads: int, compiled: bool) -> Contestant:
    """Builds the item and its yardstick.

    Args:
      problem: the file of sizes.
      item: what to time.
      threads: of PyTorch on the processor.
      compiled: pass the network through `torch.compile`.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(problem.seed)
    device = _device()
    call = _BUILDERS[split_item(item)[0]](problem, item, compiled)
    size = product_size(device.type)
    a = torch.randn(2, size, size, device=device, dtype=_dtype(problem))
    return Contestant(
        run=_finished(call), product=_finished(lambda: a[0] @ a[1]), product_operations=2 * size**3
    )


def compiles(item: str) -> bool:
    """Whether the compiled form is worth timing: the loop and the VAE, where it is used."""
    return split_item(item)[0] in ("dit_loop", "vae_encode", "vae_decode")


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _dtype(problem: Problem) -> torch.dtype:
    return getattr(torch, problem.dtype)


def _finished(call: Call) -> Run:
    @torch.inference_mode()
    def run() -> None:
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return run


def _build(module_class: type[Any], problem: Problem, values: dict[str, Any]) -> Any:
    """Builds a module from those of `values` that its constructor takes."""
    known = inspect.signature(module_class.__init__).parameters
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the VAE's weight_norm is the old one
        module = module_class(**{name: value for name, value in values.items() if name in known})
    return module.eval().to(_device(), _dtype(problem))


def _encoder_values(problem: Problem) -> dict[str, Any]:
    """Gives the section `dit` with the encoders' widths where they differ from the DiT's."""
    values = dict(problem.dit or {})
    for name, value in list(values.items()):
        if name.startswith("encoder_") and value is not None:
            values[name.removeprefix("encoder_")] = value
    return values


def _tensors(problem: Problem, item: str) -> dict[str, torch.Tensor]:
    def convert(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(_device(), _dtype(problem))

    return {name: convert(array) for name, array in draw_inputs(problem, item).items()}


def _maybe_compile(call: Callable[..., Any], compiled: bool) -> Callable[..., Any]:
    if not compiled:
        return call
    torch.compiler.reset()  # so that no other item's shapes make this one's dynamic
    return torch.compile(call)


def _dit_forward(problem: Problem, item: str, compiled: bool) -> Call:
    dit = _build(AceStepTransformer1DModel, problem, dict(problem.dit or {}))
    forward = _maybe_compile(dit, compiled)
    tensors = _tensors(problem, item)
    times = torch.ones(problem.batch(item), device=_device(), dtype=_dtype(problem))

    return lambda: forward(
        hidden_states=tensors["x_t"],
        timestep=times,
        timestep_r=times,
        encoder_hidden_states=tensors["condition"],
        context_latents=tensors["context"],
        return_dict=False,
    )


def _dit_loop(problem: Problem, item: str, compiled: bool) -> Call:
    dit = _build(AceStepTransformer1DModel, problem, dict(problem.dit or {}))
    forward = _maybe_compile(dit, compiled)
    tensors = _tensors(problem, item)
    state = tensors["x_t"], tensors["condition"], tensors["context"]
    return lambda: _denoise(forward, problem, *state)


def _denoise(
    forward: Callable[..., Any],
    problem: Problem,
    x_t: torch.Tensor,
    condition: torch.Tensor,
    context: torch.Tensor,
) -> torch.Tensor:
    """Follows the denoising loop of `AceStepPipeline.__call__` without guidance."""
    shapes = problem.shapes
    sigmas = np.asarray(timesteps.time_grid(shapes.steps, shapes.shift))[:-1].tolist()
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0)
    scheduler.set_timesteps(sigmas=sigmas, device=_device())
    for time in torch.as_tensor(scheduler.timesteps):
        now = float(time) * torch.ones(len(x_t), device=x_t.device, dtype=x_t.dtype)
        (velocity,) = forward(
            hidden_states=x_t,
            timestep=now,
            timestep_r=now,
            encoder_hidden_states=condition,
            context_latents=context,
            return_dict=False,
        )
        x_t = scheduler.step(velocity, time, x_t, return_dict=False)[0]
    return x_t


def _condition_encoder(problem: Problem, item: str, compiled: bool) -> Call:
    encoder = _build(modeling_ace_step.AceStepConditionEncoder, problem, _encoder_values(problem))
    tensors = _tensors(problem, item)
    text, lyric = tensors["text"], tensors["lyric"]
    masks = [torch.ones(x.shape[:2], device=x.device) for x in (text, lyric)]
    owner = torch.arange(len(text), device=text.device)
    forward = _maybe_compile(encoder, compiled)
    return lambda: forward(text, masks[0], lyric, masks[1], tensors["timbre"], owner)


def _tokenizer(problem: Problem, item: str, compiled: bool) -> Call:
    tokenizer = _build(modeling_ace_step.AceStepAudioTokenizer, problem, _encoder_values(problem))
    latents = _tensors(problem, item)["latents"]
    tokenize = _maybe_compile(tokenizer.tokenize, compiled)
    return lambda: tokenize(latents)


def _detokenizer(problem: Problem, item: str, compiled: bool) -> Call:
    detokenizer = _build(
        modeling_ace_step.AceStepAudioTokenDetokenizer, problem, _encoder_values(problem)
    )
    quantized = _tensors(problem, item)["quantized"]
    forward = _maybe_compile(detokenizer, compiled)
    return lambda: forward(quantized)


def _vae_encode(problem: Problem, item: str, compiled: bool) -> Call:
    vae = _build(AutoencoderOobleck, problem, dict(problem.vae or {}))
    audio = _tensors(problem, item)["audio"].transpose(1, 2).contiguous()
    encode = _maybe_compile(lambda x: vae.encode(x).latent_dist.mean, compiled)
    return lambda: encode(audio)


def _vae_decode(problem: Problem, item: str, compiled: bool) -> Call:
    vae = _build(AutoencoderOobleck, problem, dict(problem.vae or {}))
    latents = _tensors(problem, item)["latents"].transpose(1, 2).contiguous()
    decode = _maybe_compile(lambda x: vae.decode(x).sample, compiled)
    return lambda: decode(latents)


def _song(problem: Problem, item: str, compiled: bool) -> Call:
    """Goes from encoded text to sound as `AceStepPipeline.__call__` does, without guidance."""
    encoder = _build(modeling_ace_step.AceStepConditionEncoder, problem, _encoder_values(problem))
    dit = _build(AceStepTransformer1DModel, problem, dict(problem.dit or {}))
    vae = _build(AutoencoderOobleck, problem, dict(problem.vae or {}))
    tensors = _tensors(problem, item)
    text, lyric = tensors["text"], tensors["lyric"]
    masks = [torch.ones(x.shape[:2], device=x.device) for x in (text, lyric)]
    owner = torch.arange(len(text), device=text.device)
    loop = _maybe_compile(dit, compiled)

    def run() -> torch.Tensor:
        tokens, _ = encoder(text, masks[0], lyric, masks[1], tensors["timbre"], owner)
        latents = _denoise(loop, problem, tensors["x_t"], tokens, tensors["context"])
        return vae.decode(latents.transpose(1, 2)).sample

    return run


def _planner(problem: Problem, item: str, compiled: bool) -> Call:
    """Lets transformers write as many tokens as we do, with its static cache."""
    values = configs.qwen3_config_to_json(problem.planner_config, causal=True)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values))
    return speed.transformers_call(
        model.to(_device(), _dtype(problem)).eval(),
        draw_inputs(problem, item)["tokens"],
        problem.shapes.new_tokens,
    )


_BUILDERS: dict[str, Callable[[Problem, str, bool], Call]] = {
    "dit_forward": _dit_forward,
    "dit_loop": _dit_loop,
    "condition_encoder": _condition_encoder,
    "tokenizer": _tokenizer,
    "detokenizer": _detokenizer,
    "vae_encode": _vae_encode,
    "vae_decode": _vae_decode,
    "song": _song,
    "planner": _planner,
}
