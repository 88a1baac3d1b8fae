"""Our side: the package's own networks through its own doors, with random weights."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.nn import vae as vae_lib
from acestep_jax.nn.condition import ConditionEncoder
from acestep_jax.nn.dit import DiT
from acestep_jax.nn.qwen3 import Qwen3
from acestep_jax.nn.tokenizer import AudioTokenizer, Detokenizer
from acestep_jax.ops import timesteps
from acestep_jax.sampling import tiles
from acestep_jax.sampling.sampler import make_sampler
from acestep_jax.typing import Array, Params
from experiments.benchmarks.problem import Problem, draw_inputs, split_item
from experiments.benchmarks.timing import Contestant, Run
from experiments.planner import speed


def contestant(problem: Problem, item: str) -> Contestant:
    """Builds the item and its yardstick."""
    product, operations = _matrix_product(jnp.dtype(problem.dtype))
    return Contestant(
        run=_BUILDERS[split_item(item)[0]](problem, item),
        product=product,
        product_operations=operations,
    )


def product_size(backend: str) -> int:
    """Gives the side of the square matrices that fill a device's arithmetic for some time."""
    return 1024 if backend == "cpu" else 8192


def _matrix_product(dtype: jnp.dtype) -> tuple[Run, float]:
    size = product_size(jax.default_backend())
    a, b = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
    multiply = jax.jit(jnp.matmul)
    return lambda: multiply(a, b).block_until_ready(), 2 * size**3


def _random_params(module: Any, seed: int, dtype: str, *args: Any, **kwargs: Any) -> Params:
    """Fills the module's tree from its shapes, which is quicker than to compile its `init`."""
    rng = np.random.default_rng(seed)
    init = functools.partial(module.init, **kwargs)
    shapes = jax.eval_shape(init, jax.random.key(seed), *args)["params"]
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.02 * rng.standard_normal(leaf.shape, np.float32), dtype), shapes
    )


def _arrays(problem: Problem, item: str) -> dict[str, Array]:
    inputs = draw_inputs(problem, item)
    return {name: jnp.asarray(value, problem.dtype) for name, value in inputs.items()}


def _timed_apply(module: Any, params: Params, *args: Any, **kwargs: Any) -> Run:
    apply = jax.jit(functools.partial(module.apply, **kwargs))
    return lambda: jax.block_until_ready(apply({"params": params}, *args))


def _dit_forward(problem: Problem, item: str) -> Run:
    dit = DiT(problem.model_config, dtype=jnp.dtype(problem.dtype))
    arrays = _arrays(problem, item)
    times = jnp.ones(problem.batch(item))
    args = (arrays["x_t"], times, arrays["context"], arrays["condition"])
    return _timed_apply(dit, _random_params(dit, problem.seed, problem.dtype, *args), *args)


def _dit_loop(problem: Problem, item: str) -> Run:
    dit = DiT(problem.model_config, dtype=jnp.dtype(problem.dtype))
    arrays, shapes = _arrays(problem, item), problem.shapes
    noise, context, condition = arrays["x_t"], arrays["context"], arrays["condition"]
    times = jnp.ones(problem.batch(item))
    params = _random_params(dit, problem.seed, problem.dtype, noise, times, context, condition)
    sample, grid = make_sampler(dit), timesteps.time_grid(shapes.steps, shapes.shift)

    def run() -> None:
        # the sampler takes the noise away: a copy for each run, 64 numbers a frame
        fresh = jnp.array(noise, jnp.float32, copy=True)
        sample(params, fresh, condition, None, context, None, grid).block_until_ready()

    return run


def _condition_encoder(problem: Problem, item: str) -> Run:
    encoder = ConditionEncoder(problem.model_config, dtype=jnp.dtype(problem.dtype))
    arrays = _arrays(problem, item)
    text, lyric = arrays["text"], arrays["lyric"]
    masks = [jnp.ones(x.shape[:2], bool) for x in (text, lyric)]
    args = (text, masks[0], lyric, masks[1], arrays["timbre"])
    params = _random_params(encoder, problem.seed, problem.dtype, *args)
    return _timed_apply(encoder, params, *args)


def _tokenizer(problem: Problem, item: str) -> Run:
    tokenizer = AudioTokenizer(problem.model_config, dtype=jnp.dtype(problem.dtype))
    latents = _arrays(problem, item)["latents"]
    silence = jnp.zeros_like(latents[:1])
    params = _random_params(tokenizer, problem.seed, problem.dtype, latents, silence)
    return _timed_apply(tokenizer, params, latents, silence)


def _detokenizer(problem: Problem, item: str) -> Run:
    detokenizer = Detokenizer(problem.model_config, dtype=jnp.dtype(problem.dtype))
    quantized = _arrays(problem, item)["quantized"]
    params = _random_params(detokenizer, problem.seed, problem.dtype, quantized)
    return _timed_apply(detokenizer, params, quantized)


def _vae(problem: Problem, item: str) -> Run:
    vae = vae_lib.VAE(problem.vae_config, dtype=jnp.dtype(problem.dtype))
    method = split_item(item)[0].removeprefix("vae_")
    (value,) = _arrays(problem, item).values()
    audio = jnp.zeros((1, problem.vae_config.hop, problem.vae_config.audio_channels))
    params = _random_params(vae, problem.seed, problem.dtype, audio, key=jax.random.key(0))
    folded = jax.jit(vae_lib.fold_weight_norm)(params)
    return _timed_apply(vae, folded, value, method=method)


def _song(problem: Problem, item: str) -> Run:
    """Goes from encoded text to sound as the pipeline does: conditions, sampler, tiled decoding."""
    dtype, arrays, shapes = jnp.dtype(problem.dtype), _arrays(problem, item), problem.shapes
    encoder = ConditionEncoder(problem.model_config, dtype=dtype)
    dit = DiT(problem.model_config, dtype=dtype)
    text, lyric = arrays["text"], arrays["lyric"]
    masks = [jnp.ones(x.shape[:2], bool) for x in (text, lyric)]
    read = (text, masks[0], lyric, masks[1], arrays["timbre"])
    own = {"params": _random_params(encoder, problem.seed, problem.dtype, *read)}
    encode = jax.jit(encoder.apply)
    tokens, _ = encode(own, *read)
    state = (arrays["x_t"], jnp.ones(problem.batch(item)), arrays["context"], tokens)
    params = _random_params(dit, problem.seed, problem.dtype, *state)
    decode = _decoder(problem)
    sample, grid = make_sampler(dit), timesteps.time_grid(shapes.steps, shapes.shift)

    def run() -> None:
        tokens, _ = encode(own, *read)
        fresh = jnp.array(arrays["x_t"], jnp.float32, copy=True)
        latents = sample(params, fresh, tokens, None, arrays["context"], None, grid)
        for song in latents:  # the pipeline finishes one song at a time
            tiles.map_tiles(decode, song[None], rate_out=problem.vae_config.hop)

    return run


def _planner(problem: Problem, item: str) -> Run:
    module = Qwen3(problem.planner_config, dtype=jnp.dtype(problem.dtype))
    one = jnp.zeros((1, 2), jnp.int32)
    params = _random_params(module, problem.seed, problem.dtype, one, method="score")
    ids = draw_inputs(problem, item)["tokens"]
    writer = speed.Ours(module, params, ids)
    return lambda: jax.block_until_ready(writer.codes(problem.shapes.new_tokens))


def _decoder(problem: Problem) -> Callable[[Array], Array]:
    vae = vae_lib.VAE(problem.vae_config, dtype=jnp.dtype(problem.dtype))
    audio = jnp.zeros((1, problem.vae_config.hop, problem.vae_config.audio_channels))
    params = _random_params(vae, problem.seed, problem.dtype, audio, key=jax.random.key(0))
    folded = jax.jit(vae_lib.fold_weight_norm)(params)
    decode = jax.jit(functools.partial(vae.apply, method="decode"))
    return lambda latents: decode({"params": folded}, latents)


_BUILDERS = {
    "dit_forward": _dit_forward,
    "dit_loop": _dit_loop,
    "condition_encoder": _condition_encoder,
    "tokenizer": _tokenizer,
    "detokenizer": _detokenizer,
    "vae_encode": _vae,
    "vae_decode": _vae,
    "song": _song,
    "planner": _planner,
}
