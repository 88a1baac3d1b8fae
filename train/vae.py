"""Trains the Oobleck autoencoder: reconstruction first, then against a discriminator.

    posterior   mean, std = encode(x),  z = mean + std n,  xhat = decode(z)
    KL          sum_c mean^2 + std^2 - log std^2 - 1, averaged over frames                   (1)
    generator   spectral distance of left, right, sum and difference at seven resolutions
                + waveform_weight |x - xhat| / |x| + kl_weight KL
                + matching_weight feature matching + adversarial_weight (-mean D(xhat))
                + level_weight |last channels of mean - levels of mel bands|^2               (2)
    critic      mean relu(1 - D(x)) + mean relu(1 + D(xhat))                                 (3)

A run is a list of phases, each with its own weights of (2). Without adversarial terms every step is
a generator step; with them, generator and critic alternate. The released recipe in these terms:
kl_weight 1e-4, adversarial 0.1, matching 5; for the last sixth no KL and adversarial 0.5
(`configs/base/vae.py`). Without the KL nothing holds the latents: their spread is compared with
what it was before, and a run whose latents outgrow `growth_limit` stops.

How this differs from the release's trainer (stable-audio-tools): the levels (level_channels=0
leaves them out), without which the latents of a small autoencoder are a waveform's coefficients,
with signs that no flow model can foresee, and the beat is in none of them; the waveform term,
which fixes the phase; the shared norm of stereo pairs (ops/stft.py); parameters that start as a
lapped transform (nn/lapped.py), since a nano run is too short to find one. (1) has no factor 1/2,
as there.

    python -m train.vae --config configs/nano/vae.py
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax import weights
from acestep_jax.data import segments
from acestep_jax.nn import lapped
from acestep_jax.nn import vae as vae_lib
from acestep_jax.nn.audio_discriminator import AudioDiscriminator
from acestep_jax.nn.vae import VAE, Posterior
from acestep_jax.ops import distill, stft
from acestep_jax.training import cli, loop, models, optim, processes, reconstruction
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import state as state_lib
from acestep_jax.training.recipes.vae import TrainVAE, VAEPhase
from acestep_jax.training.state import TrainState
from acestep_jax.typing import Array, Key, Params
from acestep_jax.units import SAMPLE_RATE

Metrics = dict[str, Array]

_START_CLIPS = 128  # segments that choose the first parameters and the zero of levels
_SPREAD = "spread"  # of the latents' channels: on its way from the loss to the state
_SPREAD_DECAY = 0.99  # of its average over steps
_LEVELS = "levels"  # mean and deviation of each band's level: chosen once, kept in the state


class LatentsGrew(RuntimeError):
    """Without the KL the latents spread further and further."""


class Networks(NamedTuple):
    """The two players; parameters travel separately."""

    vae: VAE
    discriminator: AudioDiscriminator


def build_networks(config: TrainVAE) -> Networks:
    """Builds the autoencoder and the discriminator that the configuration describes."""
    sizes = config.vae
    if config.weights:
        sizes = weights.load_vae(models.locate(config.weights)).config
    return Networks(
        VAE(sizes, dtype=jnp.dtype(config.dtype), remat=config.remat),
        AudioDiscriminator(config.discriminator_windows, config.discriminator_filters),
    )


def init_params(config: TrainVAE, networks: Networks, key: Key, audio: Array) -> Params:
    """Loads or draws the autoencoder and draws the discriminator.

    Args:
      config: the run.
      networks: the modules.
      key: of the random parameters.
      audio: [B, W, 2], from which the lapped transform is chosen.
    """
    vae_key, discriminator_key, start_key = jax.random.split(key, 3)
    if config.weights:
        vae = weights.load_vae(models.locate(config.weights)).params
    else:
        vae = networks.vae.init(vae_key, audio[:1], vae_key)["params"]
        vae = lapped.start_as_lapped_transform(networks.vae.config, vae, audio, start_key)
    return {
        "generator": vae,
        "discriminator": networks.discriminator.init(discriminator_key, audio[:1])["params"],
    }


# Losses: one value an example, but for the means that (2) and (3) take ---------------------------


def kl_divergence(posterior: Posterior) -> Array:
    """Computes equation (1), twice the divergence from N(0, 1) in nats: -> [B]."""
    mean, std = posterior.mean, posterior.std
    per_frame = jnp.sum(mean**2 + std**2 - 2 * jnp.log(std) - 1, axis=-1)
    return jnp.mean(per_frame, axis=-1)


def reconstruct(vae: VAE, params: Params, audio: Array, key: Key, phase: VAEPhase) -> tuple:
    """Encodes, samples, decodes; a decoder-only phase holds the encoder still."""
    posterior = vae.apply({"params": params}, audio, method="encode")
    if phase.decoder_only:
        posterior = jax.lax.stop_gradient(posterior)
    return vae.apply({"params": params}, posterior.sample(key), method="decode"), posterior


def measure_levels(config: TrainVAE, audio: Array, hop: int) -> Array:
    """Measures mean and deviation of the level of each band: [B, W, 2] -> [2, 1, 1, bands]."""
    levels = stft.band_levels(audio, hop, config.level_channels)
    deviation = jnp.std(levels, axis=(0, 1), keepdims=True) + 1.0  # dB: a band may be silent
    return jnp.stack([jnp.mean(levels, axis=(0, 1), keepdims=True), deviation])


def level_error(config: TrainVAE, posterior: Posterior, audio: Array, scale: Array) -> Array:
    """Compares the last channels with the levels of mel bands, which `scale` normalises: -> [B]."""
    hop = audio.shape[1] // posterior.mean.shape[1]
    levels = (stft.band_levels(audio, hop, config.level_channels) - scale[0]) / scale[1]
    told = posterior.mean[..., -config.level_channels :]
    return jnp.mean(jnp.square(told - levels), axis=(1, 2))


def reconstruction_loss(
    config: TrainVAE, phase: VAEPhase, decoded: Array, posterior: Posterior, audio: Array
) -> tuple[Array, Metrics]:
    """Sums the part of (2) that needs neither a discriminator nor levels."""
    convergence, log_magnitude = stft.spectral_distance(
        decoded, audio, windows=config.windows, floor=config.floor, weighted=config.a_weighting
    )
    energy = jnp.mean(audio**2, axis=(1, 2)) + 1e-4  # no less than noise at -40 dB
    waveform = jnp.sqrt(jnp.mean((decoded - audio) ** 2, axis=(1, 2)) / energy + 1e-8)
    kl = kl_divergence(posterior)
    terms = config.convergence_weight * convergence + config.magnitude_weight * log_magnitude
    terms = terms + config.waveform_weight * waveform + phase.kl_weight * kl
    parts = {
        "loss/convergence": convergence,
        "loss/log_magnitude": log_magnitude,
        "loss/waveform": waveform,
        "loss/kl": kl,
    }
    metrics = {name: jnp.mean(part) for name, part in parts.items()}
    scales = {"latent_scale": jnp.sqrt(jnp.mean(posterior.mean**2)), "std": jnp.mean(posterior.std)}
    spread = {_SPREAD: jnp.std(posterior.mean, axis=(0, 1))}
    return jnp.mean(terms), metrics | scales | spread


def adversarial_loss(
    phase: VAEPhase, judge: Callable[[Array], tuple], decoded: Array, audio: Array
) -> tuple[Array, Metrics]:
    """Sums the adversarial part of (2): feature matching and -mean D(xhat) over all scales."""
    fake_logits, fake = judge(decoded)
    _, real = jax.lax.stop_gradient(judge(audio))
    logits = zip(fake_logits, fake_logits, strict=True)
    fooling = jnp.mean(jnp.stack([jnp.mean(distill.hinge_generator(r, f)) for r, f in logits]))
    pairs = zip(itertools.chain(*real), itertools.chain(*fake), strict=True)
    distances = [jnp.mean(jnp.abs(r - f)) / (jnp.mean(jnp.abs(r)) + 1e-8) for r, f in pairs]
    matching = jnp.mean(jnp.stack(distances))
    loss = phase.adversarial_weight * fooling + phase.matching_weight * matching
    return loss, {"loss/adversarial": fooling, "loss/matching": matching}


def critic_loss(judge: Callable[[Array], tuple], decoded: Array, audio: Array) -> tuple:
    """Computes (3), averaged over scales, and how often the critic is right."""
    (real, _), (fake, _) = judge(audio), judge(decoded)
    pairs = list(zip(real, fake, strict=True))
    loss = jnp.mean(jnp.stack([jnp.mean(distill.hinge_discriminator(r, f)) for r, f in pairs]))
    right = [jnp.mean(r > 0) + jnp.mean(f < 0) for r, f in pairs]
    return loss, {"loss/critic": loss, "critic_accuracy": jnp.mean(jnp.stack(right)) / 2}


# Steps: the only jit of the training -------------------------------------------------------------


def make_step(
    config: TrainVAE, networks: Networks, phase: VAEPhase, *, player: str, params: Params
) -> Callable[[TrainState, Array], tuple[TrainState, Metrics]]:
    """Compiles one step of one player in one phase: (state, audio [B, W, 2]) -> (state, metrics).

    Args:
      config: the run.
      networks: the modules.
      phase: whose weights apply.
      player: "generator" or "discriminator".
      params: {player: parameters} or their shapes.
    """
    settings = getattr(config, player)
    optimizer = optim.make_optimizer(settings, config.num_steps, params[player])

    def generator(vae: Params, state: TrainState, audio: Array) -> tuple[Array, Metrics]:
        key = state_lib.step_key(state)
        decoded, posterior = reconstruct(networks.vae, vae, audio, key, phase)
        loss, metrics = reconstruction_loss(config, phase, decoded, posterior, audio)
        if config.level_channels:
            error = jnp.mean(level_error(config, posterior, audio, state.extra[_LEVELS]))
            loss, metrics = loss + config.level_weight * error, metrics | {"loss/levels": error}
        if phase.adversarial:
            judge = functools.partial(
                networks.discriminator.apply, {"params": state.params["discriminator"]}
            )
            more, parts = adversarial_loss(phase, judge, decoded, audio)
            loss, metrics = loss + more, metrics | parts
        return loss, metrics

    def discriminator(params: Params, state: TrainState, audio: Array) -> tuple[Array, Metrics]:
        key = state_lib.step_key(state)
        decoded, _ = reconstruct(networks.vae, state.params["generator"], audio, key, phase)
        judge = functools.partial(networks.discriminator.apply, {"params": params})
        return critic_loss(judge, jax.lax.stop_gradient(decoded), audio)

    loss = {"generator": generator, "discriminator": discriminator}[player]

    def step(state: TrainState, audio: Array) -> tuple[TrainState, Metrics]:
        bound = functools.partial(loss, state=state, audio=audio)
        new, metrics = state_lib.value_and_update(state, player, bound, optimizer, settings)
        if player == "generator":
            new, growth = follow_spread(new, metrics.pop(_SPREAD), phase)
            metrics |= {"latent_growth": growth}
        if phase.decoder_only:
            new = _keep_encoder(new, state)
        return state_lib.advance(new), metrics

    return jax.jit(step, donate_argnums=0)


def follow_spread(state: TrainState, spread: Array, phase: VAEPhase) -> tuple[TrainState, Array]:
    """Averages the latents' standard deviation [C], and what it is while the KL holds it.

    Returns:
      The state, and the largest ratio of the two over channels.
    """
    recent = optim.update_average(state.extra["spread"], spread, _SPREAD_DECAY, state.step)
    held = recent if phase.kl_weight > 0 else state.extra["held_spread"]
    growth = jnp.max(jnp.where(held > 0, recent / held, 1.0))
    extra = state.extra | {"spread": recent, "held_spread": held}
    return state.replace(extra=extra), growth


def check_growth(config: TrainVAE, state: TrainState) -> None:
    """Stops a run whose latents spread beyond `growth_limit` times what they did under the KL.

    Raises:
      LatentsGrew: then; it says which channel, and by how much.
    """
    spread, held = (np.asarray(state.extra[name]) for name in ("spread", "held_spread"))
    growth = np.where(held > 0, spread / np.maximum(held, 1e-30), 1.0)
    if config.growth_limit and growth.max() > config.growth_limit:
        raise LatentsGrew(
            f"latent channel {growth.argmax()} spreads {growth.max():.2f} times as far as under "
            f"the KL, growth_limit={config.growth_limit}. Go back to the last checkpoint with a "
            "smaller adversarial_weight, or end the phase there."
        )


def _keep_encoder(new: TrainState, old: TrainState) -> TrainState:
    """Undoes what momentum and averaging did to an encoder that is held still."""

    def restored(after: dict[str, Params], before: dict[str, Params]) -> dict[str, Params]:
        if "generator" not in after:
            return after
        kept = {**after["generator"], "encoder": before["generator"]["encoder"]}
        return after | {"generator": kept}

    return new.replace(
        params=restored(new.params, old.params), average=restored(new.average, old.average)
    )


def init_state(config: TrainVAE, networks: Networks, audio: np.ndarray) -> TrainState:
    """Makes the state before the first step."""
    key = jax.random.key(config.seed)
    params = init_params(config, networks, jax.random.fold_in(key, 1), jnp.asarray(audio))
    settings = {name: getattr(config, name) for name in params}
    rules = {
        name: optim.make_optimizer(settings[name], config.num_steps, params[name])
        for name in params
    }
    channels = networks.vae.config.decoder_input_channels
    extra = {"spread": jnp.zeros(channels), "held_spread": jnp.zeros(channels)}
    if config.level_channels:
        extra[_LEVELS] = measure_levels(config, jnp.asarray(audio), networks.vae.config.hop)
    return state_lib.init_state(key, params, rules, settings, extra)


# What comes out ---------------------------------------------------------------------------------


def export(
    config: TrainVAE,
    networks: Networks,
    params: Params,
    held_out: dict[str, np.ndarray],
    folder: pathlib.Path,
) -> None:
    """Saves the autoencoder in the released layout, its latents at unit variance if asked for."""
    if config.unit_latents:
        clips = np.concatenate(list(held_out.values()))
        measured = reconstruction.measure(networks.vae, params, clips)
        # of a sample: spread of the means and of the posterior together
        scale = jnp.sqrt(measured["latent_std"] ** 2 + measured["posterior_std"] ** 2)
        params = vae_lib.scale_latents(params, scale)
    params = processes.whole(params)
    if jax.process_index() == 0:
        made = weights.Network(networks.vae.config, params)
        weights.save_vae(folder, made, dtype=jnp.dtype(config.export_dtype))


def load_audio(config: TrainVAE, hop: int) -> tuple[segments.SegmentBatches, dict[str, np.ndarray]]:
    """Decodes all groups of files: batches to train on, and held-out clips by group.

    Raises:
      ValueError: if the export needs held-out clips and there are none.
    """
    samples, clip = config.data.num_frames * hop, config.held_out_frames * hop
    seconds = max(samples, clip) / SAMPLE_RATE
    kept, aside = [], {}
    for pattern in config.audio:
        division = segments.divide(pattern, config.held_out_every)
        kept_tracks, held_out_tracks = (
            segments.load_tracks(files, min_seconds=seconds, max_seconds=config.track_seconds)
            for files in division
        )
        kept.append(kept_tracks)
        aside[pathlib.Path(pattern).parent.name] = held_out_tracks
    if not config.audio:
        first, *others = segments.practice_tracks(count=4, seconds=seconds + 1)
        kept, aside = [others], {"practice": [first] if config.held_out_every else []}
    if config.unit_latents and not any(aside.values()):
        raise ValueError(
            "unit_latents=true measures the latents on held-out audio, and none is held out; set "
            "held_out_every, or give some songs split=validation in their labels."
        )
    batches = segments.SegmentBatches(
        kept, batch_size=config.data.batch_size, samples=samples, seed=config.seed
    )
    clips = {
        n: segments.held_out_clips(tracks, samples=clip) for n, tracks in aside.items() if tracks
    }
    return batches, clips


def main(config: TrainVAE) -> None:
    """Trains through the phases, evaluates, and exports the autoencoder as `<workdir>/vae`."""
    mesh, networks = mesh_lib.make_mesh(config.mesh), build_networks(config)
    batches, held_out = load_audio(config, networks.vae.config.hop)
    clips = np.concatenate([batches.batch(i) for i in range(-(-_START_CLIPS // batches.size))])
    init = functools.partial(init_state, config, networks)
    compiled: dict[tuple, Callable] = {}

    with jax.set_mesh(mesh), loop.Loop(config) as run:
        places = functools.partial(mesh_lib.state_shardings, mesh=mesh)
        state, start = run.restore_or_init(init, places, batches, (clips,))
        for step in run.steps(start):
            phase = config.phase_at(step)
            critic = phase.adversarial and step % 2 == 0  # the two players alternate
            player = "discriminator" if critic else "generator"
            weights_only = dataclasses.replace(phase, num_steps=1)  # lengths do not recompile
            if (weights_only, player) not in compiled:
                step_fn = make_step(config, networks, phase, player=player, params=state.params)
                compiled[weights_only, player] = run.counted(step_fn)
            audio = mesh_lib.place_batch(mesh_lib.own_share(next(batches)), mesh)
            state, metrics = compiled[weights_only, player](state, audio)
            run.end_step(step, state, metrics, batches)
            hear = functools.partial(reconstruction.hear, networks.vae, held_out)
            run.listen(step + 1, hear, state.best("generator"), at_end=False)

            done = step + 1
            if held_out and (
                done == config.num_steps or (config.eval_every and done % config.eval_every == 0)
            ):
                best = state.best("generator")
                run.metrics.note(done, reconstruction.evaluate(networks.vae, best, held_out))
                check_growth(config, state)
        export(config, networks, state.best("generator"), held_out, run.workdir / "vae")


if __name__ == "__main__":
    cli.run(main, "configs/nano/vae.py")
