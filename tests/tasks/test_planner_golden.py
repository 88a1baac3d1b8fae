"""What the release's planner code does, case by case: ids, trees, prompts, YAML, traces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import grammar as grammar_lib
from acestep_jax.ops.logits import Rules
from acestep_jax.sampling import decode
from acestep_jax.tasks.planning import blueprint, chat, grammar
from acestep_jax.tasks.planning.grammar import Rulebook
from tests.tasks import qwen3

TABLES = qwen3.golden("planner_tables")
CASES = qwen3.golden("planner_cases")
VOCABULARY = qwen3.vocabulary()
BOOK = grammar.build(VOCABULARY)
RELEASED = grammar.build(VOCABULARY, Rulebook(greedy_names=True, released_masks=True))


def test_ids_are_the_releases():
    for name, token in TABLES["ids"].items():
        if name != "<|audio_code_65534|>":  # a row without a valid code
            assert VOCABULARY.id(name) == token
    assert VOCABULARY.newline == TABLES["newline"]
    assert VOCABULARY.encode("\n\n") == TABLES["double_newline"]
    assert VOCABULARY.encode("0123456789") == TABLES["digits"]
    assert VOCABULARY.first_code == TABLES["audio_code_base"]
    assert VOCABULARY.code_tokens([TABLES["max_valid_code"]]) == [215_668]


@pytest.mark.parametrize("text", TABLES["fixed_strings"])
def test_fixed_strings_are_spelled_canonically_or_greedily(text):
    expected = TABLES["fixed_strings"][text]
    assert VOCABULARY.encode(text) == expected["canonical"]
    if text not in ("<think>", "</think>", "\n"):
        assert grammar.longest_first(VOCABULARY, text) == expected["greedy"]


def walk(node, prefix=()):
    """Lists (prefix, allowed tokens) of a tree, as the golden files do."""
    row = BOOK.tables.tokens[node]
    found = [(list(prefix), sorted(row[row >= 0].tolist()))]
    for token, follows in zip(row, BOOK.tables.next[node], strict=True):
        if token >= 0 and follows != grammar_lib.LEAVE:
            found += walk(follows, (*prefix, int(token)))
    return found


@pytest.mark.parametrize("name", ["keyscale", "language", "timesignature"])
def test_whole_trees_are_the_releases(name):
    expected = [(prefix, allowed) for prefix, allowed in TABLES[f"{name}_tree"]]
    assert sorted(walk(BOOK.roots[name])) == sorted(expected)


@pytest.mark.parametrize(
    "name,count", [("bpm", "bpm_tree_nodes"), ("duration", "duration_tree_nodes_max600")]
)
def test_numbers_have_the_releases_nodes(name, count):
    found = walk(BOOK.roots[name])
    assert len(found) == TABLES[count]
    as_dict = {tuple(prefix): allowed for prefix, allowed in found}
    for prefix, allowed in TABLES[f"{name}_tree_samples"]:
        assert as_dict[tuple(prefix)] == allowed


SONG = ("calm piano", "hello world")
COT = "<think>\nbpm: 120\ncaption: A calm piano piece.\n</think>"
PROMPTS = {
    "phase1_cond": chat.plan_prompt(*SONG),
    "phase1_uncond_default": chat.plan_negative("hello world"),
    "phase1_uncond_negative": chat.plan_negative("hello world", "noisy"),
    "phase2_cond_closed_feb2026": chat.code_prompt(*SONG, COT, closed=True),
    "phase2_uncond_closed_feb2026_default": chat.code_negative(*SONG, closed=True),
    "phase2_uncond_closed_feb2026_negative": chat.code_negative(*SONG, "noisy", closed=True),
    "phase2_cond_open": chat.code_prompt(*SONG, COT),
    "phase2_uncond_open_default": chat.code_negative(*SONG),
    "phase2_uncond_open_negative": chat.code_negative(*SONG, "noisy"),
    "understand": chat.understand_prompt((18953, 7)),
    "understand_uncond": chat.understand_prompt(()),
    "inspiration": chat.inspire_prompt("a soft love song"),
    "inspiration_instrumental": chat.inspire_prompt("a soft love song", instrumental=True),
    "format": chat.format_prompt("Latin pop", "[Verse]\nHola"),
}


@pytest.mark.parametrize("name", CASES["prompts"])
def test_prompts_are_the_releases_in_text_and_ids(name):
    expected = CASES["prompts"][name]
    assert "".join(PROMPTS[name]) == expected["text"]
    assert VOCABULARY.encode_prompt(PROMPTS[name]) == expected["ids"]


def test_every_golden_prompt_is_compared():
    assert set(PROMPTS) == set(CASES["prompts"])


@pytest.mark.parametrize("case", CASES["cot_yaml"])
def test_chains_of_thought_are_written_as_the_release_writes_them(case):
    assert blueprint.write_cot(case["metadata"]) == case["cot"]


@pytest.mark.parametrize("case", CASES["parses"])
def test_outputs_are_read_as_the_release_reads_them(case):
    reasoning = blueprint.reasoning_of(case["text"])
    assert blueprint.parse_fields(reasoning, unquote=False) == case["metadata"]
    codes = blueprint.read_codes(case["text"], VOCABULARY.num_codes)
    assert "".join(f"<|audio_code_{code}|>" for code in codes) == case["audio_codes"]
    assert blueprint.parse_lyrics(case["text"]) == case["lyrics"]


# Traces of the release's decoder ------------------------------------------------------------------

PLAIN = -((np.arange(qwen3.SIZE) * 7919) % 1009).astype(np.float32) / 1009


def preferred(target, written):
    """The golden file's rule: the next token of the line of the target that is being written."""
    lines, text = target.split("\n"), VOCABULARY.decode(written)
    current, at = text.split("\n")[-1], min(text.count("\n"), len(lines) - 1)
    for line in lines[at:] + lines[:at]:
        if line.startswith(current):
            return VOCABULARY.encode(line[len(current) :] + "\n")[0]
    return None


def scripted(target, written):
    logits = PLAIN.copy()
    token = preferred(target, written)
    if token is not None:
        logits[token] += 10
    return logits


RULES = Rules(temperature=None)  # the best token
KEYS = jax.random.split(jax.random.key(0), 1)
TABLES_ON_DEVICE = jax.tree.map(jnp.asarray, RELEASED.tables)


@jax.jit
def text_step(programs, state, logits):
    due, state = grammar_lib.look(TABLES_ON_DEVICE, programs, state)
    scores = decode.score_text(TABLES_ON_DEVICE, RULES, due, KEYS, logits, None)
    chosen = decode.choose_text(TABLES_ON_DEVICE, programs, state, due, scores, RULES, KEYS)
    span = (VOCABULARY.first_code, VOCABULARY.first_code + VOCABULARY.num_codes)
    allowed = grammar_lib.allowed(TABLES_ON_DEVICE, chosen.told, span, VOCABULARY.stop)
    state = grammar_lib.advance(TABLES_ON_DEVICE, chosen.state, chosen.due, chosen.token)
    return state, chosen.token[0], allowed.sum()


@pytest.mark.parametrize("number", range(5))
def test_texts_are_decoded_as_the_release_decodes_them(number):
    """Every token is the release's; so is the number of tokens it was chosen from.

    One difference is meant: where the release lets the model write the name of the field behind a
    caption, from all tokens, the name is fixed here.
    """
    trace = CASES["fsm_traces"][number]
    skip = [name for name in ("caption", "language", "genres") if trace[f"skip_{name}"]]
    ending = "stop" if trace["stop_at_reasoning"] else "text"
    given = trace["user_metadata"]
    program = jnp.asarray([RELEASED.program(given=given, skip=skip, ending=ending)])
    state, written = grammar_lib.start(jnp.zeros(1, jnp.int32)), []
    for name, count, token in trace["steps"]:
        logits = scripted(trace["target"], written)
        state, chosen, allowed = text_step(program, state, logits[None])
        written.append(int(chosen))
        assert written[-1] == token, name
        assert int(allowed) == (1 if (name, count) == ("CAPTION_VALUE", qwen3.SIZE) else count)
    assert VOCABULARY.decode(written) == trace["text"]


@pytest.mark.parametrize("number", [5, 6])
def test_codes_are_decoded_as_the_release_decodes_them(number):
    trace, written = CASES["fsm_traces"][number], []
    target = trace["target_duration"]
    least, most = (int(target * 5),) * 2 if target else (0, 3000)
    first, stop = VOCABULARY.first_code, VOCABULARY.stop
    span = decode.Span(first, first + VOCABULARY.num_codes, stop)
    n = RELEASED.tables.num_nodes
    for _, count, token in trace["steps"]:
        logits = scripted(trace["target"], written)
        own = np.concatenate([logits[span.first : span.last], logits[[stop]]])[None]
        ends, may_end = jnp.array([len(written) >= most]), jnp.array([len(written) >= least])
        chosen, _, due = decode.choose_code(own, span, n, ends, may_end, RULES, KEYS)
        allowed = grammar_lib.allowed(TABLES_ON_DEVICE, due, (span.first, span.last), stop)
        written.append(int(chosen[0]))
        assert (written[-1], int(allowed.sum())) == (token, count)
    assert VOCABULARY.decode(written) == trace["text"]
