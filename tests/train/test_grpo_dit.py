"""The DiT's reinforcement: lyrics found, paths drawn, losses and their gradients.

The network is a Gaussian's exact velocity plus a trained shift, so that what a step does is known.
"""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.data.loader import NANO_TOKENIZER
from acestep_jax.nn.config import MODELS
from acestep_jax.ops import flow_policy, gaussian
from acestep_jax.tasks import prompt, tokens
from acestep_jax.tasks.alignment import Reading
from acestep_jax.tasks.lyrics import LyricSpans
from acestep_jax.training import alignment_reward, song_rollout
from acestep_jax.training.alignment_reward import Lyrics
from acestep_jax.training.config import Model
from acestep_jax.training.recipes.grpo_dit import AasReward, FlowGrpo, GrpoDiT, Nft
from acestep_jax.training.scene import Scene
from acestep_jax.training.song_rollout import Songs
from acestep_jax.training.state import TrainState
from train import grpo_dit
from train.grpo_dit import Learned

CONFIG = GrpoDiT(
    name="toy",
    model=Model(),
    algorithm="flow_grpo",
    flow_grpo=FlowGrpo(rule="sde", strength=0.7, window=2, clip=(0.2, 0.2), recentre=False),
    group=3,
    rollout_steps=4,
    rollout_shift=1.0,
    kl_weight=0.3,
)


class Shifted:
    """v(x, t) of data N(0, 1.4), plus a shift a channel; guidance finds half the shift."""

    def apply(self, variables, x, t=None, context=None, condition=None, *, method=None, **masks):
        if method == "project_condition":
            return x[:, :, 0].mean()
        cross = condition if condition.ndim == 0 else condition[:, :, 0].mean()
        shift = variables["params"]["shift"][None, None] * cross
        return gaussian.velocity(x, t, 0.0, 1.4**0.5) + shift


HEADS = ((0, (0,)),)
SETTING = song_rollout.Setting(CONFIG, types.SimpleNamespace(dit=Shifted()), Reading(HEADS))
START = {"shift": np.array([0.1, -0.2])}
OWN = {"shift": np.array([0.15, -0.1])}
B, T = 6, 5
MASK = np.arange(T)[None] < np.array([5, 5, 5, 3, 3, 3])[:, None]
SCENE = Scene(
    tokens=np.ones((B, 2, 1)),
    mask=None,
    null=np.full((1, 1, 1), 0.5),
    context=np.zeros((B, T, 4)),
    frame_mask=MASK,
    real=np.zeros((B, T, 2)),
)
LYRICS = Lyrics(
    LyricSpans(np.zeros(B, int), np.full(B, 2), np.ones((B, 2), bool)), np.ones(B, bool)
)
LEARNED = Learned(np.array([1.0, -1.0, 0.0, 0.5, 0.5, -1.0]), np.array([True] * 3 + [False] * 3))
PLAYERS = {"start": START, "old": START}


@pytest.fixture(autouse=True)
def _in_double():
    with jax.enable_x64(True):
        yield


@functools.cache
def songs(start=1):
    """Songs drawn by the policy as it is, their window beginning at a step."""
    with jax.enable_x64(True):
        noise = np.random.default_rng(0).standard_normal((B, T, 2))

        def draw(own):
            velocity = song_rollout.velocity_of(SETTING, own, SCENE)
            return song_rollout.drawn_path(CONFIG, velocity, noise, MASK, start, jax.random.key(0))

        latents, path = jax.jit(draw)(OWN)
        return Songs(SCENE, LYRICS, latents, path)


def loss_of(name, config=CONFIG, learned=LEARNED):
    setting = SETTING._replace(config=config)

    def loss(own, songs):
        given = (setting, PLAYERS, songs, learned, jax.random.key(1))
        return grpo_dit.LOSSES[name](own, *given)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def by_differences(name, config, at, song):
    """The gradient by central differences, a parameter at a time."""
    value, size = loss_of(name, config), 1e-6
    slopes = []
    for i in range(2):
        ends = [
            value({"shift": at["shift"] + s * size * np.eye(2)[i]}, song)[0][0] for s in (1, -1)
        ]
        slopes.append((float(ends[0]) - float(ends[1])) / (2 * size))
    return slopes


def test_only_the_steps_of_the_window_draw_and_they_are_kept():
    path = songs().path
    np.testing.assert_allclose(path.times, [0.75, 0.5, 0.25])
    velocity = song_rollout.velocity_of(SETTING, OWN, SCENE)
    for k in range(2):
        x, t, t_next = path.states[k], path.times[k], path.times[k + 1]
        step = flow_policy.sde(x, velocity(x, t), t, t_next, 0.7)
        np.testing.assert_allclose(
            path.log_probs[k], flow_policy.log_prob(path.states[k + 1], step, MASK), atol=1e-12
        )
    last, t = path.states[2], path.times[2]
    np.testing.assert_allclose(songs().latents, last - t * velocity(last, t), atol=1e-12)


def test_a_policy_that_has_not_moved_has_no_ratio_and_the_plain_gradient():
    (_, metrics), slope = loss_of("flow_grpo")(OWN, songs())
    assert abs(float(metrics["policy/log_ratio"])) < 1e-12
    assert float(metrics["policy/clipped"]) == 0.0
    # of the dropped group nothing is learned
    quiet = LEARNED.advantage * LEARNED.kept
    path = songs().path

    def log_probs(own):
        velocity = song_rollout.velocity_of(SETTING, own, SCENE)
        each = [
            flow_policy.log_prob(
                path.states[k + 1],
                flow_policy.sde(
                    path.states[k],
                    velocity(path.states[k], path.times[k]),
                    path.times[k],
                    path.times[k + 1],
                    0.7,
                ),
                MASK,
            )
            for k in range(2)
        ]
        return jnp.stack(each)

    jacobian = jax.jit(jax.jacobian(log_probs))(OWN)["shift"]
    expected = -np.einsum("wbc,b->c", jacobian, quiet) / (2 * 3)
    free = dataclasses.replace(CONFIG, kl_weight=0.0)
    np.testing.assert_allclose(
        loss_of("flow_grpo", free)(OWN, songs())[1]["shift"], expected, atol=1e-12
    )
    assert np.abs(slope["shift"] - expected).max() > 1e-3  # the divergence pulls too


MOVED = {"shift": np.array([0.4, -0.3])}


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        dataclasses.replace(
            CONFIG,
            guidance_scale=2.0,
            flow_grpo=dataclasses.replace(CONFIG.flow_grpo, rule="cps", strength=0.5),
        ),
    ],
    ids=["sde", "cps, guided"],
)
def test_gradients_of_flow_grpo_are_those_of_differences(config):
    (loss, metrics), slope = loss_of("flow_grpo", config)(MOVED, songs())
    assert float(metrics["kl/step"]) > 0 and np.isfinite(loss)
    expected = by_differences("flow_grpo", config, MOVED, songs())
    np.testing.assert_allclose(slope["shift"], expected, rtol=1e-5, atol=1e-8)


def test_gradients_of_nft_are_those_of_differences_and_point_to_good_songs():
    plain = dataclasses.replace(CONFIG, nft=Nft(normalise=False), kl_weight=0.1)
    song = songs()._replace(path=None)
    _, slope = loss_of("nft", plain)(MOVED, song)
    expected = by_differences("nft", plain, MOVED, song)
    np.testing.assert_allclose(slope["shift"], expected, rtol=1e-5, atol=1e-8)
    # with rewards alike on either side, the old policy is where it ends: good and bad cancel
    free = dataclasses.replace(plain, kl_weight=0.0)
    even = LEARNED._replace(advantage=np.zeros(B))
    at_old = loss_of("nft", free, even)(START, song)[1]["shift"]
    np.testing.assert_allclose(at_old, 0.0, atol=1e-9)


def test_the_sampling_policy_follows_the_trained_one():
    config = dataclasses.replace(CONFIG, algorithm="nft", nft=Nft(old="slow"))
    params = {"policy": {"w": np.array(1.0)}, "old": {"w": np.array(0.0)}}
    state = TrainState(jnp.asarray(100), params, {}, {}, jax.random.key(0), {})
    after = grpo_dit.advance(config, state)
    assert float(after.params["old"]["w"]) == pytest.approx(0.9) and int(after.step) == 101
    assert grpo_dit.advance(CONFIG, state).params is params


def test_a_group_may_begin_at_one_noise():
    shared = dataclasses.replace(CONFIG, flow_grpo=FlowGrpo(share_noise=True))
    one = song_rollout.first_noise(shared, (6, 4, 2), jax.random.key(0))
    np.testing.assert_array_equal(one[0], one[2])
    assert not np.array_equal(one[0], one[3])
    own = song_rollout.first_noise(CONFIG, (6, 4, 2), jax.random.key(0))
    assert len({float(x) for x in own[:, 0, 0]}) == 6


# What is sung -------------------------------------------------------------------------------------

PROMPTS = ("[verse]\nla la la\n", "[Instrumental]", "[verse]\n\n[chorus]\n", "oh")


def test_prompts_with_words_are_told_from_those_without():
    tokenizer = tokens.load_tokenizer(NANO_TOKENIZER)
    rows = [tokens.tokenize(tokenizer, prompt.lyric_prompt(text, "en"), 48)[0] for text in PROMPTS]
    lyrics = alignment_reward.read_lyrics(tokenizer, np.stack(rows))
    assert lyrics.valid.tolist() == [True, False, False, True]
    assert lyrics.spans.sung.shape == (4, 48)
    begin, count = int(lyrics.spans.first[3]), int(lyrics.spans.count[3])
    assert tokenizer.decode(rows[3][begin : begin + count].tolist()) == "oh"


def test_heads_are_those_named_or_those_known_of_the_weights():
    sizes = MODELS["turbo"]
    named = AasReward(heads=((1, (2,)),))
    assert alignment_reward.find_heads(named, Model(), sizes) == ((1, (2,)),)
    how = alignment_reward.reading(AasReward(steps=4, draws=3, powers=(0, 2, 1)), named.heads)
    assert (how.t, how.draws, how.rules.powers) == (0.25, 3, (0, 2, 1))


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="leaves no last step without noise"):
        dataclasses.replace(CONFIG, rollout_steps=2)
    with pytest.raises(ValueError, match="compare two songs"):
        dataclasses.replace(CONFIG, group=1)
    with pytest.raises(ValueError, match="of cps it is at most 1"):
        FlowGrpo(rule="cps", strength=2.0)
    with pytest.raises(ValueError, match="draws must be positive"):
        AasReward(draws=0)
