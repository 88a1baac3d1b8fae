"""Makes a planner of a plain Qwen3: audio tokens behind those of its tokenizer.

New rows begin at the mean of the old ones, with a little noise to tell them apart, so that a code
is at first about as likely as an average word. Rows that a table holds beyond its tokenizer (Qwen3
pads to 151,936) are dropped, as in the release: its first audio token is 151,669.
"""

import dataclasses

import jax
import jax.numpy as jnp
import tokenizers

from acestep_jax.nn.config import Qwen3Config
from acestep_jax.typing import Array, Key, Params
from acestep_jax.weights import Network

NOISE = 0.1
"""Deviation of new rows around the mean, as a share of the table's own (ours)."""


def extend_tokenizer(tokenizer: tokenizers.Tokenizer, num_codes: int) -> tokenizers.Tokenizer:
    """Copies a tokenizer and adds `<|audio_code_0|>` and so on behind its last token.

    Raises:
      ValueError: if it has audio tokens already.
    """
    if tokenizer.token_to_id("<|audio_code_0|>") is not None:
        raise ValueError("the tokenizer has audio tokens already; load it as a planner's.")
    extended = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    names = (f"<|audio_code_{code}|>" for code in range(num_codes))
    extended.add_tokens([tokenizers.AddedToken(n, special=True, normalized=False) for n in names])
    return extended


def extend_table(key: Key, table: Array, num_tokens: int, size: int) -> Array:
    """Cuts a table [V, D] to its first `num_tokens` rows and adds new ones up to `size`.

    Raises:
      ValueError: if the table has fewer rows than tokens, or would not grow.
    """
    if table.shape[0] < num_tokens or size <= num_tokens:
        raise ValueError(
            f"a table of {table.shape[0]} rows for {num_tokens} tokens cannot grow to {size}."
        )
    known = table[:num_tokens].astype(jnp.float32)
    shape = (size - num_tokens, table.shape[1])
    fresh = known.mean(axis=0)[None] + NOISE * known.std() * jax.random.normal(key, shape)
    return jnp.concatenate([known, fresh]).astype(table.dtype)


def extend_model(
    key: Key, config: Qwen3Config, params: Params, num_tokens: int, num_codes: int
) -> Network[Qwen3Config]:
    """Extends embedding and head of a Qwen3 by audio tokens.

    Args:
      key: of the noise.
      config, params: the plain model.
      num_tokens: that its tokenizer has.
      num_codes: audio tokens to add.
    """
    size = num_tokens + num_codes
    new = dict(params)
    new["embed_tokens"] = extend_table(key, params["embed_tokens"], num_tokens, size)
    if "lm_head" in params:
        head = extend_table(key, params["lm_head"]["kernel"].T, num_tokens, size)
        new["lm_head"] = {**params["lm_head"], "kernel": head.T}
    return Network(dataclasses.replace(config, vocab_size=size), new)
