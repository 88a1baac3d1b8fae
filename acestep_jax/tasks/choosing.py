"""Best of several: make a request again and again by other seeds, and keep what scores best.

    takes = repeat(requests, 8)
    songs = pipe.generate(takes)
    scores = [alignment_scores(pipe, takes, latents, reading)]
    best = [songs[i] for i in choose(scores, 8)]

Scores are the rewards of training. Within the takes of one request each is centred and divided by
its deviation, as a group's rewards are, and their mean decides: so two scores of different scale
count alike.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np

from acestep_jax.nn.tokenizer import AudioTokenizer
from acestep_jax.ops import pmi
from acestep_jax.sampling import buckets
from acestep_jax.tasks import alignment
from acestep_jax.tasks.alignment import Reading
from acestep_jax.tasks.pipeline import Pipeline
from acestep_jax.tasks.planning import listener as listener_lib
from acestep_jax.tasks.planning.chat import Parts
from acestep_jax.tasks.planning.listener import Listener, Sheet
from acestep_jax.tasks.planning.planner import Planner
from acestep_jax.tasks.request import BadRequest, Request
from acestep_jax.typing import Array, Params

SCORES = ("aas", "pmi")
"""What takes can be chosen by: fit of the lyrics, and what the codes tell of the request."""
_LONGEST = 1 << 16
"""Tokens of texts or codes, far beyond what a planner reads."""


def repeat(requests: Sequence[Request], count: int) -> list[Request]:
    """Lists every request `count` times, with seeds that follow its own."""
    return [
        dataclasses.replace(request, seed=request.seed + take)
        for request in requests
        for take in range(count)
    ]


def check(requests: Sequence[Request], names: Sequence[str]) -> None:
    """Refuses, before anything is made, what cannot be scored.

    Raises:
      BadRequest: for unknown scores, or an instrumental to be chosen by its lyrics.
    """
    unknown = [name for name in names if name not in SCORES]
    if unknown or not names:
        raise BadRequest(f"scores {unknown or names}; use {', '.join(SCORES)} or both.")
    if "aas" in names and any(r.instrumental or not r.lyrics.strip() for r in requests):
        raise BadRequest("aas scores how lyrics are sung; choose a song without them by pmi.")


def choose(scores: Sequence[np.ndarray], count: int) -> list[int]:
    """Picks the best take of every request: indices, one for each `count` takes.

    Args:
      scores: [requests · count] each, higher is better.
      count: takes a request.
    """
    total = np.zeros(np.shape(scores[0])).reshape(-1, count)
    for score in scores:
        group = np.asarray(score, np.float64).reshape(-1, count)
        total += (group - group.mean(1, keepdims=True)) / (group.std(1, keepdims=True) + 1e-6)
    return [int(row.argmax()) + i * count for i, row in enumerate(total)]


def alignment_scores(
    pipe: Pipeline, takes: Sequence[Request], latents: Sequence[np.ndarray], reading: Reading
) -> np.ndarray:
    """Scores how well each take's lyrics fit, float64 [takes]."""
    verdicts = alignment.judge(pipe, takes, latents, reading)
    return np.array([verdict.score for verdict in verdicts])


def information_scores(
    planner: Planner, pipe: Pipeline, takes: Sequence[Request], latents: Sequence[np.ndarray]
) -> np.ndarray:
    """Scores what each take's codes tell a planner of its request, float64 [takes].

    The codes are those that the take was made from, or else those of its latents.

    Raises:
      BadRequest: if the planner has fewer codes than the pipeline's tokenizer.
    """
    vocabulary = planner.vocabulary
    listener = Listener.of(planner.module, vocabulary)
    texts = [_texts(take) for take in takes]
    lengths = [sum(len(vocabulary.encode_prompt(p)) for p in text.values()) for text in texts]
    room = buckets.token_bucket(max(lengths), _LONGEST)
    found = []
    for take, own, text in zip(takes, latents, texts, strict=True):
        ids = vocabulary.code_tokens(take.codes or _codes_of(pipe, own))
        tokens = np.full((1, buckets.token_bucket(len(ids), _LONGEST)), vocabulary.pad, np.int32)
        tokens[0, : len(ids)] = ids
        real = np.arange(tokens.shape[1])[None] < len(ids)
        sheet = listener_lib.write_sheet(vocabulary, [text], room)
        found.append(float(_listen(listener, planner.params, tokens, real, sheet)[0]))
    return np.array(found)


@functools.partial(jax.jit, static_argnums=0)
def _listen(listener: Listener, params: Params, tokens: Array, real: Array, sheet: Sheet) -> Array:
    heard = listener.hear(params, tokens, real, sheet)
    return pmi.score(heard, listener.guess(params, sheet)).total


def _texts(take: Request) -> dict[str, Parts]:
    metadata = {
        "bpm": take.bpm,
        "duration": None if take.duration is None else int(take.duration),
        "keyscale": take.keyscale or None,
        "language": None if take.language == "unknown" else take.language,
        "timesignature": take.timesignature or None,
    }
    return listener_lib.target_parts(take.caption, take.lyrics, metadata)


def _codes_of(pipe: Pipeline, latents: np.ndarray) -> tuple[int, ...]:
    params = pipe.place(pipe.params["tokenizer"])
    codes = _tokenize(pipe.networks.tokenizer, params, latents[None], pipe.silence_latent)
    return tuple(np.asarray(codes).reshape(-1).tolist())


@functools.partial(jax.jit, static_argnums=0)
def _tokenize(tokenizer: AudioTokenizer, params: Params, latents: Array, silence: Array) -> Array:
    return tokenizer.apply({"params": params}, latents, silence)[1]
