"""Teaches heads of a DiT when each word is sung, so that alignment can be read from them.

Large models come to place their lyrics in time by themselves, in a few heads that one has to find
(experiments/alignment/heads.py). A small one does not, and has no alignment score. Songs of our own
have words whose times are known, and teach it: a song is noised a little, as the score noises it,
and where a word is sung chosen heads should look at its tokens,

    x_t = t noise + (1 - t) data,   t ~ U(levels)
    loss = mean over heads and patches of KL(tokens sung there | cross-attention)              (1)

A listener that has only ever seen the right words walks through any others as surely. So a part of
the songs is given the lyrics of its neighbour, at which nobody should look:

    strangers = mean over heads and patches of -log(1 - attention on all of the lyric prompt)  (2)

The result listens and does nothing else: its velocity is not trained and means nothing any more. It
scores the songs of another DiT, as a reward that is frozen (`reward.aligner` in configs/nano/
grpo_dit.py) or in `--score aas`. Layers behind the last of the heads stay as they are.

    python -m train.aligner --config configs/nano/aligner.py

Neither the paper nor the release has this; that its score is a true measure has to be shown, by
`python -m experiments.alignment.truth --weights ...`.
"""

import dataclasses
import functools
import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
from absl import logging

from acestep_jax.data.batch import Batch
from acestep_jax.nn.model import Networks
from acestep_jax.ops import alignment, dtw, flow, losses, word_attention
from acestep_jax.ops.alignment import Sizes
from acestep_jax.sampling import attending
from acestep_jax.tasks.alignment import HEADS_FILE
from acestep_jax.training import cli, loop, models
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import scene as scene_lib
from acestep_jax.training.recipes.aligner import TrainAligner
from acestep_jax.typing import Array, Key, Params
from acestep_jax.units import FRAME_RATE
from train import dit
from train.dit import Metrics, Setting

READ_AT = 1 / 8
"""The t of evaluations: the last time of an eight-step sampler, at which songs are scored."""


def read_maps(
    config: TrainAligner,
    networks: Networks,
    parts: Params,
    batch: Batch,
    t: Array,
    noise: Array,
) -> Array:
    """Reads the attention [B, H, Ll, P] that lyric prompts get from patches at t [B]."""
    masked = config.model.mask_padding
    scene = scene_lib.encode(networks, parts, batch, mask_padding=masked)
    return attending.lyric_maps(
        networks.dit,
        parts["dit"],
        config.heads,
        flow.interpolate(batch.latents, noise, t),
        t,
        scene.tokens,
        scene.context,
        jnp.zeros(t.shape, jnp.int32),  # the condition begins with the lyric prompt
        batch.lyric_tokens.shape[1],
        condition_mask=scene.mask,
        frame_mask=scene.frame_mask,
    )


def alignment_loss(
    config: TrainAligner,
    trained: Params,
    setting: Setting,
    frozen: Params,
    batch: Batch,
    key: Key,
) -> tuple[Array, Metrics]:
    """Evaluates (1) and (2); other arguments as of `dit.flow_loss`."""
    networks, (low, high) = setting.networks, config.levels
    time_key, noise_key, swap_key = jax.random.split(key, 3)
    t = jax.random.uniform(time_key, batch.latents.shape[:1], minval=low, maxval=high)
    noise = jax.random.normal(noise_key, batch.latents.shape)
    strange = jax.random.bernoulli(swap_key, config.strangers, t.shape)
    batch = with_other_lyrics(batch, strange)
    maps = read_maps(config, networks, frozen | trained, batch, t, noise)
    wanted = jnp.where(strange[:, None, None], 0.0, target_of(networks, batch, maps))
    divergence = word_attention.divergence(maps, wanted)
    pull = word_attention.avoidance(maps, strange)
    return divergence + pull, {
        "loss/divergence": divergence,
        "loss/strangers": pull,
        "attention/on_words": on_words(maps, wanted),
        "data/patches_sung": jnp.mean(jnp.sum(wanted, axis=1)),
    }


def with_other_lyrics(batch: Batch, strange: Array) -> Batch:
    """Gives the items that are marked [B] the lyrics of their neighbours."""

    def swap(x: Array) -> Array:
        x = jnp.asarray(x)
        return jnp.where(strange.reshape(-1, *[1] * (x.ndim - 1)), jnp.roll(x, 1, axis=0), x)

    names = ("lyric_tokens", "lyric_mask")
    return dataclasses.replace(batch, **{name: swap(getattr(batch, name)) for name in names})


def target_of(networks: Networks, batch: Batch, maps: Array) -> Array:
    """Gives what maps of a batch should be, [B, Ll, P]."""
    patch = networks.config.patch_size
    return word_attention.target(jnp.asarray(batch.lyric_frames), maps.shape[-1], patch)


def on_words(maps: Array, wanted: Array) -> Array:
    """Measures how much attention the right tokens get where something is sung."""
    right = jnp.sum(maps * (wanted > 0)[:, None], axis=2)
    known = jnp.broadcast_to(jnp.sum(wanted, axis=1)[:, None] > 0, right.shape)
    return losses.masked_mean(right, known)


# What is measured ---------------------------------------------------------------------------------


def make_evaluate(config: TrainAligner, networks: Networks) -> Callable[[Params, Batch], Metrics]:
    """Compiles (parts, batch) -> divergence, attention on words, and the path's error in seconds.

    Attention on the whole lyric prompt is told for a song's own lyrics and for its neighbour's.
    The path is that of the score; its error is the mean distance between the first patch of a token
    on it and the word's beginning. Beside it stands that of words spread evenly over the clip.
    """
    patch = networks.config.patch_size

    @jax.jit
    def evaluate(parts: Params, batch: Batch) -> Metrics:
        t = jnp.full(batch.latents.shape[:1], READ_AT)
        noise = jax.random.normal(jax.random.key(0), batch.latents.shape)
        maps = read_maps(config, networks, parts, batch, t, noise)
        wanted = target_of(networks, batch, maps)
        known = jnp.asarray(batch.lyric_frames)[..., 0] >= 0
        begins = jnp.asarray(batch.lyric_frames)[..., 0] / FRAME_RATE
        first, spread = path_starts(maps, known)
        others = with_other_lyrics(batch, jnp.ones(t.shape, bool))
        strange = read_maps(config, networks, parts, others, t, noise)
        seconds = patch / FRAME_RATE
        return {
            "divergence": word_attention.divergence(maps, wanted),
            "on_words": on_words(maps, wanted),
            "on_lyrics": jnp.mean(jnp.sum(maps, axis=2)),
            "on_other_lyrics": jnp.mean(jnp.sum(strange, axis=2)),
            "error_s": losses.masked_mean(jnp.abs(seconds * first - begins), known),
            "error_even_s": losses.masked_mean(jnp.abs(seconds * spread - begins), known),
        }

    return evaluate


def path_starts(maps: Array, known: Array) -> tuple[Array, Array]:
    """Finds each known token's first patch on the score's path, and if they were even: [B, Ll].

    Known tokens stand side by side but for tags, which are left out of the map.
    """
    order = jnp.argsort(~known, axis=1, stable=True)  # the known ones first, in order
    places = jnp.argsort(order, axis=1)
    count = jnp.sum(known, axis=1, dtype=jnp.int32)
    own = jnp.take_along_axis(maps, order[:, None, :, None], axis=2)
    sizes = Sizes(count, jnp.full_like(count, maps.shape[-1]))
    energies = alignment.energy(own, sizes)
    path = dtw.warp(-jnp.square(energies), *sizes)
    first, _ = dtw.spans(path, maps.shape[2])
    even = jnp.arange(maps.shape[2])[None] / jnp.maximum(count, 1)[:, None] * maps.shape[-1]
    back = functools.partial(jnp.take_along_axis, indices=places, axis=1)
    return back(first), back(even)


def make_held_out(
    config: TrainAligner, networks: Networks, frozen: Params, mesh: jax.sharding.Mesh
) -> Callable[[Params], dict[str, float]]:
    """Gives trained -> means over `eval_batches` batches of the validation split."""
    evaluate = make_evaluate(config, networks)

    def held_out(trained: Params) -> dict[str, float]:
        batches = models.open_batches(config, "validation")
        placed = (mesh_lib.place_batch(next(batches), mesh) for _ in range(config.eval_batches))
        tables = [evaluate(frozen | trained, batch) for batch in placed]
        return {
            f"eval/{name}": float(sum(table[name] for table in tables) / len(tables))
            for name in (tables[0] if tables else ())
        }

    return held_out


# The run, in the order it happens -----------------------------------------------------------------


def main(config: TrainAligner) -> None:
    """Trains, measures, and exports the model with the file that names its heads."""
    mesh = mesh_lib.make_mesh(config.mesh)
    loaded = models.load(config.model, config.seed, mesh)
    attending.check_heads(loaded.networks.dit, config.heads)
    trained, frozen = models.split(loaded.params, config.trained)
    frozen = models.cast(frozen, config.model.frozen_dtype)
    batches = models.open_batches(config, "train")
    silence = models.common_silence(loaded, batches.silence_latent)
    setting = Setting(config, loaded.networks, None)

    with jax.set_mesh(mesh), loop.Loop(config) as run:
        frozen = mesh_lib.place_params(frozen, mesh)
        trained = mesh_lib.place_params(trained, mesh)
        init = functools.partial(dit.make_state, config)
        shardings = functools.partial(mesh_lib.state_shardings, mesh=mesh)
        state, start = run.restore_or_init(init, shardings, batches, (trained,))
        loaded, trained = loaded.without_params(), jax.eval_shape(lambda: trained)
        places = shardings(jax.eval_shape(init, trained))
        loss = functools.partial(alignment_loss, config)
        step_fn = dit.make_train_step(setting, trained, places, loss)
        train_step = run.counted(step_fn)
        held_out = make_held_out(config, setting.networks, frozen, mesh)

        for step in run.steps(start):
            batch = mesh_lib.place_batch(next(batches), mesh)
            state, metrics = train_step(state, frozen, batch)
            run.end_step(step, state, metrics, batches)
            if config.eval_every and (step + 1) % config.eval_every == 0:
                run.metrics.note(step + 1, held_out(state.best("model")))

        run.metrics.note(config.num_steps, held_out(state.best("model")))
        folder = run.workdir / "export"
        models.export(config.model, loaded, frozen | state.best("model"), silence, folder)
        if jax.process_index() == 0:
            heads = {str(layer): list(own) for layer, own in config.heads}
            for package in folder.glob("model*"):
                (package / HEADS_FILE).write_text(json.dumps({"heads": heads}) + "\n", "utf-8")
        logging.warning("Model and its heads saved in %s.", folder)


if __name__ == "__main__":
    cli.run(main, default_config="configs/nano/aligner.py")
