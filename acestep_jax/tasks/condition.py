"""A request's arrays turned into what the DiT reads: condition tokens and frame context.

Training and sampling both build their conditions here, so that no model trains on conditions that
sampling cannot produce.

    caption tokens --text encoder--------------> text states  --+
    lyric tokens   --text encoder's embeddings-> lyric states --+--condition encoder--> tokens
    reference latents --------------------------> timbre -------+
    source latents (covers: through the 5 Hz codes) | edit mask  ---------------------> context
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from acestep_jax.nn.model import Networks
from acestep_jax.typing import Array, Params


class ConditionInputs(Protocol):
    """The fields of a batch that conditions are made of; `data.batch.Batch` has them.

    Text is right-padded; `*_mask` is true on real tokens. `edit_mask` is 1 where the model must
    generate. `is_cover` marks items whose source passes through the 5 Hz codes. What was computed
    beforehand may be given as well, and is then taken: `text_states` [B, Lt, Dt] and
    `lyric_states` [B, Ll, Dt] in place of the text encoder, `codes` [B, Q] (-1 where there is none)
    in place of the tokenizer. `timbre_owner` [N] names the item of each reference where there are
    more or fewer than one an item.
    """

    text_tokens: Array  # [B, Lt] int32
    text_mask: Array  # [B, Lt]
    lyric_tokens: Array  # [B, Ll] int32
    lyric_mask: Array  # [B, Ll]
    timbre_latents: Array  # [B, F, C]
    source_latents: Array  # [B, T, C]
    edit_mask: Array  # [B, T]
    is_cover: Array  # [B]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Conditions:
    """What the DiT needs besides noise and time.

    Attributes:
      tokens: [B, L, D], packed lyric, timbre and text tokens, valid ones first.
      mask: [B, L] bool, true on valid tokens. Pass None to the DiT instead to let it attend
        padding, as the release does.
      context: [B, T, 2C], source latents and edit mask side by side.
    """

    tokens: Array
    mask: Array
    context: Array


def encode_text(networks: Networks, params: Params, inputs: ConditionInputs) -> tuple[Array, Array]:
    """Encodes the two text streams.

    Returns:
      Caption states after the final norm [B, Lt, Dt], and lyric embedding rows [B, Ll, Dt]: the
      release reads lyrics as bare rows of the text encoder's table. Padding lies to the right and
      attention is causal, so no mask is needed. Given states pass through, in float32.
    """
    known, sung = _given(inputs, "text_states"), _given(inputs, "lyric_states")
    if known is not None and sung is not None:
        return known.astype(jnp.float32), sung.astype(jnp.float32)
    encoder, variables = networks.text_encoder, {"params": params["text_encoder"]}
    text = encoder.apply(variables, inputs.text_tokens)
    lyric = encoder.apply(variables, inputs.lyric_tokens, method="embed")
    return text, lyric


def _given(inputs: ConditionInputs, name: str) -> Array | None:
    """Reads a field that inputs need not have."""
    return getattr(inputs, name, None)


def encode_tokens(
    networks: Networks, params: Params, inputs: ConditionInputs, max_refs: int = 1
) -> tuple[Array, Array]:
    """Encodes caption, lyrics and timbre references into condition tokens.

    Args:
      networks: the modules.
      params: their parameters by module name.
      inputs: text and references.
      max_refs: room for references an item; at least the most that one has.

    Returns:
      Tokens [B, L, D] and their mask [B, L].
    """
    text, lyric = encode_text(networks, params, inputs)
    batch_size, owner = text.shape[0], _given(inputs, "timbre_owner")
    return networks.condition_encoder.apply(
        {"params": params["condition_encoder"]},
        text,
        inputs.text_mask,
        lyric,
        inputs.lyric_mask,
        inputs.timbre_latents,
        jnp.arange(batch_size, dtype=jnp.int32) if owner is None else owner,
        batch_size,
        max_refs=max_refs,
    )


def cover_hints(
    networks: Networks, params: Params, source_latents: Array, silence_latent: Array
) -> Array:
    """Passes latents through the 5 Hz codes and back: hints [B, T, C].

    Args:
      source_latents: [B, T, C]; a length that is no multiple of five is filled up with silence.
      silence_latent: [1, S, C] with S >= 4.
    """
    quantized, _ = networks.tokenizer.apply(
        {"params": params["tokenizer"]}, source_latents, silence_latent
    )
    hints = networks.detokenizer.apply({"params": params["detokenizer"]}, quantized)
    return hints[:, : source_latents.shape[1]]


def code_hints(
    networks: Networks, params: Params, codes: Array, num_frames: int, silence_latent: Array
) -> Array:
    """Decodes given 5 Hz codes to hints [B, num_frames, C], with silence where there are none.

    Args:
      codes: [B, Q] int32, -1 behind an item's last code.
      num_frames: T; codes are cut, or followed by silence, to this length.
      silence_latent: [1, S, C]; it starts anew behind the last code, as in the release.
    """
    window = networks.config.pool_window_size
    missing = max(0, -(-num_frames // window) - codes.shape[1])
    codes = jnp.pad(codes, ((0, 0), (0, missing)), constant_values=-1)
    quantized = networks.tokenizer.apply(
        {"params": params["tokenizer"]}, jnp.maximum(codes, 0), method="decode_codes"
    )
    hints = networks.detokenizer.apply({"params": params["detokenizer"]}, quantized)
    behind = jnp.arange(hints.shape[1])[None] - window * (codes >= 0).sum(axis=1, keepdims=True)
    silence = silence_latent[0][jnp.maximum(behind, 0) % silence_latent.shape[1]]
    return jnp.where(behind[..., None] < 0, hints, silence)[:, :num_frames]


def frame_context(
    source_latents: Array,
    edit_mask: Array,
    hints: Array | None = None,
    is_cover: Array | None = None,
) -> Array:
    """Joins source and mask into the DiT's context: concat(source, mask), [B, T, 2C].

    Args:
      source_latents: [B, T, C], silence where there is nothing to keep.
      edit_mask: [B, T] (or [B, T, C]), 1 where the model must generate.
      hints: [B, T' >= T, C], what covers read in place of their source; cropped to T.
      is_cover: [B], which items read their hints.
    """
    num_frames, channels = source_latents.shape[1:]
    if hints is not None and is_cover is not None:
        chosen = (is_cover > 0)[:, None, None]
        source_latents = jnp.where(chosen, hints[:, :num_frames], source_latents)
    if edit_mask.ndim == 2:
        edit_mask = jnp.repeat(edit_mask[..., None], channels, axis=-1)
    return jnp.concatenate([source_latents, edit_mask.astype(source_latents.dtype)], axis=-1)


def make_conditions(
    networks: Networks,
    params: Params,
    inputs: ConditionInputs,
    silence_latent: Array,
    *,
    covers: bool = True,
    max_refs: int = 1,
) -> Conditions:
    """Makes all conditions of a batch.

    Args:
      networks: the modules.
      params: their parameters by module name.
      inputs: text, reference, source and mask arrays.
      silence_latent: [1, S, C], the recorded silence.
      covers: False skips the codes where it is known that no item is a cover.
      max_refs: room for references an item.
    """
    tokens, mask = encode_tokens(networks, params, inputs, max_refs)
    hints = None
    codes = _given(inputs, "codes")
    if covers and codes is None:
        hints = cover_hints(networks, params, inputs.source_latents, silence_latent)
    elif covers:
        num_frames = inputs.source_latents.shape[1]
        hints = code_hints(networks, params, codes, num_frames, silence_latent)
    context = frame_context(inputs.source_latents, inputs.edit_mask, hints, inputs.is_cover)
    return Conditions(tokens=tokens, mask=mask, context=context)
