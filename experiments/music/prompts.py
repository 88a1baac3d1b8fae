"""Held-out prompts with their songs: tunes that no training song has.

Songs are drawn by number as for training (`acestep_jax.data.songs`), and those are kept whose tune
belongs to the validation or test split. They are rendered, so that every prompt has a real song
beside it, whose tempo and key are known exactly.
"""

import dataclasses
import pathlib

import numpy as np

from acestep_jax.data import audio as audio_lib
from acestep_jax.data import labels as labels_lib
from acestep_jax.data import transforms
from acestep_jax.data.batch import Batch, stack_examples
from acestep_jax.data.songs import render
from acestep_jax.data.songs import write as songs
from acestep_jax.tasks import prompt
from acestep_jax.units import SAMPLE_RATE, SAMPLES_PER_FRAME

START_SECONDS = 5.0
"""Where clips are cut from the songs: introductions often lack drums or melody."""
MAX_SECONDS = 60.0  # as training songs


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt and the song it describes.

    Attributes:
      labels: what the song is.
      clip: [W, 2], a stretch of it.
      caption, lyrics: what the model is told besides tempo, key and metre.
    """

    labels: labels_lib.SongLabels
    clip: np.ndarray
    caption: str
    lyrics: str


def held_out_seeds(count: int, first: int = 240) -> list[int]:
    """Finds songs of held-out tunes by number, from `first` on: 240 are rendered for training."""
    found: list[int] = []
    seed = first
    while len(found) < count:
        if is_held_out(seed):
            found.append(seed)
        seed += 1
    return found


def is_held_out(seed: int) -> bool:
    """Tells whether the song of a seed has a tune outside the train split, before rendering it."""
    for attempt in range(50):  # as `render.render_song` draws
        score, _ = render.draw_score(seed, np.random.default_rng([seed, attempt]))
        if score.seconds <= MAX_SECONDS:
            return labels_lib.split_of(render.melody_group(score.tune)) != "train"
    return False


def make_prompts(folder: pathlib.Path, count: int, seconds: float) -> list[Prompt]:
    """Renders the songs that are not in `folder` yet, and cuts a clip from each."""
    return [make_prompt(folder, seed, seconds) for seed in held_out_seeds(count)]


def make_prompt(folder: pathlib.Path, seed: int, seconds: float) -> Prompt:
    """Makes the prompt of one song."""
    songs.write_song(folder, seed, with_stems=False)
    path = folder / f"own-{seed:06d}.json"
    labels = labels_lib.load_labels(path)
    samples = audio_lib.read_audio(path.with_suffix(".flac"), min_seconds=seconds)
    length = round(seconds * SAMPLE_RATE)
    start = min(START_SECONDS, (len(samples) - length) / SAMPLE_RATE)
    first = int(start * SAMPLE_RATE)
    lyrics = transforms.clip_lyrics(labels, start, start + seconds)
    return Prompt(labels, samples[first : first + length], labels.captions[0], lyrics)


def caption_prompt(item: Prompt, seconds: float) -> str:
    """Writes the caption prompt, with tempo, key and metre."""
    return prompt.caption_prompt(
        item.caption,
        bpm=item.labels.bpm,
        keyscale=item.labels.keyscale,
        timesignature=item.labels.timesignature,
        duration=seconds,
    )


def make_batch(
    items: list[Prompt],
    tokenizer: str,
    silence: np.ndarray,
    *,
    seconds: float,
    text_tokens: int = 96,
    lyric_tokens: int = 64,
    timbre_frames: int = 128,
) -> Batch:
    """Turns prompts into a text2music batch without references.

    Args:
      items: the prompts.
      tokenizer: folder of the text encoder's.
      silence: [S, C], encoded silence.
      seconds: how long the songs shall be.
      text_tokens, lyric_tokens, timbre_frames: lengths that the model was trained with.
    """
    reader = transforms.load_tokenizer(tokenizer)
    frames = round(seconds * SAMPLE_RATE / SAMPLES_PER_FRAME)
    quiet = transforms.silence_frames(silence, max(frames, timbre_frames))
    rows = []
    for item in items:
        caption = transforms.tokenize(reader, caption_prompt(item, seconds), text_tokens)
        sheet = prompt.lyric_prompt(item.lyrics, item.labels.language)
        lyrics = transforms.tokenize(reader, sheet, lyric_tokens)
        rows.append(
            {
                "latents": np.zeros_like(quiet[:frames]),
                "frame_mask": np.ones(frames, bool),
                "source_latents": quiet[:frames],
                "edit_mask": np.ones(frames, np.float32),
                "text_tokens": caption[0],
                "text_mask": caption[1],
                "lyric_tokens": lyrics[0],
                "lyric_mask": lyrics[1],
                "timbre_latents": quiet[:timbre_frames],
                "is_cover": np.zeros((), bool),
            }
        )
    return stack_examples(rows)
