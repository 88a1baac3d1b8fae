"""A tuned DiT beside its start: alignment, by readers that training had and had not, and style."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.ops import flow, timesteps
from acestep_jax.ops.alignment import Scores
from acestep_jax.tasks.alignment import Reading
from acestep_jax.training import alignment_reward, models, song_rollout
from acestep_jax.training.recipes.grpo_dit import GrpoDiT
from acestep_jax.training.scene import Scene
from acestep_jax.training.song_rollout import Prompts, Setting
from acestep_jax.typing import Array, Key, Params
from experiments.distill import measures
from experiments.rl import gains
from train import grpo_dit

TUNED = "asset:nano/acestep-v15-nano-rl"
OTHER = "asset:nano/aligners/2"
"""An aligner that training never had; the one of the recipe is 1."""
_TRIES = 200
"""Batches that are looked through for prompts with words to sing."""
_SIZE = 8
"""Prompts that are sampled at once."""


class Stage(NamedTuple):
    """What both are sampled on.

    Attributes:
      setting: of training, with full weights.
      frozen: {"start", "encoders"}, and "aligner" where the reward has one.
      prompts: held-out ones that have words to sing, `_SIZE` at a time.
      readers: {name: how songs are read, and by whom}: as in training, and by a reader that it
        never had. Readers are separated like `frozen`.
    """

    setting: Setting
    frozen: Params
    prompts: list[Prompts]
    readers: dict[str, tuple[Reading, Params]]


class Sung(NamedTuple):
    """What one DiT sang: P prompts, M songs each.

    Attributes:
      latents: [P, M, T, C].
      scores: {reader and part: [P, M]}.
      far: squared distance of its velocity from the start's on its own songs [P, M].
    """

    latents: np.ndarray
    scores: dict[str, np.ndarray]
    far: np.ndarray


def open_stage(config: GrpoDiT, prompts: int, other: str = "") -> Stage:
    """Loads the start and who reads, and finds held-out prompts.

    Args:
      config: the recipe.
      prompts: how many.
      other: an aligner that training never had; without one, other heads of the start that
        reads, and nobody beside an aligner, which has no others that hear.

    Raises:
      ValueError: if too few of them have words to sing, or they are no whole number of batches.
    """
    if prompts % _SIZE:
        raise ValueError(f"{prompts} prompts are no whole number of batches of {_SIZE}.")
    config = dataclasses.replace(config, form="full", algorithm="nft")
    loaded = models.load(config.model)
    setting = song_rollout.make_setting(config, loaded.networks)
    frozen = grpo_dit.separate(config, loaded.params)
    frozen |= grpo_dit.load_aligner(config, loaded.networks.config, None)
    own = frozen.get("aligner", frozen)
    readers = {"aas": (setting.reading, own)}
    if not (other or config.reward.aligner):
        readers["other reader"] = other_heads(setting.reading, loaded), own
    if other:
        reward = dataclasses.replace(config.reward, aligner=other, heads=())
        changed = dataclasses.replace(config, reward=reward)
        reading = song_rollout.make_setting(changed, loaded.networks).reading
        sizes = loaded.networks.config
        readers["other reader"] = reading, grpo_dit.load_aligner(changed, sizes, None)["aligner"]
    return Stage(setting, frozen, find_prompts(config, prompts), readers)


def find_prompts(config: GrpoDiT, count: int) -> list[Prompts]:
    """Collects prompts of the validation split that have words to sing."""
    read, batches = grpo_dit.make_reader(config), models.open_batches(config, "validation")
    rows: list[Prompts] = []
    for _ in range(_TRIES):
        given = read(next(batches))
        for i in np.flatnonzero(given.lyrics.valid):
            rows.append(jax.tree.map(lambda x, i=i: np.asarray(x)[i], given))
        if len(rows) >= count:
            groups = [rows[start : start + _SIZE] for start in range(0, count, _SIZE)]
            return [jax.tree.map(lambda *x: np.stack(x), *group) for group in groups]
    raise ValueError(
        f"only {len(rows)} held-out prompts have words to sing, not {count}; ask for fewer, or "
        "name shards with more songs."
    )


def other_heads(reading: Reading, loaded: models.Loaded) -> Reading:
    """Gives a reader that training never had: as many heads, of the same layers where they have."""
    sizes = loaded.networks.config
    used = {(layer, head) for layer, own in reading.heads for head in own}
    layers = sorted(range(sizes.num_hidden_layers), key=lambda n: n not in dict(reading.heads))
    free = [(n, h) for n in layers for h in range(sizes.dit.num_heads) if (n, h) not in used]
    chosen = free[: len(used)]
    grouped = {n: tuple(h for other, h in chosen if other == n) for n, _ in chosen}
    return dataclasses.replace(reading, heads=tuple(sorted(grouped.items())))


def sing(stage: Stage, params: Params, songs: int, *, seed: int = 0) -> Sung:
    """Samples and reads `songs` songs for every prompt; noise depends on the seed alone."""
    setting = stage.setting
    own = setting._replace(config=dataclasses.replace(setting.config, group=max(songs, 2)))

    hows = {name: how for name, (how, _) in stage.readers.items()}
    whose = {name: who for name, (_, who) in stage.readers.items()}

    @jax.jit
    def run(
        params: Params, frozen: Params, whose: Params, prompts: Prompts, key: Key
    ) -> tuple[Array, Any, Array]:
        noise_key, read_key, far_key = jax.random.split(key, 3)
        scene, lyrics = song_rollout.prepare(own, frozen, prompts)
        velocity = song_rollout.velocity_of(own, params, scene)
        noise = jax.random.normal(noise_key, scene.real.shape)
        latents = song_rollout.follow(own.config, velocity, noise)

        def read(how: Reading, reader: Params, scene: Scene) -> Scores:
            return alignment_reward.align(
                how, own.networks, reader, scene, latents, lyrics, read_key
            )

        scores = {"self": read(hows["aas"], params, scene)}
        for name, who in whose.items():
            heard, _ = song_rollout.prepare(own, who, prompts)
            scores[name] = read(hows[name], who["start"], heard)
        return latents, scores, distance(own, params, frozen, scene, latents, far_key)

    found = []
    for number, prompts in enumerate(stage.prompts):
        key = jax.random.fold_in(jax.random.key(seed), number)
        found.append(jax.device_get(run(params, stage.frozen, whose, prompts, key)))
    return _gather(found, own.config.group)


def distance(
    setting: Setting, params: Params, frozen: Params, scene: Scene, songs: Array, key: Key
) -> Array:
    """Measures |v - v_start|^2 at drawn levels of finished songs, [B]: how far tuning went."""
    time_key, noise_key = jax.random.split(key)
    t = timesteps.sample_times(time_key, songs.shape[:1])
    x_t = flow.interpolate(songs, jax.random.normal(noise_key, songs.shape), t)
    ours, theirs = (
        song_rollout.velocity_of(setting, p, scene)(x_t, t) for p in (params, frozen["start"])
    )
    return jnp.mean((ours - theirs) ** 2, axis=(1, 2))


def _gather(found: list[Any], members: int) -> Sung:
    def whole(pick: Any) -> np.ndarray:
        rows = np.concatenate([np.asarray(pick(part)) for part in found])
        return rows.reshape(-1, members, *rows.shape[1:])

    names = found[0][1]
    scores = {name: whole(lambda part, n=name: part[1][n].score) for name in names}
    for measure in ("coverage", "monotonicity", "confidence"):
        scores[measure] = whole(lambda part, m=measure: getattr(part[1]["aas"], m))
    return Sung(whole(lambda part: part[0]), scores, whole(lambda part: part[2]))


def compare(tuned: Sung, start: Sung) -> dict[str, Any]:
    """Measures what tuning gained, what it cost, and whether the reward was fooled.

    The watch-list: the reader that the policy had of itself, one that the reward never had, the
    parts by themselves, how far the velocity moved, and style: the energy distance of latent
    windows to the start's songs, beside that of the start's own first and second songs.
    """
    found = {
        name: gains.compare(tuned.scores[name], start.scores[name])
        for name in ("aas", "other reader", "self")
        if name in start.scores
    }
    watched = {
        name: gains.rounded(gains.gain(tuned.scores[name], start.scores[name]))
        for name in ("coverage", "monotonicity", "confidence")
    }
    watched["velocity moved"] = gains.rounded(gains.mean(tuned.far))
    watched["style"] = gains.rounded(style(tuned.latents[:, 0], start.latents[:, 1]))
    watched["style, start"] = gains.rounded(style(start.latents[:, 0], start.latents[:, 1]))
    spread = [float(x.latents.std(axis=1).mean()) for x in (tuned, start)]
    watched["diversity"] = [round(spread[0] / spread[1], 4)] * 3
    return {**found, "watched": watched}


def style(ours: np.ndarray, theirs: np.ndarray) -> measures.Interval:
    """Measures the energy distance between two sets of songs of other noise."""
    pairs = measures.distances(ours, theirs)
    return measures.bootstrap(lambda w: measures.energy(pairs, w), len(ours), draws=200)
