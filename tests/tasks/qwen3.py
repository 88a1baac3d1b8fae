"""The part of Qwen3's tokenizer that the planner's golden cases need, with Qwen3's own ids."""

import functools
import json
import pathlib

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from acestep_jax.data import vocabulary as nano
from acestep_jax.tasks.planning.vocabulary import Vocabulary

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
SIZE = 217_204


@functools.cache
def tokenizer():
    """A working tokenizer: exact on the texts it was made for."""
    pieces = json.loads((GOLDEN / "qwen3_pieces.json").read_text("utf-8"))
    merges = [tuple(pair) for pair in pieces["merges"]]
    made = tokenizers.Tokenizer(models.BPE(pieces["vocab"] | pieces["added"], merges))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(nano._SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    plain = ("<think>", "</think>")
    made.add_tokens(
        [
            tokenizers.AddedToken(name, special=name not in plain, normalized=False)
            for name in pieces["added"]
        ]
    )
    return made


@functools.cache
def vocabulary():
    """The released planners' vocabulary: 64,000 valid codes of 65,535 rows."""
    return Vocabulary(tokenizer(), SIZE, 64_000)


@functools.cache
def golden(name):
    """A golden file, parsed."""
    return json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))
