"""What a training step receives: one dataclass, every field with its shape and range."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from acestep_jax.typing import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """A batch of clips with what conditions them.

    B items, T latent frames (25 Hz), C latent channels, F frames of timbre reference, Lt caption
    tokens, Ll lyric tokens, Q codes (5 Hz). Text is padded on the right. T, Ll and B are those of
    the batch's bucket.

    Attributes:
      latents: [B, T, C] float32, what the model learns to generate; silence beyond the clip's end.
      frame_mask: [B, T] bool, true on frames of the clip.
      source_latents: [B, T, C] float32, what the task lets the model see; silence for text2music.
      edit_mask: [B, T] float32, 1 where the model must generate.
      text_tokens, text_mask: [B, Lt] int32 and bool, the caption prompt.
      lyric_tokens, lyric_mask: [B, Ll] int32 and bool, the lyric prompt.
      timbre_latents: [B, F, C] float32, another part of the same recording, or silence.
      is_cover: [B] bool, whether the source goes through the 5 Hz codes.
      task: [B] int32, which of `tasks.edits.TASKS`; for the log, no network reads it.
      text_states, lyric_states: [B, Lt, D] and [B, Ll, D] float16, what a frozen text encoder made
        of the prompts beforehand, or None.
      codes: [B, Q] int32, the 5 Hz codes of covers' sources, -1 where there are none; or None.
      lyric_frames: [B, Ll, 2] int32, the frames [first, end) in which each token of the lyric
        prompt is sung, -1 where nobody knows; or None.
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
    task: Array | None = None
    text_states: Array | None = None
    lyric_states: Array | None = None
    codes: Array | None = None
    lyric_frames: Array | None = None


def stack_examples(examples: Sequence[Mapping[str, np.ndarray]]) -> Batch:
    """Stacks examples, mappings with the fields of a batch without B, into a batch.

    Fields that examples may lack stay None; keys that are no fields are left out.
    """
    names = [field.name for field in dataclasses.fields(Batch) if field.name in examples[0]]
    return Batch(**{name: np.stack([example[name] for example in examples]) for name in names})
