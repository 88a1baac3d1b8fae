"""What `prompts.json` of a parity folder holds: prompts of DiT and planner, spans and constants.

Each entry is one check; `checks` names them.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from acestep_jax.tasks import edits, inputs, prompt, tokens
from acestep_jax.tasks.planning import blueprint, chat
from acestep_jax.tasks.planning.vocabulary import Vocabulary
from acestep_jax.tasks.request import NUM_CODES


def texts(request: Mapping[str, Any]) -> tuple[str, str]:
    """Writes the caption prompt and the lyric prompt of an official request."""
    task = "cover" if request["audio_codes"] else request["task_type"]
    tracks = request["complete_track_classes"] or request["track_name"] or ()
    tracks = (tracks,) if isinstance(tracks, str) else tuple(tracks)
    caption = prompt.caption_prompt(
        request["caption"],
        instruction=request["instruction"] or prompt.task_instruction(task, tracks),
        bpm=request["bpm"],
        keyscale=request["keyscale"],
        timesignature=request["timesignature"],
        duration=request["duration"],
    )
    return caption, prompt.lyric_prompt(request["lyrics"], request["vocal_language"])


def checks(folder: Path, content: Mapping[str, Any]) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yields the name of each check and the function that makes it; an empty result is right."""
    tokenizer = tokens.load_tokenizer(str(folder / content["tokenizer"]))
    for i, entry in enumerate(content["dit"]):
        yield f"prompts_dit_{i}", lambda entry=entry: _check_texts(entry, tokenizer)
    for i, entry in enumerate(content["chunk_masks"]):
        yield f"prompts_mask_{i}", lambda entry=entry: _check_masks(entry)
    yield "prompts_constants", lambda: _check_constants(content["constants"])
    if "lm" in content:
        yield "prompts_lm", lambda: _check_planner(folder, content["lm"])


def _check_planner(folder: Path, content: Mapping[str, Any]) -> str:
    """Checks chains of thought, prompts and their ids, parsed outputs and codes in text."""
    tokenizer = tokens.load_tokenizer(str(folder / content["tokenizer"]))
    vocabulary = Vocabulary.of(tokenizer, tokenizer.get_vocab_size())
    wrong = []
    for entry in content["cot"]:
        if blueprint.write_cot(entry["metadata"]) != entry["text"]:
            wrong.append(f"the chain of thought of {entry['metadata']} differs")
    for entry in content["prompts"]:
        parts = _planner_prompt(entry["method"], **entry["args"])
        if "".join(parts) != entry["text"]:
            wrong.append(f"{entry['method']} gives {''.join(parts)!r}, not {entry['text']!r}")
        elif vocabulary.encode_prompt(parts) != entry["ids"]:
            wrong.append(f"the ids of {entry['method']}({entry['args']}) differ")
    for entry in content["parsed"]:
        fields = blueprint.parse_fields(blueprint.reasoning_of(entry["output"]), unquote=False)
        if fields != entry["metadata"]:
            wrong.append(f"{entry['output']!r} is read as {fields}")
        codes = blueprint.read_codes(entry["output"], NUM_CODES)
        if "".join(f"<|audio_code_{code}|>" for code in codes) != entry["codes"]:
            wrong.append(f"{entry['output']!r} gives the codes {codes}")
    for entry in content["audio_code_ids"]:
        if list(blueprint.read_codes(entry["text"], NUM_CODES)) != entry["ids"]:
            wrong.append(f"the codes of {entry['text']!r} differ")
    return "; ".join(wrong)


def _planner_prompt(
    method: str, is_negative_prompt: bool = False, negative_prompt: str = chat.NO_INPUT, **args: Any
) -> chat.Parts:
    """Writes a prompt as the method of the official handler does."""
    kind = method.removeprefix("build_formatted_prompt").removeprefix("_")
    if kind == "for_understanding":
        return chat.understand_prompt(
            () if is_negative_prompt else blueprint.read_codes(args["audio_codes"], NUM_CODES)
        )
    if kind == "for_inspiration":
        return chat.inspire_prompt(args["query"], instrumental=args["instrumental"])
    if kind == "for_format":
        return chat.format_prompt(args["caption"], args["lyrics"])
    song = args["caption"], args["lyrics"]
    if kind == "with_cot":
        if is_negative_prompt:
            return chat.code_negative(*song, negative_prompt)
        return chat.code_prompt(*song, args["cot_text"])
    if is_negative_prompt:
        return chat.plan_negative(args["lyrics"], negative_prompt)
    return chat.plan_prompt(*song)


def _check_texts(entry: Mapping[str, Any], tokenizer: Any) -> str:
    wrong = []
    limits = {"text": prompt.MAX_CAPTION_TOKENS, "lyric": prompt.MAX_LYRIC_TOKENS}
    for (name, limit), text in zip(limits.items(), texts(entry["request"]), strict=True):
        ids, mask = tokens.tokenize(tokenizer, text, limit)
        if text != entry[name]:
            wrong.append(f"{name} is {text!r}, not {entry[name]!r}")
        if ids[mask].tolist() != entry[f"{name}_ids"]:
            wrong.append(f"{name}_ids differ")
    return "; ".join(wrong)


def _check_masks(entry: Mapping[str, Any]) -> str:
    frames, task = entry["latent_length"], entry["task_type"]
    silence, song = np.zeros((frames, 1)), np.ones((frames, 1))
    span = None
    if entry["start_s"] is not None:
        span = inputs.frames_between(entry["start_s"], entry["end_s"], frames)
    hidden = entry["chunk_mask_mode"] == "auto"
    source = None if task == "text2music" else song
    edit = edits.make_edit(task, frames, silence, source, span, tell_span=not hidden)
    seen = np.ones(frames) if source is None else edit.source_latents[:, 0]
    inside = np.zeros(frames)
    if span is not None:
        inside[slice(*span)] = 1
    got = {
        "chunk_mask": _digits(edit.edit_mask),
        "src_is_source": _digits(seen),
        "is_cover": bool(edit.is_cover),
        "repaint_mask": None if span is None else _digits(inside),
    }
    return "; ".join(f"{k} is {v}, not {entry[k]}" for k, v in got.items() if v != entry[k])


def _digits(values: np.ndarray) -> str:
    return "".join(str(int(value)) for value in values)


def _check_constants(constants: Mapping[str, Any]) -> str:
    got = {name: prompt.task_instruction(name) for name in ("text2music", "repaint", "cover")}
    got["cover-nofsq"] = prompt.task_instruction("cover")
    fields = {"extract": "TRACK_NAME", "lego": "TRACK_NAME", "complete": "TRACK_CLASSES"}
    for name, field in fields.items():
        got[f"{name}_default"] = prompt.task_instruction(name)
        got[name] = prompt.task_instruction(name, ("fx",)).replace("FX", f"{{{field}}}")
    wanted = constants["task_instructions"]
    wrong = [f"{k}: {got.get(k)!r}, not {v!r}" for k, v in wanted.items() if got.get(k) != v]
    if list(prompt.LANGUAGES) != constants["valid_languages"]:
        wrong.append("valid_languages differ")
    pieces = constants["sft_gen_prompt"].split("{}")
    if prompt.caption_prompt("c", instruction="i:") != (
        f"{pieces[0]}i:{pieces[1]}c{pieces[2]}{prompt.metadata_block()}{pieces[3]}"
    ):
        wrong.append("sft_gen_prompt differs")
    return "; ".join(wrong)
