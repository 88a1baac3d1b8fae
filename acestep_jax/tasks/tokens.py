"""Prompts as token arrays: the one way in which training and generation tokenise text."""

import numpy as np
import tokenizers


def load_tokenizer(folder: str) -> tokenizers.Tokenizer:
    """Reads `tokenizer.json` from a folder (of a text encoder)."""
    return tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")


def tokenize(
    tokenizer: tokenizers.Tokenizer, text: str, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokenises a prompt and pads it on the right: ids [length] int32 and their mask.

    Longer prompts lose their end but keep the final <|endoftext|>, as the release's do.
    """
    ids = tokenizer.encode(text).ids
    if len(ids) > length:
        ids = [*ids[: length - 1], ids[-1]]
    padding = tokenizer.token_to_id("<|endoftext|>")
    padded = np.full(length, padding, np.int32)
    padded[: len(ids)] = ids
    return padded, np.arange(length) < len(ids)
