"""Teaches the DiT to sing what it was given, by the attention of its own frozen start.

The reward is the attention alignment score: a frozen copy of the DiT reads a finished song, and how
well its cross-attention walks through the lyrics is the song's worth (ops/alignment.py). The copy
is frozen because a policy that read for itself could learn to read sharply instead of singing
clearly; its own score is logged to show just that. A model too small to have heads that place words
is read by one that was taught to (`reward.aligner`, train/aligner.py). One step, for either
algorithm:

    roll out   M songs for each of N prompts, by the sampling policy, with few steps
    judge      their scores, and advantages within each prompt's group
    update     flow_grpo: clipped ratios of the steps that drew, and the exact KL to the start   (1)
               nft: flow matching towards good songs and away from bad ones                      (2)

    L = mean -min(rho A, clip(rho) A) + w |mean - mean_start|^2 / (2 std^2)                      (1)
    L = (r |data(v+) - x0|^2 + (1 - r) |data(v-) - x0|^2) / beta + w |v - v_start|^2             (2)

In (1) only a window of the sampler's steps draws (ops/flow_policy.py), the others follow the ODE;
it slides from noise to data as training goes on. (2) needs no probabilities: any sampler will do,
and noise levels are those of pre-training (ops/nft.py). Prompts without sung words, and groups
whose songs are all worth the same, count for nothing.

How this differs from the papers: log-ratios are centred before they are clipped (GRPO-Guard);
KL is the exact one, with the step's length in its variance, which Flow-GRPO's code leaves out.

    python -m train.grpo_dit --config configs/nano/grpo_dit.py            (--dry_run: compile only)
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from acestep_jax.data.batch import Batch
from acestep_jax.nn import lora
from acestep_jax.nn.config import ModelConfig
from acestep_jax.ops import flow, flow_policy, losses, nft, policy, timesteps
from acestep_jax.ops.alignment import Scores
from acestep_jax.tasks import tokens as tokens_lib
from acestep_jax.tasks.lyrics import LyricSpans
from acestep_jax.training import (
    alignment_reward,
    cli,
    forms,
    loop,
    models,
    optim,
    rehearsal,
    rehearsal_policy,
)
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import state as state_lib
from acestep_jax.training.alignment_reward import Lyrics
from acestep_jax.training.overrides import ConfigError
from acestep_jax.training.recipes.grpo_dit import GrpoDiT
from acestep_jax.training.rehearsal_policy import Described
from acestep_jax.training.song_rollout import (
    Prompts,
    Setting,
    Songs,
    attach,
    follow,
    make_setting,
    prepare,
    roll_out,
    velocity_of,
)
from acestep_jax.training.state import TrainState
from acestep_jax.typing import Array, Key, Params

Metrics = dict[str, Array]


class Learned(NamedTuple):
    """What songs are worth: advantages [B], and which of them count [B]."""

    advantage: Array
    kept: Array


# Reward -------------------------------------------------------------------------------------------


def judge(
    setting: Setting, state: TrainState, frozen: Params, prompts: Prompts, songs: Songs
) -> tuple[Learned, Metrics]:
    """Scores songs by the frozen reader, and compares those of a group."""
    config = setting.config
    key = state_lib.step_key(state, 1)
    own = attach(setting, state.params["policy"], frozen)
    scores = {"aas": listen(setting, frozen, prompts, songs, key)}
    if config.reward.log_self or config.reward.reader == "self":
        scores["self_aas"] = score(setting, own, songs, key)
    chosen = scores["aas" if config.reward.reader == "frozen" else "self_aas"].score
    rewards = chosen.reshape(-1, config.group)
    valid = songs.lyrics.valid[:: config.group]
    advantage, kept = policy.advantages(rewards, config.variant, valid, config.advantage_limit)
    heard = jnp.repeat(valid, config.group)
    metrics = {f"reward/{name}": losses.masked_mean(x.score, heard) for name, x in scores.items()}
    metrics |= parts(scores["aas"], heard) | {
        "reward/spread": losses.masked_mean(policy.spread(rewards), valid),
        "reward/best_of_group": losses.masked_mean(jnp.max(rewards, axis=1), valid),
        "groups/with_lyrics": jnp.mean(valid),
        "groups/kept": jnp.mean(kept),
        "songs/std": jnp.std(songs.latents),
    }
    return Learned(advantage.reshape(-1), jnp.repeat(kept, config.group)), metrics


def listen(setting: Setting, frozen: Params, prompts: Prompts, songs: Songs, key: Key) -> Scores:
    """Scores songs by the frozen reader; an aligner reads with encoders of its own."""
    if "aligner" not in frozen:
        return score(setting, frozen["start"], songs, key)
    scene, _ = prepare(setting, frozen["aligner"], prompts)
    return score(setting, frozen["aligner"]["start"], songs._replace(scene=scene), key)


def score(setting: Setting, params: Params, songs: Songs, key: Key) -> Scores:
    """Scores songs by one reader."""
    return alignment_reward.align(
        setting.reading,
        setting.networks,
        params,
        songs.scene,
        songs.latents,
        songs.lyrics,
        key,
    )


def parts(scores: Scores, heard: Array) -> Metrics:
    """Gives the means of the three measures over songs with lyrics."""
    names = ("coverage", "monotonicity", "confidence")
    return {f"reward/{n}": losses.masked_mean(getattr(scores, n), heard) for n in names}


# Updates: two ways to learn -----------------------------------------------------------------------


def flow_grpo_loss(
    own: Params, setting: Setting, players: Params, songs: Songs, learned: Learned, key: Key
) -> tuple[Array, Metrics]:
    """Evaluates (1) on the steps that drew.

    Args:
      own: what is trained.
      setting: configuration and modules.
      players: {"start", "old"} parameters, of which the first is read.
      songs: with their path.
      learned: what they are worth.
      key: not used; the path holds all that was drawn.
    """
    del key
    config, path, plan = setting.config, songs.path, setting.config.flow_grpo
    mask = songs.scene.frame_mask
    velocity = velocity_of(setting, attach(setting, own, players), songs.scene)
    anchor = velocity_of(setting, players["start"], songs.scene)
    transition = flow_policy.draw(plan.rule, plan.strength)

    @jax.checkpoint
    def evaluate(step: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        x_t, x_next, t, t_next = step
        now = transition(x_t, velocity(x_t, t), t, t_next)
        then = transition(x_t, jax.lax.stop_gradient(anchor(x_t, t)), t, t_next)
        return flow_policy.log_prob(x_next, now, mask), flow_policy.divergence(now, then, mask)

    steps = (path.states[:-1], path.states[1:], path.times[:-1], path.times[1:])
    log_probs, apart = jax.lax.map(evaluate, steps)
    ratios = policy.log_ratio(log_probs, path.log_probs)
    centred = flow_policy.recentred(ratios) if plan.recentre else ratios
    advantage = jnp.broadcast_to(learned.advantage[None], ratios.shape)
    kept = jnp.broadcast_to(learned.kept[None], ratios.shape)
    gain = losses.masked_mean(policy.clipped(centred, advantage, plan.clip), kept)
    far = losses.masked_mean(apart, kept)
    cut = policy.is_clipped(centred, advantage, plan.clip) * 1.0
    return gain + config.kl_weight * far, {
        "loss/policy": gain,
        "kl/step": far,
        "policy/log_ratio": losses.masked_mean(ratios, kept),
        "policy/clipped": losses.masked_mean(cut, kept),
    }


def nft_loss(
    own: Params, setting: Setting, players: Params, songs: Songs, learned: Learned, key: Key
) -> tuple[Array, Metrics]:
    """Evaluates (2) at drawn noise levels; arguments as of `flow_grpo_loss`, "old" is read too."""
    config, plan, scene = setting.config, setting.config.nft, songs.scene
    time_key, noise_key = jax.random.split(key)
    t = timesteps.sample_times(time_key, songs.latents.shape[:1], plan.time_law)
    noise = jax.random.normal(noise_key, songs.latents.shape)
    x_t = flow.interpolate(songs.latents, noise, t)
    once = functools.partial(velocity_of, setting, scene=scene, once=True)
    velocity = once(attach(setting, own, players))(x_t, t)
    old = once(attach(setting, players["old"], players))(x_t, t)
    start = once(players["start"])(x_t, t)
    each = nft.contrast(
        velocity,
        old,
        x_t,
        t,
        songs.latents,
        nft.optimality(learned.advantage, plan.limit),
        beta=plan.beta,
        normalise=plan.normalise,
        frame_mask=scene.frame_mask,
    )
    apart = losses.velocity_loss(velocity, jax.lax.stop_gradient(start), scene.frame_mask)
    gain, far = (losses.masked_mean(x, learned.kept) for x in (each / plan.beta, apart))
    return gain + config.kl_weight * far, {"loss/contrast": gain, "kl/velocity": far}


LOSSES = {"flow_grpo": flow_grpo_loss, "nft": nft_loss}
"""(own, setting, players, songs, learned, key) -> (loss, metrics), by `GrpoDiT.algorithm`."""


# Steps: the only jit of the file ------------------------------------------------------------------


def make_optimizer(config: GrpoDiT, name: str, params: Params) -> optax.GradientTransformation:
    """Builds the optimizer of a network; decaying rates end with the last update of the run."""
    return optim.make_optimizer(getattr(config, name), config.num_steps * config.updates, params)


def make_state(setting: Setting, start: Params) -> TrainState:
    """Makes the state before the first step: the policy, and with NFT what samples."""
    config, key = setting.config, jax.random.key(setting.config.seed)
    own = forms.FORMS[config.form].start(jax.random.fold_in(key, 1), start, config.adapter)
    params = {"policy": own} | ({"old": own} if config.algorithm == "nft" else {})
    return state_lib.init_state(
        key,
        params,
        {name: make_optimizer(config, name, tree) for name, tree in params.items()},
        {name: getattr(config, name) for name in params},
        {"updates": jnp.zeros((), jnp.int32)},
    )


def update(
    setting: Setting,
    state: TrainState,
    frozen: Params,
    prompts: Prompts,
    songs: Songs,
    learned: Learned,
) -> tuple[TrainState, Metrics]:
    """Moves the policy once."""
    del prompts
    config, count = setting.config, state.extra["updates"]
    players = {"start": frozen["start"], "old": state.params.get("old")}
    given = {"setting": setting, "players": players, "songs": songs, "learned": learned}
    key = jax.random.fold_in(state_lib.step_key(state, 2), count)
    loss = functools.partial(LOSSES[config.algorithm], **given, key=key)
    optimizer = make_optimizer(config, "policy", state.params["policy"])
    state, metrics = state_lib.value_and_update(state, "policy", loss, optimizer, config.policy)
    return state.replace(extra={"updates": count + 1}), metrics


def advance(config: GrpoDiT, state: TrainState) -> TrainState:
    """Counts a step; with NFT what samples follows what is trained."""
    if config.algorithm == "nft":
        d = nft.old_decay(state.step, config.nft.old)
        pull = lambda old, new: d * old + (1 - d) * new  # noqa: E731
        old = jax.tree.map(pull, state.params["old"], state.params["policy"])
        state = state.replace(params=state.params | {"old": old})
    return state_lib.advance(state)


class Steps(NamedTuple):
    """The compiled parts of a step; what returns a state donates the one it was given."""

    roll_out: Callable[..., Songs]  # (state, frozen, prompts)
    judge: Callable[..., tuple[Learned, Metrics]]  # (state, frozen, prompts, songs)
    update: Callable[..., tuple[TrainState, Metrics]]  # (state, frozen, prompts, songs, learned)
    advance: Callable[[TrainState], TrainState]


def make_steps(setting: Setting, places: TrainState | None = None) -> Steps:
    """Compiles the parts of a step.

    Args:
      setting: configuration and modules.
      places: where the state lives (`mesh.state_shardings`), or None for one device.
    """
    count = functools.partial(advance, setting.config)
    return Steps(
        roll_out=jax.jit(functools.partial(roll_out, setting)),
        judge=jax.jit(functools.partial(judge, setting)),
        update=jax.jit(
            functools.partial(update, setting), donate_argnums=0, out_shardings=(places, None)
        ),
        advance=jax.jit(count, donate_argnums=0, out_shardings=places),
    )


def iterate(
    config: GrpoDiT, steps: Steps, state: TrainState, frozen: Params, prompts: Prompts
) -> tuple[TrainState, Metrics]:
    """Runs one step."""
    songs = steps.roll_out(state, frozen, prompts)
    learned, metrics = steps.judge(state, frozen, prompts, songs)
    for _ in range(config.updates):
        state, more = steps.update(state, frozen, prompts, songs, learned)
        metrics |= more
    return steps.advance(state), metrics


def make_held_out(
    setting: Setting, frozen: Params, read: Callable[[Batch], Prompts], mesh: jax.sharding.Mesh
) -> Callable[[Params], dict[str, float]]:
    """Gives trained -> scores of held-out prompts, sampled by the ODE; noise is always the same."""
    config = dataclasses.replace(setting.config, algorithm="nft", group=2)
    setting = setting._replace(config=config)

    @jax.jit
    def evaluate(own: Params, frozen: Params, prompts: Prompts, key: Key) -> Metrics:
        noise_key, score_key = jax.random.split(key)
        scene, lyrics = prepare(setting, frozen, prompts)
        params = attach(setting, own, frozen)
        noise = jax.random.normal(noise_key, scene.real.shape)
        latents = follow(config, velocity_of(setting, params, scene), noise)
        songs = Songs(scene, lyrics, latents, None)
        scores = listen(setting, frozen, prompts, songs, score_key)
        return parts(scores, lyrics.valid) | {
            "reward/aas": losses.masked_mean(scores.score, lyrics.valid)
        }

    def held_out(own: Params) -> dict[str, float]:
        batches, tables = models.open_batches(config, "validation"), []
        for number in range(config.eval_batches):
            prompts = mesh_lib.place_batch(read(next(batches)), mesh)
            tables.append(evaluate(own, frozen, prompts, jax.random.key(number)))
        means = jax.tree.map(lambda *each: float(sum(each) / len(each)), *tables)
        return {f"eval/{name}": value for name, value in means.items()}

    return held_out if config.eval_batches else lambda own: {}


# The run, in the order it happens -----------------------------------------------------------------


def separate(config: GrpoDiT, params: Params) -> Params:
    """Separates the DiT, where training starts, from the encoders: {"start", "encoders"}."""
    encoders = {name: tree for name, tree in params.items() if name != "dit"}
    return models.cast({"start": params["dit"], "encoders": encoders}, config.model.frozen_dtype)


def load_aligner(config: GrpoDiT, sizes: ModelConfig, mesh: jax.sharding.Mesh | None) -> Params:
    """Loads the reader that the reward names: {"aligner": ...}, separated; {} for the start.

    Raises:
      ConfigError: if it is of another size than the policy.
    """
    if not config.reward.aligner:
        return {}
    model = dataclasses.replace(config.model, weights=config.reward.aligner)
    loaded = models.load(model, config.seed, mesh)
    if not loaded.networks.config.is_built_like(sizes):
        raise ConfigError(
            f"reward.aligner={config.reward.aligner!r} is of other sizes than the policy, "
            f"{config.model.weights!r}; train one of the same model (train/aligner.py)."
        )
    return {"aligner": separate(config, loaded.params)}


def make_reader(config: GrpoDiT) -> Callable[[Batch], Prompts]:
    """Gives batch -> prompts with their lyrics found, by the run's own tokenizer."""
    tokenizer = tokens_lib.load_tokenizer(str(models.tokenizer_folder(config.model)))

    def read(batch: Batch) -> Prompts:
        return Prompts(batch, alignment_reward.read_lyrics(tokenizer, batch.lyric_tokens))

    return read


def main(config: GrpoDiT) -> None:
    """Trains, evaluates, and exports the model."""
    mesh = mesh_lib.make_mesh(config.mesh)
    loaded = models.load(config.model, config.seed, mesh)
    setting, read = make_setting(config, loaded.networks), make_reader(config)
    batches = models.open_batches(config, "train")
    aligner = load_aligner(config, loaded.networks.config, mesh)

    with jax.set_mesh(mesh), loop.Loop(config) as run:
        frozen = separate(config, loaded.params) | aligner
        frozen = mesh_lib.place_params(frozen, mesh)
        loaded = loaded.without_params()
        init = functools.partial(make_state, setting)
        shardings = functools.partial(mesh_lib.state_shardings, mesh=mesh)
        state, start = run.restore_or_init(init, shardings, batches, (frozen["start"],))
        places = shardings(jax.eval_shape(init, frozen["start"]))
        steps = Steps(*map(run.counted, make_steps(setting, places)))
        held_out = make_held_out(setting, frozen, read, mesh)

        for step in run.steps(start):
            prompts = mesh_lib.place_batch(read(next(batches)), mesh)
            state, metrics = iterate(config, steps, state, frozen, prompts)
            run.end_step(step, state, metrics, batches)
            if config.eval_every and (step + 1) % config.eval_every == 0:
                run.metrics.note(step + 1, held_out(state.best("policy")))

        best = state.best("policy")
        run.metrics.note(config.num_steps, held_out(best))
        params = attach(setting, best, frozen)
        if isinstance(params, lora.WithAdapters):
            params = lora.merge(params.params, params.lora).params
        silence = models.common_silence(loaded, batches.silence_latent)
        whole = frozen["encoders"] | {"dit": params}
        models.export(config.model, loaded, whole, silence, run.workdir / "export")
        logging.warning("Model saved in %s.", run.workdir / "export")


def describe(config: GrpoDiT) -> Described:
    """Gives a run as shapes, with an attention that is no processor's own."""
    networks = models.build(dataclasses.replace(config.model, attention="portable"))
    setting = make_setting(config, networks)
    frozen = jax.eval_shape(functools.partial(separate, config), models.shapes(networks))
    frozen |= {"aligner": frozen} if config.reward.aligner else {}
    size, room = config.data.batch_size, config.data.lyric_tokens
    numbers = jax.ShapeDtypeStruct((size,), np.int32)
    spans = LyricSpans(numbers, numbers, jax.ShapeDtypeStruct((size, room), np.bool_))
    lyrics = Lyrics(spans, jax.ShapeDtypeStruct((size,), np.bool_))
    return Described(
        state=jax.eval_shape(functools.partial(make_state, setting), frozen["start"]),
        frozen=frozen,
        batch=Prompts(rehearsal.batch_shapes(config.data, networks.config), lyrics),
        frozen_places=functools.partial(mesh_lib.parameter_shardings, frozen),
        lead=lambda prompts: prompts.batch.latents,
        make_steps=functools.partial(make_steps, setting),
    )


if __name__ == "__main__":
    cli.run(
        main,
        "configs/nano/grpo_dit.py",
        functools.partial(rehearsal_policy.rehearse, describe),
    )
