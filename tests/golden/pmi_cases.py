"""Golden cases of the PMI score, run through the package as they were recorded."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from outcomes import Outcome, compare, equal

Arrays = Mapping[str, np.ndarray]

LOG_PROB, RECALL, SCORE = 1e-5, 1e-6, 1e-6  # seen: 1e-6, exact, 3e-7
UNHEARD = "NO USER INPUT"


def run_units(meta: Mapping[str, Any], arrays: Arrays) -> list[Outcome]:
    """Scores given logits, squashes given values, and combines given scores."""
    from acestep_jax.ops import pmi

    outcomes = []
    for case, sizes in enumerate(meta["cases"]):
        k = sizes["topk"]
        log_probs, ranks = pmi.token_scores(
            jnp.asarray(arrays[f"logits_{case}"]), jnp.asarray(arrays[f"targets_{case}"])
        )
        mean = np.mean(log_probs) if len(ranks) else -np.inf
        recall = np.mean(pmi.ranked(ranks, k)) if len(ranks) else 0.0
        curve = [np.mean(pmi.within(ranks, j)) if len(ranks) else 0.0 for j in range(1, k + 1)]
        outcomes += [
            compare(f"mean_logprob_{case}", mean, arrays[f"mean_logprob_{case}"], LOG_PROB),
            compare(f"recall_{case}", recall, arrays[f"recall_{case}"], RECALL),
            compare(f"recall_per_k_{case}", curve, arrays[f"recall_per_k_{case}"], RECALL),
        ]
    squashed = [pmi.squash(unit["pmi"], unit["scale"]) for unit in meta.get("sigmoid", [])]
    expected = [unit["score"] for unit in meta.get("sigmoid", [])]
    totals = [_combined(unit) for unit in meta.get("reward", [])]
    return [
        *outcomes,
        compare("sigmoid", squashed, expected, SCORE),
        compare("reward", totals, [unit["total"] for unit in meta.get("reward", [])], SCORE),
    ]


def _combined(unit: Mapping[str, Any]) -> float:
    from acestep_jax.ops import pmi

    values = [unit["scores"].get(name, 0.0) for name in pmi.CONDITIONS]
    present = [name in unit["scores"] for name in pmi.CONDITIONS]
    given = unit.get("weights") or {}
    names = ("caption", "lyrics", "metadata")
    weights = tuple(given.get(n, own) for n, own in zip(names, pmi.WEIGHTS, strict=True))
    return float(pmi.combine(jnp.asarray(values), jnp.asarray(present), weights).total)


class Bytes:
    """A vocabulary of bytes, as the toy model reads."""

    pad = 0

    def encode(self, text: str) -> list[int]:
        """Gives the bytes of a text."""
        return list(text.encode())

    def encode_prompt(self, parts: Any) -> list[int]:
        """Gives the bytes of a prompt's parts."""
        return self.encode("".join(parts))


class Toy:
    """The toy model: logits = U[x_t] W + alpha (mean of all one-hot rows so far) P Q + bias."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def apply(
        self,
        variables: Any,
        x: Any,
        rows: Any = None,
        *,
        mask: Any = None,
        positions: Any = None,
        method: Any = None,
    ) -> jax.Array:
        """Gives logits at once; the head passes them through."""
        del rows, positions
        if method == "logits":
            return x
        p = variables["params"]
        if mask.ndim == 2:
            mask = mask[:, None, :]
        causal = jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool))[None] & mask
        count = jnp.maximum(causal.sum(-1, keepdims=True), 1)
        mean = causal @ jax.nn.one_hot(x, len(p["U"])) / count
        return p["U"][x] @ p["W"] + self.alpha * (mean @ p["P"]) @ p["Q"] + p["bias"][None, None]


def run_end_to_end(meta: Mapping[str, Any], arrays: Arrays) -> list[Outcome]:
    """Writes prompts and targets, listens with the toy model, and combines."""
    from acestep_jax.ops import pmi
    from acestep_jax.tasks.planning import listener as listener_lib

    if not meta["audio_codes"].strip():  # nothing to hear is worth nothing
        return [compare("global_score", 0.0, meta["global_score"], SCORE)]
    params = {name: jnp.asarray(arrays[name]) for name in ("U", "W", "P", "Q", "bias")}
    texts = listener_lib.target_parts(meta["caption"], meta["lyrics"], meta["metadata"])
    listener = listener_lib.Listener.of(
        Toy(meta["alpha"]), Bytes(), columns=64, top_k=meta.get("topk", 10)
    )
    size = sum(len("".join(parts).encode()) for parts in texts.values())
    sheet = listener_lib.write_sheet(Bytes(), [texts], size)
    codes = jnp.asarray(Bytes().encode(meta["audio_codes"]))[None]
    heard = jax.jit(listener.hear)(params, codes, jnp.ones(codes.shape, bool), sheet)
    unheard = jax.jit(listener.guess)(params, sheet)
    scores = pmi.score(heard, unheard, scale=meta.get("score_scale", pmi.SCALE))
    return [
        equal("prompts", *_prompts(listener, meta)),
        *_calls(meta, arrays, texts, heard, unheard),
        *_scores(meta, heard, unheard),
        compare("global_score", scores.total[0], meta["global_score"], 10 * LOG_PROB),
    ]


def _prompts(listener: Any, meta: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    codes = Bytes().encode(meta["audio_codes"])
    with_codes = bytes((*listener.before, *codes, *listener.after)).decode()
    ours = {with_codes, bytes(listener.without).decode()}
    theirs = {call["prompt"] for call in meta["calls"]}
    return ours & theirs, theirs


def _calls(
    meta: Mapping[str, Any], arrays: Arrays, texts: Mapping[str, Any], heard: Any, unheard: Any
) -> list[Outcome]:
    from acestep_jax.ops import pmi

    names = {"".join(parts): name for name, parts in texts.items()}
    missing = [call["target"] for call in meta["calls"] if call["target"] not in names]
    if missing:
        return [equal("targets", sorted(names), sorted({c["target"] for c in meta["calls"]}))]
    log_probs, recalls = [], []
    for call in meta["calls"]:
        marks = unheard if UNHEARD in call["prompt"] else heard
        place = pmi.CONDITIONS.index(names[call["target"]])
        log_probs.append(marks.log_probs[0, place])
        recalls.append(marks.recall[0, place])
    return [
        compare("call_mean_logprob", log_probs, arrays["call_mean_logprob"], LOG_PROB),
        compare("call_recall", recalls, arrays["call_recall"], RECALL),
    ]


def _scores(meta: Mapping[str, Any], heard: Any, unheard: Any) -> list[Outcome]:
    from acestep_jax.ops import pmi

    scale = meta.get("score_scale", pmi.SCALE)
    squashed = pmi.squash(pmi.information(heard, unheard), scale)
    outcomes = []
    for name, expected in meta["scores"].items():
        place = pmi.CONDITIONS.index(name)
        values = heard.recall if name in pmi.RECALLED else squashed
        # a sigmoid of scale s magnifies an error of the log-probability by 1 / 4s
        allowed = RECALL if name in pmi.RECALLED else LOG_PROB * max(1.0, 0.5 / scale)
        outcomes.append(compare(name, values[0, place], expected, allowed))
    return outcomes
