"""Thinking before making: a request filled in by the planner, for the pipeline to make.

requests = think.plan_requests(planner, requests)
songs = pipe.generate(requests)
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from acestep_jax import weights
from acestep_jax.tasks.planning.grammar import Rulebook
from acestep_jax.tasks.planning.planner import Brief, Drawing, Plan, Planner
from acestep_jax.tasks.prompt import INSTRUMENTAL
from acestep_jax.tasks.request import BadRequest, Request

ASSETS = pathlib.Path(__file__).parents[2] / "assets"
SONG_RULES = Rulebook(caption_tokens=160)
"""For plans that are made into songs: the DiT reads 256 tokens, some 60 of them its template."""
RELEASED = tuple(f"acestep-5Hz-lm-{size}" for size in ("1.7B", "4B", "0.6B"))
"""Folders of the released planners, the default one first."""
NANO = "acestep-5Hz-lm-nano"


def find_planner(named: str = "", model: str = "") -> str:
    """Finds the planner of a model: the one that is named, or the one beside the model.

    Args:
      named: a folder or hub id; "" looks for one.
      model: a folder or hub id of a diffusion package; "" is the nano family.

    Raises:
      FileNotFoundError: if there is none; it says where was looked.
    """
    if named:
        return named
    places = [ASSETS / "nano" / NANO]
    if model:
        beside = pathlib.Path(weights.resolve(model)).parent
        places = [beside / name for name in RELEASED]
    for place in places:
        if (place / "config.json").is_file():
            return str(place)
    looked = ", ".join(map(str, places))
    raise FileNotFoundError(f"there is no planner in {looked}; name its folder or hub id.")


def plan_requests(
    planner: Planner,
    requests: Sequence[Request],
    drawing: Drawing | None = None,
    *,
    rewrite_caption: bool = True,
    sing: bool = True,
) -> list[Request]:
    """Lets the planner fill in what requests leave open, and write their audio codes.

    What a user gave is kept: metadata, language, lyrics. The caption is replaced by the plan's if
    `rewrite_caption`; the codes that it wrote make the song a cover of themselves, as in the
    release. Requests with codes of their own get metadata alone, and other tasks than text2music
    are passed through as they are.

    Args:
      planner: with codes of the same tokenizer as the pipeline's.
      requests: any number.
      drawing: how the planner draws.
      rewrite_caption: use the plan's caption for the DiT.
      sing: write codes.

    Raises:
      BadRequest: for text beyond the planner's context.
    """
    planned = list(requests)
    for singing in (True, False):
        chosen = [
            i
            for i, request in enumerate(requests)
            if request.task == "text2music" and (sing and not request.codes) == singing
        ]
        plans = planner.generate(
            [brief_of(requests[i]) for i in chosen],
            drawing,
            write_caption=rewrite_caption,
            sing=singing,
        )
        for i, plan in zip(chosen, plans, strict=True):
            planned[i] = filled(requests[i], plan, rewrite_caption=rewrite_caption)
    return planned


def brief_of(request: Request) -> Brief:
    """Says what of a request the planner must know; only what was given counts as settled."""
    given: dict[str, Any] = {
        "bpm": request.bpm,
        "keyscale": request.keyscale,
        "timesignature": request.timesignature,
        "language": "" if request.language == "unknown" else request.language,
        "duration": None if request.duration is None else int(request.duration),
    }
    return Brief(
        caption=request.caption,
        lyrics=INSTRUMENTAL if request.instrumental else request.lyrics,
        seconds=request.duration,
        given={name: value for name, value in given.items() if value not in (None, "")},
        seed=request.seed,
    )


def filled(request: Request, plan: Plan, *, rewrite_caption: bool = True) -> Request:
    """Fills a request in from a plan; what was given stays.

    Raises:
      BadRequest: if the plan, made without a grammar, holds what no request may.
    """
    own = plan.blueprint
    changes: dict[str, Any] = {}
    if request.bpm is None:
        changes["bpm"] = own.bpm
    for name in ("keyscale", "timesignature"):
        if not getattr(request, name) and getattr(own, name):
            changes[name] = getattr(own, name)
    if request.duration is None and not request.codes and own.duration is not None:
        changes["duration"] = float(own.duration)
    if request.language == "unknown" and own.language:
        changes["language"] = own.language
    if rewrite_caption and own.caption:
        changes["caption"] = own.caption
    if plan.codes:
        changes["codes"] = plan.codes
    try:
        return dataclasses.replace(request, **changes)
    except BadRequest as error:
        raise BadRequest(f"the plan cannot be followed: {error}") from error


def changes(request: Request, planned: Request) -> dict[str, Any]:
    """Lists what planning changed, as plain values: with them the song is made again without it."""
    names = ("caption", "language", "bpm", "keyscale", "timesignature", "duration", "codes")
    changed = {name: getattr(planned, name) for name in names}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in changed.items()
        if value != getattr(request, name)
    }
