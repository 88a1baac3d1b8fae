"""Decoding: what the compiled loop with its cache writes is what one would write without either."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from acestep_jax import weights
from acestep_jax.nn.qwen3 import Qwen3
from acestep_jax.ops import grammar as grammar_lib
from acestep_jax.ops.logits import Rules
from acestep_jax.sampling import decode
from acestep_jax.tasks.planning import grammar
from acestep_jax.tasks.planning.grammar import Rulebook
from acestep_jax.tasks.planning.vocabulary import Vocabulary
from tests.tasks.planner_machine import Machine

FOLDER = pathlib.Path(__file__).parents[1] / "parity/data/checkpoints/acestep-5Hz-lm-1.7B"
TEXTS = ("a calm piano", "ska", "a long and loud song with drums")
BUDGET = 96
GIVEN = ({"bpm": 95}, {"duration": 10, "language": "en"}, {})
SKIP = (("genres",), ("genres", "caption"), ("genres", "language"))


class Tiny:
    """The planner of the parity folder, 530 rows, and three requests."""

    def __init__(self):
        network = weights.load_qwen3(FOLDER)
        self.module, self.params = Qwen3(network.config), network.params
        tokenizer = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
        vocabulary = Vocabulary.of(tokenizer, network.config.vocab_size)
        self.book = grammar.build(vocabulary, Rulebook(seconds=(10, 12), caption_tokens=5))
        self.tables = jax.tree.map(jnp.asarray, self.book.tables)
        self.span = decode.Span(
            vocabulary.first_code, vocabulary.first_code + vocabulary.num_codes, vocabulary.stop
        )
        self.ids = [vocabulary.encode(text) for text in TEXTS]

    def programs(self, ending="stop"):
        rows = [
            self.book.program(given=given, skip=skip, ending=ending)
            for given, skip in zip(GIVEN, SKIP, strict=True)
        ]
        end = self.book.state(grammar_lib.END)
        width = max(map(len, rows))
        return jnp.asarray([row + [end] * (width - len(row)) for row in rows])

    def prompts(self, chosen=(0, 1, 2)):
        return decode.pad_prompts([self.ids[i] for i in chosen], self.book.vocabulary.pad, 64)


@functools.cache
def tiny():
    return Tiny()


KEYS = jax.random.split(jax.random.key(3), 3)
RULES = Rules(jnp.array([0.0, 1.0, 1.2]), jnp.array([0, 0, 20]), jnp.array([1.0, 1.0, 0.9]))
SECONDS = jnp.array([0, 10, 0])


def write(chosen=(0, 1, 2), rules=RULES, **changes):
    own = jnp.asarray(chosen)
    rules = jax.tree.map(lambda x: x[own], rules)
    return jax.device_get(
        decode.decode_text(
            tiny().module,
            tiny().params,
            tiny().prompts(chosen),
            KEYS[own],
            tiny().tables,
            tiny().programs()[own],
            SECONDS[own],
            rules,
            budget=BUDGET,
            **changes,
        )
    )


@functools.cache
def written():
    return write()


@jax.jit
def score(tokens):
    return tiny().module.apply({"params": tiny().params}, tokens, method="score")


def scores_behind(tokens):
    """Scores of the token behind a sequence, from scratch and without padding before it."""
    row = np.zeros((1, 160), np.int32)  # causal: what stands behind does not matter
    row[0, : len(tokens)] = tokens
    return np.asarray(score(row)[0, len(tokens) - 1])


@pytest.mark.parametrize("item", range(3))
def test_the_loop_writes_what_a_plain_machine_writes_without_a_cache(item):
    book, out = tiny().book, written()
    machine = Machine(book, given=GIVEN[item], skip=SKIP[item])
    plain = [float(x[item]) for x in (RULES.temperature, RULES.top_k, RULES.top_p)]
    sequence = list(tiny().ids[item])
    width = book.tables.tokens.shape[1]
    for t in range(out.lengths[item]):
        key = jax.random.fold_in(KEYS[item], t)
        few, full = (jax.random.gumbel(key, (size,)) for size in (width, 530))
        logits = scores_behind(sequence)
        token, log_prob, _ = machine.step(
            logits, np.asarray(few), np.asarray(full), plain[0], int(plain[1]), plain[2]
        )
        assert out.tokens[item, t] == token, (t, machine.state)
        assert out.log_probs[item, t] == pytest.approx(log_prob, abs=1e-3)
        sequence.append(token)
    assert machine.done and out.finished[item]


@pytest.mark.parametrize("item", range(3))
def test_an_item_draws_the_same_alone(item):
    alone, together = write((item,)), written()
    assert alone.lengths[0] == together.lengths[item]
    np.testing.assert_array_equal(alone.tokens[0], together.tokens[item])


def test_one_prompt_for_several_items_is_run_once_and_each_draws_its_own():
    rules = Rules(jnp.ones(3))
    shared = decode.pad_prompts([tiny().ids[0]], tiny().book.vocabulary.pad, 64)
    apart = decode.pad_prompts([tiny().ids[0]] * 3, tiny().book.vocabulary.pad, 64)
    programs = jnp.tile(tiny().programs()[:1], (3, 1))
    call = functools.partial(decode.decode_text, tiny().module, tiny().params)
    rest = (KEYS, tiny().tables, programs, jnp.zeros(3, jnp.int32), rules)
    once = call(shared, *rest, budget=BUDGET, copies=3)
    thrice = call(apart, *rest, budget=BUDGET)
    np.testing.assert_array_equal(once.tokens, thrice.tokens)
    assert len({tuple(row) for row in np.asarray(once.tokens).tolist()}) == 3


def test_log_probabilities_are_those_of_the_same_tokens_scored_again():
    rules = Rules(jnp.ones(3))
    out = write(rules=rules)
    rows = np.zeros((3, 160), np.int32)
    for i, ids in enumerate(tiny().ids):
        rows[i, : len(ids)] = ids
        rows[i, len(ids) : len(ids) + out.lengths[i]] = out.tokens[i, : out.lengths[i]]
    logits = np.asarray(score(rows))
    span = (tiny().span.first, tiny().span.last)
    mask = np.asarray(grammar_lib.allowed(tiny().tables, out.due, span, tiny().span.stop))
    for i, ids in enumerate(tiny().ids):
        own = logits[i, len(ids) - 1 : len(ids) - 1 + out.lengths[i]]
        own = jax.nn.log_softmax(np.where(mask[i, : len(own)], own, -np.inf))
        again = np.take_along_axis(own, out.tokens[i, : len(own), None], axis=1)[:, 0]
        np.testing.assert_allclose(again, out.log_probs[i, : len(own)], atol=1e-4)
        assert (out.log_probs[i] < 0).sum() > 5


def codes(lengths, rules, prompts=None, budget=24):
    return jax.device_get(
        decode.decode_codes(
            tiny().module,
            tiny().params,
            tiny().prompts() if prompts is None else prompts,
            KEYS,
            tiny().span,
            tuple(jnp.asarray(x) for x in lengths),
            rules,
            budget=budget,
        )
    )


def test_every_item_writes_as_many_codes_as_asked_for_and_one_stop():
    out = codes(([3, 11, 0], [3, 11, 0]), Rules(jnp.ones(3)))
    assert out.lengths.tolist() == [4, 12, 1]
    assert out.finished.all()
    for row, n in zip(out.tokens, (3, 11, 0), strict=True):
        assert ((row[:n] >= tiny().span.first) & (row[:n] < tiny().span.last)).all()
        assert row[n] == tiny().span.stop


def test_codes_with_guidance_are_those_of_a_loop_without_a_cache():
    rules = Rules(jnp.zeros(3), guidance=jnp.array([2.0, 1.0, 3.0]), penalty=jnp.full(3, 1.3))
    prompts = decode.pad_prompts([*tiny().ids, *([[400, 198]] * 3)], tiny().book.vocabulary.pad, 64)
    out = codes(([5, 5, 5], [5, 5, 5]), rules, prompts)
    first, last = tiny().span.first, tiny().span.last
    for i, ids in enumerate(tiny().ids):
        own: list[int] = []
        for t in range(5):
            cond = scores_behind([*ids, *own])[first:last].astype(np.float64)
            uncond = scores_behind([400, 198, *own])[first:last].astype(np.float64)
            seen = [token - first for token in own]
            cond[seen] = np.where(cond[seen] > 0, cond[seen] / 1.3, cond[seen] * 1.3)
            scale = float(rules.guidance[i])
            both = uncond + scale * (cond - uncond) if scale > 1 else cond
            own.append(first + int(np.argmax(both)))
            assert out.tokens[i, t] == own[-1], (i, t)


def test_plan_and_codes_in_one_turn_are_contiguous_and_as_long_as_the_plan_says():
    rules = Rules(jnp.ones(3))
    out = jax.device_get(
        decode.decode_song(
            tiny().module,
            tiny().params,
            tiny().prompts(),
            KEYS,
            tiny().tables,
            tiny().programs("codes"),
            SECONDS,
            tiny().span,
            (rules, rules),
            budget=(BUDGET, 60),
        )
    )
    vocabulary = tiny().book.vocabulary
    for i in range(3):
        tokens = out.tokens[i, : out.lengths[i]].tolist()
        text = vocabulary.decode(tokens)
        seconds = int(text.split("duration: ")[1].split("\n")[0])
        assert seconds == out.seconds[i]
        thought, song = text.split("</think>\n\n")
        assert song.count("<|audio_code_") == 5 * seconds
        assert song.endswith("<|im_end|>") and song.count("<|im_end|>") == 1
        assert "<|audio_code_" not in thought
    assert out.finished.all()


def test_a_budget_that_runs_out_is_told():
    out = codes(([9, 2, 2], [9, 2, 2]), Rules(jnp.ones(3)), budget=4)
    assert out.finished.tolist() == [False, True, True]
    assert out.lengths.tolist() == [4, 3, 3]
