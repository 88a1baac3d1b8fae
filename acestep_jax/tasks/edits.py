"""The six tasks as arrays: what the model may see, and where it must generate.

    task          generated    source (what is seen)           edit mask       through 5 Hz codes
    text2music    a song       silence                         1               no
    cover         a song       a song                          1               yes
    repaint       a song       the song, silence in the span   1 in the span   no
    extract       one track    a mix that holds the track      1               no
    lego          one track    music without the track         1 (or a span)   no
    complete      a mix        some of its tracks              1               no

The network learns the task from the instruction (`prompt.task_instruction`), the source and the
mask alone. Behind its end a source goes on as recorded silence that starts anew; where nothing is
to be seen, silence stands as if it had begun with the song. Both are the release's rules.

Arrays are NumPy, made on the host for one item at a time: training draws them in its worker
processes, generation builds them from a request, both through these functions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

TASKS = ("text2music", "cover", "repaint", "extract", "lego", "complete")
STEM_TASKS = ("extract", "lego", "complete")
"""Tasks on single tracks; training them takes songs whose tracks are known."""
SPAN_TASKS = ("repaint", "lego")
"""Tasks that may be confined to a span of frames."""


class Edit(NamedTuple):
    """The task's arrays for one item.

    Attributes:
      source_latents: [T, C] float32, what the model may see.
      edit_mask: [T] float32, 1 where it must generate.
      is_cover: [] bool, whether the source passes through the 5 Hz codes.
    """

    source_latents: np.ndarray
    edit_mask: np.ndarray
    is_cover: np.ndarray


def make_edit(
    task: str,
    num_frames: int,
    silence: np.ndarray,
    source: np.ndarray | None = None,
    span: tuple[int, int] | None = None,
    *,
    tell_span: bool = True,
) -> Edit:
    """Builds source, mask and cover flag of one item.

    Args:
      task: one of TASKS.
      num_frames: length of the item (T), padding included.
      silence: [S, C], recorded silence.
      source: [N <= T, C], the latents that the task starts from; filled up to T with silence. None
        for text2music, which sees nothing.
      span: frames [start, end) to generate; needed to repaint, possible for lego, whose source
        stays whole also within the span. The other tasks generate everywhere.
      tell_span: False sets the mask to 1 everywhere, as one of the release's modes does: the span
        then shows in the source alone.

    Raises:
      ValueError: for an unknown task, a source or a span that the task cannot have, or a span that
        is empty or reaches beyond the item.
    """
    _check(task, num_frames, source, span)
    mask = np.ones(num_frames, np.float32)
    if span is not None:
        mask[:] = 0
        mask[slice(*span)] = 1
    if source is None:
        seen = silence_frames(silence, num_frames)
    else:
        seen = fill_up(source, num_frames, silence)
    if task == "repaint":
        seen = np.where(mask[:, None] > 0, silence_frames(silence, num_frames), seen)
    if not tell_span:
        mask = np.ones(num_frames, np.float32)
    return Edit(seen, mask, np.array(task == "cover"))


def _check(
    task: str, num_frames: int, source: np.ndarray | None, span: tuple[int, int] | None
) -> None:
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; the model knows {', '.join(TASKS)}.")
    if (source is None) != (task == "text2music"):
        needs = "takes no source" if task == "text2music" else "needs source latents"
        raise ValueError(f"task {task!r} {needs}.")
    if span is None:
        if task == "repaint":
            raise ValueError("repainting needs a span of frames to generate.")
        return
    if task not in SPAN_TASKS:
        raise ValueError(f"task {task!r} generates every frame; leave the span {span} out.")
    start, end = span
    if not 0 <= start < end <= num_frames:
        raise ValueError(
            f"the span of frames {start} to {end} is empty or lies outside 0 to {num_frames}."
        )


def silence_frames(silence: np.ndarray, num_frames: int) -> np.ndarray:
    """Takes the first frames of recorded silence [num_frames, C], repeated where it is too short.

    Args:
      silence: [S, C].
      num_frames: any number; the released silence lasts ten minutes and never repeats.
    """
    repeats = -(-num_frames // len(silence))
    return np.tile(silence, (repeats, 1))[:num_frames].astype(np.float32)


def fill_up(latents: np.ndarray, num_frames: int, silence: np.ndarray) -> np.ndarray:
    """Appends silence, from its start, up to `num_frames`: [T, C] float32.

    Raises:
      ValueError: if there are more frames than that already.
    """
    missing = num_frames - len(latents)
    if missing < 0:
        raise ValueError(f"{len(latents)} frames do not fit into {num_frames}; cut them first.")
    latents = latents.astype(np.float32)
    return np.concatenate([latents, silence_frames(silence, missing)]) if missing else latents


def possible_tasks(stems: Sequence[str]) -> tuple[str, ...]:
    """Lists the tasks that a song with these known tracks can teach.

    Every song teaches the first three. One track is enough to extract it, and to complete the mix
    from it; lego needs a second, which the first is added to.
    """
    needed = {"extract": 1, "lego": 2, "complete": 1}
    return tuple(task for task in TASKS if len(stems) >= needed.get(task, 0))
