"""How much device memory does a song need?

    python -m experiments.memory                                  # presets, durations, precisions
    python -m experiments.memory --presets turbo --seconds 240 --weights int8 --limit_gb 4
    python -m experiments.memory --topology h100:1                # by XLA's compiler for a GPU
    python -m experiments.memory --errors nano FOLDER             # what 8-bit kernels change

Every stage of the pipeline is compiled at its real shapes for the attached device, or for one that
is not there (`training/topologies.py`), and asked how much memory it takes (XLA's memory analysis);
parameters are shapes and are never allocated. A stage needs its arguments, results and temporaries;
with one stage on the device at a time (`Pipeline.load(..., resident=False)`) a song needs the
largest. `all at once` is what it needs with every parameter resident beside the largest stage's own
arrays.

Stages: `listen` (a tile of the autoencoder's encoder), `condition` (text, condition encoder, and
the codes of covers), `sample` (all steps; guided where the family is), `decode` (a tile). Sound is
read and finished in tiles, so their stages do not grow with the song.

On a processor XLA widens bfloat16 operands of some products to float32, which counts as temporary
memory here and does not exist on an accelerator: the figures are upper bounds there.
"""

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax import compilation, units
from acestep_jax.nn import model as model_lib
from acestep_jax.nn.config import MODELS, TEXT_ENCODERS, VAES, ModelConfig, Qwen3Config
from acestep_jax.nn.model import Networks
from acestep_jax.nn.vae import VAE, fold_weight_norm
from acestep_jax.ops import backends
from acestep_jax.sampling import buckets, sampler, tiles
from acestep_jax.tasks import condition, loading
from acestep_jax.tasks.inputs import Inputs
from acestep_jax.tasks.settings import default_settings
from acestep_jax.training import topologies
from acestep_jax.typing import Params
from acestep_jax.weights import convert, int8, names

GIB = 2**30
STAGES = ("listen", "condition", "sample", "decode")
TEXT_TOKENS, LYRIC_TOKENS = 256, 2048  # the longest prompts
_PRECISIONS: Mapping[str, tuple[loading.Stored, Any]] = {
    "float32": ("float32", jnp.float32),
    "bfloat16": ("bfloat16", jnp.bfloat16),
    "int8": ("int8", jnp.bfloat16),
}
"""What parameters are kept in, and what is computed in, by the name of a column."""


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes of one compiled stage.

    Attributes:
      params: of its parameters alone.
      arguments: parameters and inputs.
      temporaries: while it runs.
      results: what it returns, less what shares memory with arguments.
    """

    params: int
    arguments: int
    temporaries: int
    results: int

    @property
    def total(self) -> int:
        """What the device must hold while the stage runs."""
        return self.arguments + self.temporaries + self.results


def measure_stage(
    device: jax.Device | None, jitted: Any, params: Params, *arguments: Any, **rest: Any
) -> Need:
    """Compiles jitted(params, *arguments, **rest) from shapes and reads its memory analysis.

    Args:
      device: to compile for; None is the attached one.
      jitted: what is compiled.
      params: shapes.
      arguments, rest: shapes, or small arrays of which shapes are taken.
    """
    where = None if device is None else jax.sharding.SingleDeviceSharding(device)

    def place(leaf: Any) -> Any:
        if where is None or not hasattr(leaf, "shape"):
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    given, named = jax.tree.map(place, ((params, *arguments), rest))
    with backends.assume(device and device.platform):
        found = jitted.lower(*given, **named).compile().memory_analysis()
    assert found is not None, "this device's compiler tells no memory"
    return Need(
        params=int8.num_bytes(params),
        arguments=found.argument_size_in_bytes,
        temporaries=found.temp_size_in_bytes,
        results=found.output_size_in_bytes - found.alias_size_in_bytes,
    )


@dataclasses.dataclass(frozen=True)
class Model:
    """A preset in one precision: modules, shapes of their parameters, and what runs them."""

    networks: Networks
    params: Params
    vae: VAE
    vae_params: Params
    stored: loading.Stored
    device: jax.Device | None

    @classmethod
    def build(cls, preset: str, precision: str, device: jax.Device | None = None) -> "Model":
        """Builds the modules of a preset; nothing is initialised."""
        stored, dtype = _PRECISIONS[precision]
        family = preset.removesuffix("_turbo")
        text = TEXT_ENCODERS.get(family, TEXT_ENCODERS["qwen3_embedding_0p6b"])
        networks = model_lib.build_networks(MODELS[preset], text, dtype=dtype)
        vae = VAE(VAES["nano" if family in ("nano", "toy") else "vae"], dtype=dtype)
        return cls(
            networks=networks,
            params=loading.param_shapes(_shapes(MODELS[preset], text), stored),
            vae=vae,
            vae_params=_vae_shapes(vae, stored),
            stored=stored,
            device=device,
        )

    def resident(self) -> int:
        """Counts the bytes of all parameters."""
        return int8.num_bytes(self.params) + int8.num_bytes(self.vae_params)


def _shapes(config: ModelConfig, text: Qwen3Config) -> Params:
    """Lists the shapes that a released package of this configuration has."""
    encoder = convert.shapes(names.qwen3_entries(text, head=False))
    return convert.shapes(names.model_entries(config)) | {"text_encoder": encoder}


# Stages -------------------------------------------------------------------------------------------


def listen(model: Model, frames: int, batch: int) -> Need:
    """Measures a tile of the autoencoder's encoder: one song is encoded at a time."""
    frames = min(max(tiles.WINDOWS), frames)
    return _tile(model.vae, model.stored, "encode", frames, model.device)


def decode(model: Model, frames: int, batch: int) -> Need:
    """Measures a tile of the autoencoder's decoder."""
    frames = min(max(tiles.WINDOWS), frames)
    return _tile(model.vae, model.stored, "decode", frames, model.device)


@functools.cache
def _tile(
    vae: VAE, stored: loading.Stored, method: str, frames: int, device: jax.Device | None
) -> Need:
    """Measures one direction of an autoencoder, once for all songs that are longer than a tile."""
    shapes = {
        "encode": (1, frames * units.SAMPLES_PER_FRAME, vae.config.audio_channels),
        "decode": (1, frames, vae.config.decoder_input_channels),
    }

    def pass_through(params: Params, x: jax.Array) -> Any:
        return vae.apply({"params": params}, x, method=method)

    x = jax.ShapeDtypeStruct(shapes[method], jnp.float32)
    return measure_stage(device, jax.jit(pass_through), _vae_shapes(vae, stored), x)


def _vae_shapes(vae: VAE, stored: loading.Stored) -> Params:
    released = convert.shapes(names.vae_entries(vae.config))
    return loading.param_shapes(jax.eval_shape(fold_weight_norm, released), stored)


def conditions(model: Model, frames: int, batch: int) -> Need:
    """Measures the conditions of covers, which pass through the codes as well."""
    params = {name: tree for name, tree in model.params.items() if name != "dit"}
    silence = jax.ShapeDtypeStruct((1, units.MAX_FRAMES, _channels(model)), jnp.float32)

    def make(params: Params, arrays: Inputs, silence: jax.Array) -> Any:
        return condition.make_conditions(model.networks, params, arrays, silence, covers=True)

    arrays = _inputs(model, frames, batch)
    return measure_stage(model.device, jax.jit(make), params, arrays, silence)


def sample(model: Model, frames: int, batch: int) -> Need:
    """Measures the whole loop, with the guidance that the family is sampled with."""
    settings, config = default_settings(model.networks.config), model.networks.config
    length = LYRIC_TOKENS + 1 + TEXT_TOKENS
    arrays = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    noise = arrays((batch, frames, _channels(model)))
    null = model.params["null_condition"]
    jitted: Any = sampler.make_sampler(model.networks.dit, step=settings.step())
    return measure_stage(
        model.device,
        jitted,
        model.params["dit"],
        noise,
        arrays((batch, length, config.encoder.width)),
        jax.ShapeDtypeStruct((batch, length), bool),
        arrays((batch, frames, 2 * _channels(model))),
        jax.ShapeDtypeStruct((batch, frames), bool),
        settings.grid(),
        null=null,
        steering=settings.steering(),
    )


_MEASURES = {"listen": listen, "condition": conditions, "sample": sample, "decode": decode}


def _channels(model: Model) -> int:
    return model.networks.config.audio_acoustic_hidden_dim


def _inputs(model: Model, frames: int, batch: int) -> Inputs:
    """Gives the shapes of a batch of covers with the longest prompts."""
    real = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    ids = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
    flag = functools.partial(jax.ShapeDtypeStruct, dtype=bool)
    latents = real((batch, frames, _channels(model)))
    clip = (batch, model.networks.config.timbre_fix_frame, _channels(model))
    text, lyric = (batch, TEXT_TOKENS), (batch, LYRIC_TOKENS)
    return Inputs(
        text_tokens=ids(text),
        text_mask=flag(text),
        lyric_tokens=ids(lyric),
        lyric_mask=flag(lyric),
        timbre_latents=real(clip),
        timbre_owner=ids((batch,)),
        source_latents=latents,
        target_latents=latents,
        edit_mask=real((batch, frames)),
        span_mask=flag((batch, frames)),
        is_cover=flag((batch,)),
        frame_mask=flag((batch, frames)),
        silent_latents=latents,
        codes=None,
        plain_text_tokens=ids(text),
        plain_text_mask=flag(text),
    )


# The table ----------------------------------------------------------------------------------------


def measure(
    preset: str,
    precision: str,
    seconds: float,
    batch: int = 1,
    device: jax.Device | None = None,
) -> dict[str, Any]:
    """Measures every stage of a song: {stage: Need, "peak": bytes, "resident": bytes}."""
    model = Model.build(preset, precision, device)
    frames = buckets.frame_bucket(int(seconds * units.FRAME_RATE))
    needs = {stage: _MEASURES[stage](model, frames, batch) for stage in STAGES}
    own = max(need.total - need.params for need in needs.values())
    return {
        "preset": preset,
        "weights": precision,
        "seconds": seconds,
        "stages": needs,
        "peak": max(need.total for need in needs.values()),
        "resident": model.resident() + own,
    }


def rows(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Writes the table, in GiB."""
    heads = [*STAGES, "by stage", "all at once"]
    yield f"{'preset':<10}{'weights':<10}{'s':>5}" + "".join(f"{head:>13}" for head in heads)
    for result in results:
        values = [result["stages"][stage].total for stage in STAGES]
        values += [result["peak"], result["resident"]]
        numbers = "".join(f"{value / GIB:>13.2f}" for value in values)
        yield f"{result['preset']:<10}{result['weights']:<10}{result['seconds']:>5g}{numbers}"


# What 8-bit kernels change ------------------------------------------------------------------------


def errors(model: str = "nano", steps: int = 8, seconds: float = 10.0) -> dict[str, float]:
    """Measures what (1) of `weights.int8` changes in a model, relative.

    Args:
      model: as in `Pipeline.load`.
      steps: of the sampler, by the model's own rule of guidance.
      seconds: of the song.

    Returns:
      Of the kernels; of the condition tokens; of the velocity at t = 0.7; of the finished latents.
    """
    from acestep_jax.tasks import inputs
    from acestep_jax.tasks.pipeline import Pipeline
    from acestep_jax.tasks.request import Request

    whole = Pipeline.load(model)
    small = dataclasses.replace(whole, params=int8.quantize(whole.params))
    request = Request(caption="a slow waltz for piano", instrumental=True, duration=seconds)
    arrays = inputs.make_inputs(
        [request],
        [inputs.Sounds()],
        whole.tokenizer,
        np.asarray(whole.silence_latent[0]),
        timbre_frames=whole.networks.config.timbre_fix_frame,
    )
    settings = dataclasses.replace(whole.settings, steps=steps)
    tokens, velocities, latents = [], [], []
    x_t = jax.random.normal(jax.random.key(0), arrays.source_latents.shape)
    for pipe in (whole, small):
        made = pipe.conditions(arrays)
        field = sampler.conditional_velocity(
            pipe.networks.dit,
            pipe.params["dit"],
            made.tokens,
            made.context,
            condition_mask=made.mask,
            frame_mask=arrays.frame_mask,
        )
        tokens.append(made.tokens * made.mask[..., None])
        velocities.append(jax.jit(field)(x_t, jnp.float32(0.7)))
        latents.append(pipe.sample([request], arrays, settings))
    kernels = [jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
               for tree in (whole.params["dit"], int8.dequantize(small.params["dit"]))]  # fmt: skip
    pairs = {"kernels": kernels, "conditions": tokens, "velocity": velocities, "latents": latents}
    return {name: relative_error(*pair) for name, pair in pairs.items()}


def relative_error(exact: jax.Array, rounded: jax.Array) -> float:
    """Computes |rounded - exact| / |exact|."""
    return float(jnp.linalg.norm(rounded - exact) / jnp.linalg.norm(exact))


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table, or the errors; returns the exit status."""
    args = _parser().parse_args(argv)
    compilation.enable_cache()
    if args.errors is not None:
        for model in args.errors or ("nano", "nano_turbo"):
            print(json.dumps({"model": model, "relative_error_of_int8": errors(model)}))
        return 0
    results, device = [], None
    if args.topology:
        jax.config.update("jax_platforms", "cpu")  # what is small is made here
        device = topologies.describe(args.topology)[0]
    for preset in args.presets:
        for precision in args.weights:
            for seconds in args.seconds:
                results.append(measure(preset, precision, seconds, args.batch, device))
                print(list(rows(results))[-1], file=sys.stderr, flush=True)
    kind = (device or jax.devices()[0]).device_kind
    print(f"GiB on {kind}, {args.batch} song(s) at once")
    print("\n".join(rows(results)))
    too_much = [r for r in results if args.limit_gb and r["peak"] > args.limit_gb * 1e9]
    if args.limit_gb:
        print(
            f"{len(results) - len(too_much)} of {len(results)} under {args.limit_gb:g} GB by stage"
        )
    return 1 if too_much else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--presets", nargs="+", choices=tuple(MODELS), default=["turbo", "base", "xl_turbo"])
    add("--weights", nargs="+", choices=tuple(_PRECISIONS), default=list(_PRECISIONS))
    add("--seconds", nargs="+", type=float, default=[60.0, 240.0, 600.0])
    add("--batch", type=int, default=1, help="songs sampled at once")
    add("--topology", help="compile for such a device, h100:1 or v5e:2x2; the attached one without")
    add("--limit_gb", type=float, help="exit with 1 if a song needs more, one stage at a time")
    add("--errors", nargs="*", metavar="MODEL", help="measure what 8-bit kernels change instead")
    return parser


if __name__ == "__main__":
    sys.exit(main())
