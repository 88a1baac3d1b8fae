"""What covers hear through the 5 Hz codes, and how much it helps the decoder.

    scene = hints.with_hints(hints.read_conditions(setting, parts, batch), heard, batch)
    errors = hints.velocity_errors(setting, parts, scene, t, noise)          # [B, T]

A tokenizer is measured by the decoder's velocity error with its hints, with somebody else's, with
hints of which some codes are wrong, and without any; and by how it uses its codes.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.data import loader
from acestep_jax.data.batch import Batch
from acestep_jax.nn.level_reader import Contrast
from acestep_jax.ops import codes as codes_lib
from acestep_jax.ops import losses
from acestep_jax.tasks import condition
from acestep_jax.training import listen, models
from acestep_jax.training import scene as scene_lib
from acestep_jax.training.codec import Codec
from acestep_jax.training.recipes.tokenizer import TrainTokenizer
from acestep_jax.training.scene import Scene
from acestep_jax.typing import Array, Params

EVAL_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""An evaluation averages the velocity error over these times."""


class Setting(NamedTuple):
    """What a step needs besides state and batch.

    Attributes:
      config: the run.
      codec: the modules with their silence.
      contrast: of the levels that codes are made to tell; None where they are not.
    """

    config: TrainTokenizer
    codec: Codec
    contrast: Contrast | None = None


def read_conditions(setting: Setting, parts: Params, batch: Batch) -> Scene:
    """Runs the condition encoders on a batch."""
    padding = setting.config.model.mask_padding
    return scene_lib.encode(setting.codec.networks, parts, batch, mask_padding=padding)


def with_hints(scene: Scene, hints: Array, batch: Batch) -> Scene:
    """Gives covers their hints [B, T, C] for a source; other tasks keep the source they have."""
    context = condition.frame_context(batch.source_latents, batch.edit_mask, hints, batch.is_cover)
    return scene.replace(context=context)


def velocity_errors(setting: Setting, parts: Params, scene: Scene, t: Array, noise: Array) -> Array:
    """Evaluates (2) at every frame, at times t [B]: [B, T]."""
    networks = setting.codec.networks
    return scene_lib.velocity_errors(networks, parts["dit"], scene, scene.real, noise, t)


def open_listener(
    setting: Setting, mesh: jax.sharding.Mesh
) -> Callable[[Params], dict[str, np.ndarray]]:
    """Opens held-out songs to be heard as covers of themselves: what their codes keep."""
    config, codec = setting.config, setting.codec
    covers = dataclasses.replace(config.data, tasks=(("cover", 1.0),))
    return listen.open_listener(
        dataclasses.replace(config, data=covers),
        codec.networks,
        mesh,
        silence_latent=jnp.asarray(codec.silence_latent[None]),
    )


# Measuring ----------------------------------------------------------------------------------------


class Sums(NamedTuple):
    """What adds up over batches.

    Attributes:
      errors: {kind of hints: velocity error at each of EVAL_TIMES}, means over the batch.
      counts: how often each code was used [num_codes].
      moments: frames counted; sums of the latents and of their squares, and of the squared error of
        the hints, each by channel [4, C] (the count repeated).
    """

    errors: dict[str, Array]
    counts: Array
    moments: Array


def make_evaluate(setting: Setting) -> Callable[[Params, Batch, Batch], Sums]:
    """Compiles (all parts, covers, plain) -> sums, with the same noise and wrong codes every time.

    `plain` are the clips of `covers` as text2music. Kinds of hints: true, the song's own; wrong,
    with some codes moved to neighbours; shuffled, the next item's; none, text2music.
    """
    codec, share = setting.codec, setting.config.eval_code_noise

    @jax.jit
    def evaluate(parts: Params, covers: Batch, plain: Batch) -> Sums:
        wrong_key, noise_key = jax.random.split(jax.random.key(0))
        data = covers.latents
        vectors, codes = codec.encode(parts, data)
        wrong = codec.misread(wrong_key, parts, vectors, codes, share)
        hints, misled = (codec.decode(parts, x, data.shape[1]) for x in (vectors, wrong))
        scene = read_conditions(setting, parts, covers)
        scenes = {
            "true": with_hints(scene, hints, covers),
            "wrong": with_hints(scene, misled, covers),
            "shuffled": with_hints(scene, jnp.roll(hints, 1, axis=0), covers),
            "none": read_conditions(setting, parts, plain),
        }
        noise = jax.random.normal(noise_key, data.shape)

        def errors(scene: Scene) -> Array:
            def at(t: Array) -> Array:
                times = jnp.full(data.shape[:1], t)
                per_frame = velocity_errors(setting, parts, scene, times, noise)
                return losses.masked_mean(per_frame, covers.frame_mask)

            return jax.lax.map(at, jnp.asarray(EVAL_TIMES))

        table = {name: errors(scene) for name, scene in scenes.items()}
        counts = codes_lib.histogram(codes, codec.networks.config.num_codes)
        return Sums(table, counts, _moments(covers, hints))

    return evaluate


def _moments(batch: Batch, hints: Array) -> Array:
    data = batch.latents
    terms = jnp.stack([jnp.ones_like(data), data, data**2, (data - hints) ** 2])
    return jnp.sum(terms * batch.frame_mask[None, ..., None], axis=(1, 2))


def held_out_pairs(config: TrainTokenizer) -> Iterator[tuple[Batch, Batch]]:
    """Opens the validation split as covers and as text2music: the same clips, whatever the seed."""

    def opened(task: str) -> Iterator[Batch]:
        data = dataclasses.replace(config.data, tasks=((task, 1.0),))
        reader = str(models.tokenizer_folder(config.model))
        return loader.make_batches(data, seed=0, split="validation", tokenizer=reader)

    return zip(opened("cover"), opened("text2music"), strict=True)


def held_out_numbers(
    setting: Setting,
    evaluate: Callable[[Params, Batch, Batch], Sums],
    parts: Params,
    pairs: Iterator[tuple[Batch, Batch]],
    count: int,
) -> dict[str, float]:
    """Evaluates `count` pairs of held-out batches.

    Returns:
      "eval/error_<kind>" for each kind of hints, averaged over times; "eval/error_<kind>_t<t>";
      "eval/unexplained", the hints' squared error over the variance of the latents; and
      "codes/...", see `ops.codes.usage`.
    """
    sums = [jax.device_get(evaluate(parts, *next(pairs))) for _ in range(count)]
    total = jax.tree.map(lambda *parts: np.sum(np.stack(parts), axis=0, dtype=np.float64), *sums)
    numbers: dict[str, float] = {}
    for kind, errors in total.errors.items():
        numbers[f"eval/error_{kind}"] = float(np.mean(errors) / count)
        for t, error in zip(EVAL_TIMES, errors / count, strict=True):
            numbers[f"eval/error_{kind}_t{t}"] = float(error)
    frames, first, second, residual = total.moments
    numbers["eval/unexplained"] = float(residual.sum() / (second - first**2 / frames).sum())
    use = codes_lib.usage(total.counts, setting.codec.networks.config.fsq_input_levels)
    return numbers | {f"codes/{name}": value for name, value in use.items()}
