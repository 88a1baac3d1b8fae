"""Trains the audio tokenizer as a diffusion autoencoder: codes that help to undo noise.

    hints = detokenize(FSQ(pool(data)))                   five frames -> one code -> five frames
    reconstruction = mean |hints - data|^2 + w (1 - cos(hints, data))                       (1)
    velocity error = mean (v(x_t, t, condition, source = hints) - (noise - data))^2         (2)
    loss = (2) + lambda (1),    lambda from 1 to 0.1 over the run                           (3)
    levels = w mean |reader(FSQ(pool(data))) - contrast(log rms of the window)|^2           (4)

A code holds a tenth of a bit, or less, for each number it stands for, so (1) alone can explain only
a few per cent of a song; (2) lets the decoder say what is worth keeping. Rounding passes gradients
straight through; FSQ needs no codebook loss. (4), added to (1) and (3), is off by default: a reader
of codes, thrown away in the end (nn/level_reader.py), that keeps notes in codes of latents which
change their sign from frame to frame, as the nano family's do. Three stages, a step each:

    reconstruct   tokenizer and detokenizer by (1); the decoder is not computed
    joint         tokenizer, detokenizer and the decoder's `trained` parts by (3)
    settle        the decoder alone, on the codes of the averaged tokenizer, which stay as they are

What comes after has to live with a planner's mistakes: some codes are moved to a neighbour, and
some windows are silent. Covers read hints; other tasks of the mixture, text2music at least, keep
the source they have, so that the decoder does not forget them.

No one has published how the release's tokenizer was trained: its forward pass computes the hints
without gradient. (2) is what a tokenizer trained together with the DiT would minimise; (1), its
weight, the rates of wrong codes and the start (training/codec.py) are choices of ours. How FSQ
rounds is the release's (ops/fsq.py): Mentzer et al. 2023, arXiv:2309.15505.

    python -m train.tokenizer --config configs/nano/tokenizer.py
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from jax.experimental import multihost_utils

from acestep_jax.data.batch import Batch
from acestep_jax.nn import level_reader
from acestep_jax.nn.level_reader import LevelReader
from acestep_jax.ops import codes as codes_lib
from acestep_jax.ops import losses, timesteps
from acestep_jax.training import cli, loop, models, optim
from acestep_jax.training import codec as codec_lib
from acestep_jax.training import hints as hints_lib
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import state as state_lib
from acestep_jax.training.codec import Codec
from acestep_jax.training.config import require
from acestep_jax.training.hints import Setting
from acestep_jax.training.models import Loaded
from acestep_jax.training.recipes.tokenizer import Stage, TrainTokenizer
from acestep_jax.training.state import TrainState
from acestep_jax.typing import Array, Key, Params
from train import dit

Metrics = dict[str, Array]

TRAINED: dict[Stage, tuple[str, ...]] = {
    "reconstruct": ("codec",),
    "joint": ("codec", "decoder"),
    "settle": ("decoder",),
}

# Losses -------------------------------------------------------------------------------------------


class Passed(NamedTuple):
    """Latents that went through the codes.

    Attributes:
      vectors: quantised, [B, Q, D].
      codes: [B, Q].
      hints: [B, T, C], from vectors of which some were wrong.
    """

    vectors: Array
    codes: Array
    hints: Array


def pass_through(key: Key, setting: Setting, params: Params, latents: Array) -> Passed:
    """Passes latents [B, T, C] through the codes, some of them wrong."""
    codec = setting.codec
    vectors, codes = codec.encode(params, latents)
    wrong = codec.misread(key, params, vectors, codes, setting.config.code_noise)
    return Passed(vectors, codes, codec.decode(params, wrong, latents.shape[1]))


def reconstruction_error(hints: Array, latents: Array, cosine_weight: float) -> Array:
    """Evaluates (1) at every frame: [B, T]."""
    lengths = jnp.linalg.norm(hints, axis=-1) * jnp.linalg.norm(latents, axis=-1)
    cosine = jnp.sum(hints * latents, axis=-1) / jnp.maximum(lengths, 1e-6)
    return losses.squared_error(hints, latents) + cosine_weight * (1 - cosine)


def add_levels(
    loss: Array, metrics: Metrics, setting: Setting, params: Params, vectors: Array, latents: Array
) -> tuple[Array, Metrics]:
    """Adds (4) to a loss, and its mean to the metrics, if codes are made to tell levels."""
    if setting.contrast is None:
        return loss, metrics
    levels = setting.contrast(told_levels(setting, latents))
    read = make_reader(setting).apply({"params": params["reader"]}, vectors)
    error = jnp.mean((read[:, : levels.shape[1]] - levels) ** 2)
    return loss + setting.config.level_weight * error, metrics | {"loss/levels": error}


def told_levels(setting: Setting, latents: Array) -> Array:
    """Measures the levels that (4) is about: [B, T, C] -> [B, T // window, level_channels]."""
    window = setting.codec.networks.config.pool_window_size
    return level_reader.window_levels(latents[..., : channels(setting)], window)


def channels(setting: Setting) -> int:
    """Counts the channels whose levels are told."""
    sizes = setting.codec.networks.config
    return setting.config.level_channels or sizes.audio_acoustic_hidden_dim


def make_reader(setting: Setting) -> LevelReader:
    """Builds the reader of (4)."""
    return LevelReader(channels(setting))


def reconstruct_loss(
    params: Params, setting: Setting, frozen: Params, batch: Batch, key: Key, step: Array
) -> tuple[Array, Metrics]:
    """Evaluates (1) and (4); arguments as for `joint_loss`."""
    del frozen, step
    config = setting.config
    vectors, codes, hints = pass_through(key, setting, params["codec"], batch.latents)
    errors = reconstruction_error(hints, batch.latents, config.cosine_weight)
    loss = losses.masked_mean(errors, batch.frame_mask if config.masked_loss else None)
    metrics = {"loss/reconstruction": loss} | code_metrics(setting, codes)
    return add_levels(loss, metrics, setting, params["codec"], vectors, batch.latents)


def joint_loss(
    params: Params, setting: Setting, frozen: Params, batch: Batch, key: Key, step: Array
) -> tuple[Array, Metrics]:
    """Evaluates (3) and (4).

    Args:
      params: {"codec": parameters, "decoder": those of the trained parts, if any}.
      setting: configuration and modules.
      frozen: the other parts.
      batch: songs and prompts.
      key: of everything drawn.
      step: steps done, for lambda.
    """
    config, sizes = setting.config, setting.codec.networks.config
    code_key, window_key, drop_key, time_key, noise_key = jax.random.split(key, 5)
    parts = frozen | params.get("decoder", {})
    vectors, codes, hints = pass_through(code_key, setting, params["codec"], batch.latents)
    kept = jax.random.bernoulli(window_key, 1 - config.window_dropout, codes.shape)
    heard = setting.codec.silence_windows(hints, kept)
    scene = hints_lib.with_hints(hints_lib.read_conditions(setting, parts, batch), heard, batch)
    scene = dit.drop_conditions(drop_key, scene, config.condition_dropout)
    t = timesteps.sample_times(
        time_key, hints.shape[:1], config.time_law, sizes.timestep_mu, sizes.timestep_sigma
    )
    noise = jax.random.normal(noise_key, hints.shape)
    errors = hints_lib.velocity_errors(setting, parts, scene, t, noise)

    mask = batch.frame_mask if config.masked_loss else None
    velocity = losses.masked_mean(errors, mask)
    reconstruction = losses.masked_mean(
        reconstruction_error(hints, batch.latents, config.cosine_weight), mask
    )
    per_item = jnp.mean(errors, axis=1)
    metrics = {
        "loss/velocity": velocity,
        "loss/reconstruction": reconstruction,
        "error/with_hints": losses.masked_mean(per_item, batch.is_cover),
        "error/without_hints": losses.masked_mean(per_item, ~batch.is_cover),
    }
    loss = velocity + reconstruct_weight(config, step) * reconstruction
    metrics |= code_metrics(setting, codes)
    return add_levels(loss, metrics, setting, params["codec"], vectors, batch.latents)


def reconstruct_weight(config: TrainTokenizer, step: Array) -> Array:
    """Evaluates lambda at a step: a line over the joint stage, flat behind it."""
    length = config.num_steps - config.settle_steps - config.reconstruct_steps
    done = jnp.clip((step - config.reconstruct_steps) / max(1, length), 0, 1)
    first, last = config.reconstruct_weight, config.final_reconstruct_weight
    return first + (last - first) * done


def code_metrics(setting: Setting, codes: Array) -> Metrics:
    """Measures how evenly a batch uses the codes; few windows cannot use many."""
    counts = codes_lib.histogram(codes, setting.codec.networks.config.num_codes)
    return {"codes/batch_perplexity": codes_lib.perplexity(counts)}


# Steps: the only jit of the training --------------------------------------------------------------


def optimizer_configs(config: TrainTokenizer) -> dict[str, tuple]:
    """Lists {network: (its Optimizer, how many updates it gets)}."""
    return {
        "codec": (config.codec, config.num_steps - config.settle_steps),
        "decoder": (config.decoder, config.num_steps - config.reconstruct_steps),
    }


def make_optimizers(config: TrainTokenizer, params: Params) -> dict:
    """Builds the optimizer of each network in `params`."""
    settings = optimizer_configs(config)
    return {name: optim.make_optimizer(*settings[name], params[name]) for name in params}


def make_state(config: TrainTokenizer, params: Params) -> TrainState:
    """Makes the state before the first step from {"codec": ..., "decoder": ...}."""
    settings = {name: rule for name, (rule, _) in optimizer_configs(config).items()}
    optimizers = make_optimizers(config, params)
    return state_lib.init_state(jax.random.key(config.seed), params, optimizers, settings)


def make_step(
    setting: Setting, stage: Stage, params: Params, places: TrainState | None = None
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Compiles (state, frozen, batch) -> (state, metrics) of a stage; the state is donated.

    Args:
      setting: configuration, modules, silence.
      stage: what is trained, and by which loss.
      params: {"codec": ..., "decoder": ...} or their shapes.
      places: where the state lives (`mesh.state_shardings`); None for one device.
    """
    optimizers = make_optimizers(setting.config, params)
    settings = optimizer_configs(setting.config)
    names = [name for name in TRAINED[stage] if name in params]
    loss_of_stage = reconstruct_loss if stage == "reconstruct" else joint_loss

    def train_step(state: TrainState, frozen: Params, batch: Batch) -> tuple[TrainState, Metrics]:
        still = {name: state.best(name) for name in state.params if name not in names}
        key = state_lib.step_key(state)

        def loss(trained: Params) -> tuple[Array, Metrics]:
            return loss_of_stage(still | trained, setting, frozen, batch, key, state.step)

        trained = {name: state.params[name] for name in names}
        gradients, metrics = jax.grad(loss, has_aux=True)(trained)
        for name in names:
            metrics[f"{name}/grad_norm"] = optax.global_norm(gradients[name])
            state = state_lib.apply_gradients(
                state, name, gradients[name], optimizers[name], settings[name][0]
            )
        return state_lib.advance(state), metrics

    shardings = {} if places is None else {"out_shardings": (places, None)}
    return jax.jit(train_step, donate_argnums=0, **shardings)


# The run, in the order it happens -----------------------------------------------------------------


class Trained(NamedTuple):
    """The end of a run: what was loaded, all parts to sample with, and the held-out numbers."""

    setting: Setting
    loaded: Loaded
    parts: Params
    numbers: dict[str, float]


def prepare(config: TrainTokenizer, loaded: Loaded) -> Loaded:
    """Puts the tokenizer that is to be trained in the place of the model's own."""
    networks = codec_lib.with_pooler(loaded.networks, config.pooler)
    params = dict(loaded.params)
    if config.fresh:
        key = jax.random.fold_in(jax.random.key(config.seed), 1)
        params |= jax.jit(codec_lib.draw_params, static_argnums=0)(networks, key)
    return dataclasses.replace(loaded, networks=networks, params=params)


def first_songs(config: TrainTokenizer) -> np.ndarray:
    """Reads the latents of the run's first batches, those of all processes: [N, T, C]."""
    batches = models.open_batches(config, "train")
    songs = np.concatenate([next(batches).latents for _ in range(config.start_batches)])
    return multihost_utils.process_allgather(songs, tiled=True)


def start_codec(setting: Setting, codec: Params) -> tuple[Setting, Params]:
    """Fits to the first songs of the run what begins with it: a fresh codec, and (4)."""
    config = setting.config
    if not (config.start_batches and (config.fresh or config.level_weight)):
        return setting, codec
    songs = first_songs(config)
    if config.fresh:
        codec = setting.codec.start_on(codec, songs)
    return with_levels(setting, codec, songs) if config.level_weight else (setting, codec)


def with_levels(setting: Setting, codec: Params, songs: np.ndarray) -> tuple[Setting, Params]:
    """Fits the contrast of (4) to songs [N, T, C], and draws its reader beside the codec.

    Raises:
      ValueError: if the songs have fewer channels than are to be told.
    """
    config = setting.config
    require(
        channels(setting) <= songs.shape[-1],
        f"level_channels={config.level_channels}; these latents have {songs.shape[-1]}.",
    )
    levels = np.asarray(told_levels(setting, songs))
    setting = setting._replace(contrast=level_reader.fit_contrast(levels, config.level_directions))
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    vectors = jnp.zeros((1, 1, setting.codec.networks.config.fsq_dim))
    return setting, codec | {"reader": make_reader(setting).init(key, vectors)["params"]}


def train(config: TrainTokenizer, loaded: Loaded | None = None) -> Trained:
    """Trains through the stages and evaluates; a run that is done is only evaluated.

    Args:
      config: the run.
      loaded: the networks; by default those that the configuration names.
    """
    mesh = mesh_lib.make_mesh(config.mesh)
    loaded = prepare(config, loaded or models.load(config.model, config.seed))
    batches = models.open_batches(config, "train")
    silence = models.common_silence(loaded, batches.silence_latent)
    setting = Setting(config, Codec(loaded.networks, np.asarray(silence[0], np.float32)))
    codec, others = models.split(loaded.params, [f"^{name}$" for name in codec_lib.PARTS])
    decoder, frozen = models.split(others, config.trained)
    setting, codec = start_codec(setting, codec)
    params = {"codec": codec}
    params |= {"decoder": decoder} if decoder else {}
    frozen = models.cast(frozen, config.model.frozen_dtype)

    with jax.set_mesh(mesh), loop.Loop(config) as run:
        frozen = mesh_lib.place_params(frozen, mesh)
        init = functools.partial(make_state, config)
        shardings = functools.partial(mesh_lib.state_shardings, mesh=mesh)
        state, start = run.restore_or_init(init, shardings, batches, (params,))
        places, shapes = shardings(jax.eval_shape(init, params)), jax.eval_shape(lambda: params)
        evaluate, steps = hints_lib.make_evaluate(setting), {}
        listener = hints_lib.open_listener(setting, mesh)

        def all_parts() -> Params:
            best = [state.best(name) for name in state.params]
            parts = functools.reduce(lambda parts, more: parts | more, best, frozen)
            return {name: part for name, part in parts.items() if name != "reader"}

        def held_out() -> dict[str, float]:
            pairs = (mesh_lib.place_batch(pair, mesh) for pair in hints_lib.held_out_pairs(config))
            count = config.eval_batches
            return hints_lib.held_out_numbers(setting, evaluate, all_parts(), pairs, count)

        for step in run.steps(start):
            stage = config.stage_at(step)
            if stage not in steps:
                steps[stage] = run.counted(make_step(setting, stage, shapes, places))
            state, metrics = steps[stage](state, frozen, mesh_lib.place_batch(next(batches), mesh))
            run.end_step(step, state, metrics, batches)
            run.listen(step + 1, listener, all_parts())
            if config.eval_every and (step + 1) % config.eval_every == 0:
                run.metrics.note(step + 1, held_out())

        numbers = held_out()
        run.metrics.note(config.num_steps, numbers)
    return Trained(setting, loaded, all_parts(), numbers)


def main(config: TrainTokenizer) -> None:
    """Trains, evaluates, and exports the whole model with its tokenizer in the released layout."""
    trained = train(config)
    numbers = trained.numbers
    logging.warning(
        "Held-out velocity error %.4f with true hints, %.4f shuffled, %.4f without; %.0f codes' "
        "worth of %d in use.",
        numbers["eval/error_true"],
        numbers["eval/error_shuffled"],
        numbers["eval/error_none"],
        numbers["codes/perplexity"],
        trained.loaded.networks.config.num_codes,
    )
    if config.pooler != "attention":
        logging.warning("Not exported: a %s pooler has no released layout.", config.pooler)
        return
    folder = pathlib.Path(config.workdir or f"runs/{config.name}") / "export"
    silence = trained.setting.codec.silence_latent[None]
    models.export(config.model, trained.loaded, trained.parts, silence, folder)
    logging.warning("Averaged weights exported to %s.", folder)


if __name__ == "__main__":
    cli.run(main, default_config="configs/nano/tokenizer.py")
