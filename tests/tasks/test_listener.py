"""The listener: the release's whole procedure, and one packed pass for many."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.nn.config import Qwen3Config
from acestep_jax.nn.qwen3 import Qwen3
from acestep_jax.ops import pmi
from acestep_jax.ops.pmi import CONDITIONS
from acestep_jax.tasks.planning import listener as listener_lib
from acestep_jax.tasks.planning.listener import Listener, Sheet

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden/rewards/pmi_end_to_end.npz")
META = json.loads(str(GOLDEN["meta"]))
UNDERSTOOD = ("bpm", "duration", "keyscale", "language", "timesignature", "caption", "lyrics")


class Bytes:
    """A vocabulary of bytes, as the golden toy model reads."""

    pad = 0

    def encode(self, text):
        return list(text.encode())

    def encode_prompt(self, parts):
        return self.encode("".join(parts))


class Toy:
    """The golden toy: logits = U[x_t] W + alpha (mean of all one-hot rows so far) P Q + bias."""

    def apply(self, variables, x, rows=None, *, mask=None, positions=None, method=None):
        if method == "logits":
            return x
        p = variables["params"]
        causal = jnp.tril(jnp.ones(mask.shape, bool)) & mask
        seen = jax.nn.one_hot(x, 256)
        mean = causal @ seen / jnp.maximum(causal.sum(-1, keepdims=True), 1)
        return p["U"][x] @ p["W"] + META["alpha"] * (mean @ p["P"]) @ p["Q"] + p["bias"][None, None]


PARAMS = {name: jnp.asarray(GOLDEN[name]) for name in ("U", "W", "P", "Q", "bias")}


def test_the_whole_procedure_gives_the_releases_scores():
    texts = listener_lib.target_parts(META["caption"], META["lyrics"], META["metadata"])
    assert ["".join(texts[name]) for name in UNDERSTOOD] == list(
        dict.fromkeys(call["target"] for call in META["calls"])
    )
    listener = Listener.of(Toy(), Bytes(), columns=50)
    prompts = {bytes(listener.without).decode()}
    codes = META["audio_codes"].encode()
    prompts.add(bytes((*listener.before, *codes, *listener.after)).decode())
    assert prompts == {call["prompt"] for call in META["calls"]}

    sheet = listener_lib.write_sheet(Bytes(), [texts], 300)
    heard_tokens = np.full((1, len(codes) + 5), 7)  # padding within the row, which nobody sees
    heard_tokens[0, : len(codes)] = list(codes)
    mask = jnp.arange(len(codes) + 5)[None] < len(codes)
    heard = jax.jit(listener.hear)(PARAMS, heard_tokens, mask, sheet)
    unheard = jax.jit(listener.guess)(PARAMS, sheet)

    for call, log_prob, recall in zip(
        META["calls"], GOLDEN["call_mean_logprob"], GOLDEN["call_recall"], strict=True
    ):
        marks = unheard if "NO USER INPUT" in call["prompt"] else heard
        (name,) = (n for n in texts if "".join(texts[n]) == call["target"])
        place = CONDITIONS.index(name)
        assert float(marks.log_probs[0, place]) == pytest.approx(log_prob, abs=1e-5)
        assert float(marks.recall[0, place]) == pytest.approx(recall, abs=1e-6)
    scores = jax.jit(pmi.score)(heard, unheard)
    assert float(scores.total[0]) == pytest.approx(META["global_score"], abs=1e-5)
    for name in ("caption", "lyrics"):  # a sigmoid of scale 0.1 magnifies 1e-6 tenfold
        assert float(getattr(scores, name)[0]) == pytest.approx(META["scores"][name], abs=2e-5)


SIZES = Qwen3Config(
    vocab_size=50,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
)


def test_one_packed_pass_has_the_numbers_of_a_pass_a_text():
    module = Qwen3(SIZES)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    draw = np.random.default_rng(1)
    params = jax.tree.map(lambda x: 0.4 * draw.standard_normal(x.shape, np.float32), shapes)
    params = params["params"]
    listener = Listener(module, (1, 2, 3), (4, 5), (1, 6, 5), top_k=5, columns=4)
    rng = np.random.default_rng(0)
    codes, lengths = rng.integers(20, 50, (2, 6)), np.array([6, 3])
    sizes = ((7, 3), (8, 5), (1, 2))  # condition, tokens
    parts = np.concatenate([[part] * size for part, size in sizes] + [[0] * 3])[None]
    sheet = Sheet(rng.integers(7, 20, (2, 13)), np.repeat(parts, 2, axis=0))
    mask = np.arange(6)[None] < lengths[:, None]
    heard = jax.jit(listener.hear)(params, codes, mask, sheet)
    score = jax.jit(lambda row: module.apply({"params": params}, row, method="score")[0])
    for item in range(2):
        prompt = [1, 2, 3, *codes[item, : lengths[item]], 4, 5]
        for part, size in sizes:
            text = sheet.tokens[item, sheet.parts[item] == part]
            row = np.zeros((1, 20), np.int32)  # causal: what stands behind does not matter
            row[0, : len(prompt) + size] = [*prompt, *text]
            logits = np.asarray(score(row)[len(prompt) - 1 : len(prompt) + size - 1])
            own = np.take_along_axis(logits, text[:, None], 1)
            log_probs = own[:, 0] - np.log(np.exp(logits).sum(-1))
            ranks = 1 + (logits > own).sum(-1)
            assert len(text) == size
            # sums in another order, measured 1e-6
            np.testing.assert_allclose(heard.log_probs[item, part - 1], log_probs.mean(), atol=1e-5)
            np.testing.assert_allclose(
                heard.recall[item, part - 1], np.maximum(1 - (ranks - 1) / 5, 0).mean(), atol=1e-6
            )


def test_an_empty_caption_is_asked_for_and_an_absent_one_is_not():
    assert (
        "".join(listener_lib.target_parts("", "")["caption"]) == "<think>\ncaption: ''\n</think>\n"
    )
    assert listener_lib.target_parts(None, "") == {}
    assert list(listener_lib.target_parts("a", "la", {"bpm": None, "genres": "ska"})) == [
        "genres",
        "caption",
        "lyrics",
    ]


def test_values_are_written_as_given_or_as_the_planner_was_trained():
    given = {"timesignature": "4", "language": "no"}
    as_given = listener_lib.target_parts(None, "", given)
    assert "timesignature: '4'" in as_given["timesignature"][1]
    assert "language: 'no'" in as_given["language"][1]
    trained = listener_lib.target_parts(None, "", {"timesignature": "4/4"}, as_trained=True)
    assert trained["timesignature"][1] == "timesignature: 4"


def test_texts_too_long_for_a_row_are_refused():
    with pytest.raises(ValueError, match="rows hold 10; lengthen"):
        listener_lib.write_sheet(Bytes(), [listener_lib.target_parts("a song", "")], 10)
