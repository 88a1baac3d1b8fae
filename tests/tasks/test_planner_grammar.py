"""The compiled grammar against a plain-Python machine, on thousands of streams of random scores."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from acestep_jax.ops import grammar as grammar_lib
from acestep_jax.ops.logits import Rules
from acestep_jax.sampling import decode
from acestep_jax.tasks.planning import blueprint, grammar
from acestep_jax.tasks.planning.grammar import Rulebook
from acestep_jax.tasks.planning.vocabulary import Vocabulary
from acestep_jax.tasks.request import BadRequest
from tests.tasks.planner_machine import ORDER, Machine

FOLDER = pathlib.Path(__file__).parents[1] / "parity/data/checkpoints/acestep-5Hz-lm-1.7B"
SIZE = 530
RULES = Rulebook(seconds=(10, 40), caption_tokens=7, genre_tokens=4)


@functools.cache
def book():
    tokenizer = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    return grammar.build(Vocabulary.of(tokenizer, SIZE), RULES)


def ask(rng):
    """What one item is asked for: given values, skipped fields, ending."""
    values = RULES.values()
    given = {name: str(rng.choice(values[name])) for name in values if rng.random() < 0.25}
    skip = [name for name in ORDER if rng.random() < 0.15]
    return given, skip, ("stop", "text")[int(rng.random() < 0.3)]


def stream(rng, count):
    """Scores in which line breaks, indents and stops are not too rare to happen."""
    vocabulary = book().vocabulary
    scores = rng.normal(size=(count, SIZE)).astype(np.float32) * 2
    scores[:, [vocabulary.newline, vocabulary.stop]] += 4
    scores[:, 220] += 3 * rng.random(count)  # a space
    return scores


@functools.partial(jax.jit, static_argnames="size")
def noise_of(keys, size):
    return jax.vmap(lambda key: jax.random.gumbel(key, (size,)))(keys)


@jax.jit
def step(programs, state, scores, rules, keys):
    tables = jax.tree.map(jnp.asarray, book().tables)
    due, state = grammar_lib.look(tables, programs, state)
    drawn = decode.score_text(tables, rules, due, keys, scores, None)
    chosen = decode.choose_text(tables, programs, state, due, drawn, rules, keys)
    n, told = tables.num_nodes, chosen.told
    of_tree = (grammar_lib.candidates(tables, told) >= 0).sum(axis=1)
    of_text = grammar_lib.text_mask(tables, told).sum(axis=1)
    counts = jnp.where(told >= n, of_text, jnp.where(told >= 0, of_tree, 1))
    state = grammar_lib.advance(tables, chosen.state, chosen.due, chosen.token)
    ended = grammar_lib.look(tables, programs, state)[0] == n + grammar_lib.END
    return state, chosen, counts, ended


def run(count, seed, rules, rng):
    """Follows `count` requests in both, token by token; gives what was asked and written."""
    asked = [ask(rng) for _ in range(count)]
    programs = [book().program(given=g, skip=s, ending=e) for g, s, e in asked]
    width = max(map(len, programs))
    end = book().state(grammar_lib.END)
    rows = jnp.asarray([p + [end] * (width - len(p)) for p in programs])
    machines = [Machine(book(), given=g, skip=s, ending=e) for g, s, e in asked]
    plain = (rules.temperature, rules.top_k, rules.top_p)
    plain = [np.asarray(x) for x in plain]
    keys = jax.random.split(jax.random.key(seed), count)
    state, written = grammar_lib.start(jnp.zeros(count, jnp.int32)), [[] for _ in range(count)]
    width = book().tables.tokens.shape[1]
    ended = np.zeros(count, bool)
    for t in range(book().plan_tokens + 12):
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, t)
        scores = stream(rng, count)
        if t >= book().plan_tokens:
            scores[:, book().vocabulary.stop] += 100
        state, chosen, counts, over = jax.device_get(step(rows, state, scores, rules, own))
        few, full = np.asarray(noise_of(own, width)), np.asarray(noise_of(own, SIZE))
        for i in np.flatnonzero(~ended):
            expected = machines[i].step(scores[i], few[i], full[i], *(x[i] for x in plain))
            got = chosen.token[i], chosen.log_prob[i], counts[i]
            assert (got[0], got[2]) == (expected[0], expected[2]), (i, t, machines[i].state)
            assert got[1] == pytest.approx(expected[1], abs=2e-4)  # float32 against float64
            assert over[i] == machines[i].done
            written[i].append(int(chosen.token[i]))
        ended |= over
        if ended.all():
            return asked, written
    raise AssertionError(f"{(~ended).sum()} items did not end")


@pytest.fixture(scope="module", params=[250, pytest.param(4000, marks=pytest.mark.slow)])
def streams(request):
    """Requests: best tokens, drawn ones, and drawn ones through both filters."""
    rng = np.random.default_rng(0)
    count = request.param
    rules = Rules(
        temperature=jnp.asarray(rng.choice([0.0, 0.7, 1.3], count), jnp.float32),
        top_k=jnp.asarray(rng.choice([0, 3, 40], count)),
        top_p=jnp.asarray(rng.choice([1.0, 0.9, 0.4], count), jnp.float32),
    )
    return run(count, 7, rules, rng)


def test_compiled_and_plain_machines_write_the_same_tokens(streams):
    asked, written = streams
    assert len(written) == len(asked)
    assert sum(map(len, written)) > 30 * len(asked)


def test_every_output_parses_keeps_its_ranges_and_what_was_given(streams):
    values, vocabulary = RULES.values(), book().vocabulary
    for (given, skip, ending), tokens in zip(*streams, strict=True):
        text = vocabulary.decode(tokens)
        assert tokens[-1] in (vocabulary.stop, vocabulary.pad)
        assert not vocabulary.codes(tokens)
        fields = blueprint.parse_fields(blueprint.reasoning_of(text.removesuffix("<|im_end|>")))
        for name, legal in values.items():
            if name in skip:
                assert name not in fields
            else:
                assert str(fields[name]) in legal, text
                assert str(fields[name]) == given.get(name, str(fields[name]))
        control = [token for token in tokens if token in vocabulary.control]
        assert len(control) == (2 if ending == "stop" else 3), text


def test_probabilities_under_every_mask_sum_to_one():
    tables = jax.tree.map(jnp.asarray, book().tables)
    n = tables.num_nodes
    due = jnp.asarray([*range(n), *(n + kind for kind in range(grammar_lib.NUM_MASKS))])
    span = (book().vocabulary.first_code, book().vocabulary.first_code + 120)
    due = jnp.concatenate([due, n + jnp.asarray([grammar_lib.CODES, grammar_lib.CODES_OR_STOP])])
    mask = grammar_lib.allowed(tables, due, span, book().vocabulary.stop)
    assert (mask.sum(axis=1) > 0).all()
    scores = jnp.asarray(stream(np.random.default_rng(1), len(due)))
    total = jnp.exp(jax.nn.log_softmax(jnp.where(mask, scores, -jnp.inf), axis=1)).sum(axis=1)
    np.testing.assert_allclose(total, 1.0, atol=1e-5)  # float32 sums of 530 terms


def test_a_caption_at_its_limit_is_closed_and_never_reopened():
    program = jnp.asarray([book().program(skip=[n for n in ORDER if n not in ("caption", "bpm")])])
    letter = book().vocabulary.encode("a")[0]
    scores = np.zeros((1, SIZE), np.float32)
    scores[:, letter] = 10  # never a line break of its own
    state, tokens = grammar_lib.start(jnp.zeros(1, jnp.int32)), []
    for _ in range(40):
        keys = jax.random.split(jax.random.key(0), 1)
        rules = Rules(jnp.zeros(1), jnp.zeros(1, jnp.int32), jnp.ones(1))
        state, chosen, _, ended = step(program, state, scores, rules, keys)
        tokens.append(int(chosen.token[0]))
        if ended[0]:
            break
    text = book().vocabulary.decode(tokens)
    assert text.endswith("caption:aaaaaaa\n<|im_end|>")


@pytest.mark.parametrize(
    "given,message",
    [
        ({"bpm": 20}, "bpm is 20; use one of 30 ... 300"),
        ({"keyscale": "H minor"}, "keyscale is 'H minor'"),
        ({"timesignature": "5"}, "use one of 2, 3, 4, 6"),
        ({"language": "klingon"}, "language is 'klingon'"),
        ({"duration": 5}, "duration is 5"),
        ({"caption": "x"}, "caption cannot be given"),
    ],
)
def test_values_that_no_blueprint_holds_are_refused(given, message):
    with pytest.raises(BadRequest, match=message):
        book().program(given=given)
