"""What a training step receives: one dataclass, every field with its shape and range."""

import dataclasses

import jax
import numpy as np

from acestep_jax.typing import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """A batch of clips with what conditions them.

    B items, T latent frames (25 Hz), C latent channels, F frames of timbre reference, Lt caption
    tokens, Ll lyric tokens. Text is padded on the right.

    Attributes:
      latents: [B, T, C] float32, what the model learns to generate; silence beyond the clip's end.
      frame_mask: [B, T] bool, true on frames of the clip.
      source_latents: [B, T, C] float32, what the task lets the model see; silence for text2music.
      edit_mask: [B, T] float32, 1 where the model must generate.
      text_tokens, text_mask: [B, Lt] int32 and bool, the caption prompt.
      lyric_tokens, lyric_mask: [B, Ll] int32 and bool, the lyric prompt.
      timbre_latents: [B, F, C] float32, another part of the same song, or silence.
      is_cover: [B] bool, whether the source goes through the 5 Hz codes.
    """

    latents: Array
    frame_mask: Array
    source_latents: Array
    edit_mask: Array
    text_tokens: Array
    text_mask: Array
    lyric_tokens: Array
    lyric_mask: Array
    timbre_latents: Array
    is_cover: Array


def stack_examples(examples: list[dict[str, np.ndarray]]) -> Batch:
    """Stacks examples, dictionaries with the fields of a batch without B, into a batch."""
    names = [field.name for field in dataclasses.fields(Batch)]
    return Batch(**{name: np.stack([example[name] for example in examples]) for name in names})
