"""The planner's reinforcement: what is written is scored as it was drawn, and learned from."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from acestep_jax import weights
from acestep_jax.data import sources
from acestep_jax.data.briefs import BriefBatches, BriefSpec
from acestep_jax.data.loader import NANO_TOKENIZER
from acestep_jax.nn.config import PLANNERS
from acestep_jax.tasks.planning import grammar
from acestep_jax.tasks.planning.grammar import Rulebook
from acestep_jax.tasks.planning.vocabulary import Vocabulary
from acestep_jax.training import rewards
from acestep_jax.training.recipes.grpo_planner import Asking, GrpoPlanner, PmiReward, toy_grpo
from acestep_jax.training.recipes.planner import PlannerModel
from train import grpo_planner

FOLDER = pathlib.Path(__file__).parents[1] / "parity/data/checkpoints/acestep-5Hz-lm-1.7B"
CONFIG = GrpoPlanner(
    name="toy",
    model=PlannerModel(preset="planner_toy"),
    asking=Asking(
        plan="written",
        seconds=(10, 10),
        prompt_tokens=40,
        sheet_tokens=24,
        plan_tokens=90,
        caption_tokens=4,
        temperature=1.3,
    ),
    group=2,
    trained="all",
    updates=2,
    kl_weight=0.1,
    columns=37,  # does not divide anything
)


class Tiny:
    """The planner of the parity folder, 530 rows, and two prompts."""

    def __init__(self):
        network = weights.load_qwen3(FOLDER)
        tokenizer = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
        vocabulary = Vocabulary.of(tokenizer, network.config.vocab_size)
        self.setting = grpo_planner.make_setting(CONFIG, network.config, vocabulary)
        book = grammar.build(vocabulary, Rulebook(seconds=(10, 12), caption_tokens=4))
        tables = jax.tree.map(jnp.asarray, book.tables)
        self.params = network.params
        self.frozen = grpo_planner.Frozen(network.params, (None,), tables)
        program = book.program(given={"duration": 10}, ending="codes")
        rows = [vocabulary.encode(text) for text in ("a calm piano", "ska")]
        tokens = np.full((2, 40), vocabulary.pad, np.int32)
        for row, ids in zip(tokens, rows, strict=True):
            row[40 - len(ids) :] = ids
        texts = [
            vocabulary.encode(t)[:12] for t in ("<think>\ncaption: a calm piano", "<think>\nska")
        ]
        sheet = np.zeros((2, 2, 24), np.int32)
        for row, ids in enumerate(texts):
            sheet[0, row, : len(ids)], sheet[1, row, : len(ids)] = ids, 7
        self.batch = grpo_planner.BriefBatch(
            tokens=tokens,
            mask=tokens != vocabulary.pad,
            programs=np.array([program, program], np.int32),
            codes=np.array([50, 50], np.int32),
            texts=sheet[0],
            parts=sheet[1],
        )


@functools.cache
def tiny():
    return Tiny()


@functools.cache
def written():
    key = jax.random.key(0)
    run = functools.partial(grpo_planner.roll_out, tiny().setting)
    return jax.device_get(jax.jit(run)(tiny().params, tiny().frozen, tiny().batch, key))


def test_answers_are_scored_by_the_distribution_that_they_were_drawn_from():
    given, out = tiny(), written()
    assert out.finished.all() and (out.lengths > 60).all()
    score = functools.partial(grpo_planner.rescore, given.setting)
    found = jax.jit(score)(given.params, given.frozen, given.batch, out)
    # a cache against a whole pass, float32: measured 4e-6
    np.testing.assert_allclose(found.log_probs, out.log_probs, atol=5e-5)
    sung = np.asarray(rewards.is_code(out, given.setting.span))
    assert (sung.sum(1) == 50).all()
    chosen = np.asarray(found.chosen)
    assert (chosen & sung).sum() == sung.sum()  # every code is a choice
    assert 0 < (chosen & ~sung).sum() < (~sung & (out.tokens > 0)).sum()  # names and tags are not
    assert (np.asarray(found.entropies)[sung] <= np.log(given.setting.span.last) + 1e-3).all()


def test_several_listeners_are_averaged():
    given, out = tiny(), written()
    other = jax.tree.map(lambda x: 1.1 * x, given.params)

    def worth(*scorers):
        setting = given.setting._replace(listeners=given.setting.listeners * len(scorers))
        frozen = given.frozen._replace(scorers=scorers)
        return jax.jit(functools.partial(grpo_planner.judge, setting))(frozen, given.batch, out)[0]

    start, moved, both = worth(None), worth(other), worth(None, other)
    mean = (start.rewards + moved.rewards) / 2
    np.testing.assert_allclose(both.rewards, mean, atol=1e-6)
    assert "reward/apart" not in start.metrics
    apart = np.abs(start.rewards - moved.rewards).mean() / 2  # the deviation of two numbers
    assert float(both.metrics["reward/apart"]) == pytest.approx(apart, rel=1e-4) and apart > 1e-4


@pytest.mark.slow  # half a dozen passes through a transformer, compiled
def test_the_gradient_is_the_slope_of_the_loss_and_dropped_groups_have_none():
    given, out = tiny(), written()

    def learn(params):
        learned, metrics = grpo_planner.experience(
            given.setting, params, given.frozen, given.batch, out
        )
        return learned, metrics

    learned, metrics = jax.jit(learn)(given.params)
    for name in ("reward/total", "reward/caption", "reward/saturated", "groups/kept"):
        assert np.isfinite(metrics[name])
    assert float(metrics["reward/lyrics"]) == 0.0  # there are none on the sheet
    own, kept = np.asarray(learned.advantage), np.asarray(learned.mask).any(1)
    np.testing.assert_allclose(own.reshape(2, 2).sum(1), 0.0, atol=1e-5)
    moved = jax.tree.map(lambda x: 1.02 * x, given.params)  # so that no ratio is one

    @jax.jit
    def value(params, learned):
        loss = functools.partial(grpo_planner.policy_objective, setting=given.setting)
        rest = {"frozen": given.frozen, "batch": given.batch, "written": out, "learned": learned}
        return jax.value_and_grad(lambda p: loss(p, **rest)[0])(params)

    _, slope = value(moved, learned)
    norm = float(jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(slope))))
    size = 2e-3 / norm
    ends = [
        float(value(jax.tree.map(lambda p, g, s=s: p + s * size * g, moved, slope), learned)[0])
        for s in (1, -1)
    ]
    # float32 over a hundred tokens; clips bend the loss within the step
    assert (ends[0] - ends[1]) / (2 * size) == pytest.approx(norm**2, rel=0.03)
    assert kept.any()
    nothing = learned._replace(mask=learned.mask & False)
    assert float(value(moved, nothing)[0]) == 0.0


@functools.cache
def nano_book():
    tokenizer = tokenizers.Tokenizer.from_file(f"{NANO_TOKENIZER}/tokenizer.json")
    vocabulary = Vocabulary.of(tokenizer, PLANNERS["planner_nano"].vocab_size)
    return grammar.build(vocabulary, Rulebook(seconds=(10, 30), caption_tokens=8))


@pytest.mark.parametrize("plan", ["given", "written"])
def test_prompts_are_those_of_generation_and_begin_again_where_they_stopped(plan):
    book = nano_book()
    spec = BriefSpec(plan=plan, seconds=(10, 12), prompt_tokens=320, sheet_tokens=240)
    batches = BriefBatches(sources.Synthetic(128, seed=0), book, spec, seed=3, batch_size=4)
    first, state, second = next(batches), batches.get_state(), next(batches)
    batches.set_state(state)
    for name, again in vars(next(batches)).items():
        np.testing.assert_array_equal(again, getattr(second, name), name)
    text = book.vocabulary.decode(first.tokens[0][first.mask[0]])
    assert text.startswith("<|im_start|>system\n# Instruction\nGenerate audio")
    assert text.endswith("</think>\n\n" if plan == "given" else "<|im_start|>assistant\n")
    assert set(first.codes) <= {50, 55, 60}
    assert set(np.unique(first.parts[0])) >= {0, 1, 2, 7, 8}  # bpm, duration, caption, lyrics
    shares = [
        BriefBatches(sources.Synthetic(128, seed=0), book, spec, seed=3, batch_size=4, process=p)
        for p in ((0, 2), (1, 2))
    ]
    halves = [next(share).tokens for share in shares]
    np.testing.assert_array_equal(np.concatenate(halves), first.tokens)


def test_prompts_that_never_fit_are_refused():
    spec = BriefSpec(seconds=(10, 12), prompt_tokens=20)
    batches = BriefBatches(sources.Synthetic(128, seed=0), nano_book(), spec, seed=0, batch_size=1)
    with pytest.raises(ValueError, match="none fits prompts of 20"):
        next(batches)


def test_saturated_scores_are_warned_about_where_they_are_squashed(caplog):
    with caplog.at_level("WARNING", logger="absl"):
        rewards.warn_saturated(PmiReward(), 0.4)
        rewards.warn_saturated(PmiReward(squash="raw"), 0.9)
        assert not caplog.records
        rewards.warn_saturated(PmiReward(), 0.9)
    assert "90 % of PMI scores" in caplog.text and "reward.squash=raw" in caplog.text


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="only codes are written then"):
        dataclasses.replace(CONFIG, asking=Asking(plan="given"))
    with pytest.raises(ValueError, match="compare two answers"):
        dataclasses.replace(CONFIG, group=1)
    with pytest.raises(ValueError, match="give \\(low, high\\)"):
        dataclasses.replace(CONFIG, clip=(0.2,))
    assert dataclasses.replace(CONFIG, clip=(0.1, 0.3)).algorithm.clip == (0.1, 0.3)
    assert toy_grpo(CONFIG).asking.plan == "written"
