"""Builds the nano family's tokenizer: Qwen3's manner of tokenising, with 2,048 tokens of text.

The layout of the ids:

    0 .. 2047      byte-level BPE, trained on captions, lyrics and metadata of our own songs
    2048 .. 2073   Qwen3's 26 added tokens, in Qwen3's order, from <|endoftext|> to </think>
    2074 .. 2175   reserved, so that the text encoder's table has 2,176 rows
    2176 .. 3175   <|audio_code_0|> .. <|audio_code_999|>; rows of the planner only

As in the released Qwen3-Embedding tokenizer, numbers are split into digits, and the post-processor
appends one <|endoftext|> to every text.

Command:  python -m acestep_jax.data.vocabulary --out acestep_jax/assets/nano/text_encoder
"""

import argparse
import pathlib
import textwrap
from collections.abc import Iterable, Iterator

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from acestep_jax.data.songs import captions, render
from acestep_jax.data.songs import score as score_lib
from acestep_jax.tasks import prompt

TEXT_TOKENS = 2048
TEXT_ROWS = 2176
NUM_CODES = 1000

_TEMPLATED = (
    "endoftext im_start im_end object_ref_start object_ref_end box_start box_end quad_start "
    "quad_end vision_start vision_end vision_pad image_pad video_pad"
)
_CODE = "fim_prefix fim_middle fim_suffix fim_pad repo_name file_sep"
_PLAIN = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
QWEN3_ADDED = (
    *(f"<|{name}|>" for name in _TEMPLATED.split()),
    *_PLAIN[:2],
    *(f"<|{name}|>" for name in _CODE.split()),
    *_PLAIN[2:],
)
"""Qwen3's 26 added tokens in the order of their ids; the plain ones are not marked as special."""

# Qwen2's pre-tokenisation: contractions, words with one leading mark, single digits, punctuation
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# ChatML as Qwen3 renders it: what stands up to </think> is written again between fresh newlines
CHAT_TEMPLATE = textwrap.dedent("""\
    {%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' -}}
    {%- if message.role == 'assistant' and '</think>' in message.content -%}
    {%- set thought = message.content.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
    {%- set answer = message.content.split('</think>')[-1].lstrip('\\n') -%}
    {{- '<think>\\n' + thought + '\\n</think>\\n\\n' + answer -}}
    {%- else -%}
    {{- message.content -}}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
    {%- endfor -%}
    {%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- endif -%}
    """)


def corpus(num_songs: int = 3000, first_seed: int = 1_000_000) -> Iterator[str]:
    """Yields prompts of songs that are described but not rendered, and the prompts' fixed parts."""
    tasks = ("text2music", "repaint", "cover", "extract", "lego", "complete")
    for task in tasks:
        yield prompt.caption_prompt("", instruction=prompt.task_instruction(task))
    for track in prompt.TRACK_NAMES:
        for task in ("extract", "lego", "complete"):
            yield prompt.task_instruction(task, [track])
    for seed in range(first_seed, first_seed + num_songs):
        rng = np.random.default_rng(seed)
        score, singer = render.draw_score(seed, rng)
        yield from _song_texts(score, singer, rng)


def _song_texts(
    score: score_lib.Score, singer: str | None, rng: np.random.Generator
) -> Iterator[str]:
    meter = str(score.tune.metre)
    lyrics, language = prompt.INSTRUMENTAL, "unknown"
    if singer is not None:
        lyrics = "\n".join(line.text for line in score_lib.lyric_sheet(score))
        language = score.tune.language
    for caption in captions.describe(score, singer, 2, rng):
        yield prompt.caption_prompt(
            caption,
            bpm=score.bpm,
            keyscale=score.keyscale,
            timesignature=meter,
            duration=score.seconds,
        )
        # the planner's chain of thought writes the same facts as YAML
        yield (
            f"bpm: {score.bpm}\ncaption: {caption}\nduration: {int(score.seconds)}\n"
            f"keyscale: {score.keyscale}\nlanguage: {language}\ntimesignature: {meter}\n"
        )
    yield prompt.lyric_prompt(lyrics, language)


def build_tokenizer(texts: Iterable[str]) -> tokenizers.Tokenizer:
    """Trains the tokenizer; equal texts give an equal tokenizer.

    Raises:
      ValueError: if the texts are too few to learn 2,048 tokens from.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    # markup must not enter the merges: it is matched whole, before the BPE sees the text
    cleaned = (text.replace("<|endoftext|>", "\n") for text in texts)
    trainer = trainers.BpeTrainer(
        vocab_size=TEXT_TOKENS,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(cleaned, trainer)
    if tokenizer.get_vocab_size() != TEXT_TOKENS:
        raise ValueError(
            f"the texts give {tokenizer.get_vocab_size()} tokens, not {TEXT_TOKENS}; use more."
        )
    tokenizer.add_tokens(_added_tokens())
    end = "<|endoftext|>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}",
        pair=f"$A $B {end}",
        special_tokens=[(end, tokenizer.token_to_id(end))],
    )
    return tokenizer


def _added_tokens() -> list[tokenizers.AddedToken]:
    """Qwen3's tokens, the reserved ones, and the audio codes, in the order of their ids."""
    num_reserved = TEXT_ROWS - TEXT_TOKENS - len(QWEN3_ADDED)
    names = [
        *QWEN3_ADDED,
        *(f"<|reserved_{i}|>" for i in range(num_reserved)),
        *(f"<|audio_code_{i}|>" for i in range(NUM_CODES)),
    ]
    return [
        tokenizers.AddedToken(name, special=name not in _PLAIN, normalized=False) for name in names
    ]


def save_tokenizer(tokenizer: tokenizers.Tokenizer, folder: pathlib.Path) -> None:
    """Writes the files that `AutoTokenizer` and `PreTrainedTokenizerFast` load, offline."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_max_length=32_768,
        chat_template=CHAT_TEMPLATE,
    )
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(str(folder))


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Builds the nano family's tokenizer.")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the tokenizer")
    folder = parser.parse_args().out
    save_tokenizer(build_tokenizer(corpus()), folder)
    print(f"tokenizer written to {folder}")


if __name__ == "__main__":
    main()
