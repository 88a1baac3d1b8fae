"""Batches for the networks of `tests/tiny.py`, and a distillation of a few iterations."""

import dataclasses

import numpy as np

from acestep_jax.data.batch import Batch
from acestep_jax.training.config import Data, Optimizer
from acestep_jax.training.recipes.distill import Distill, Evaluation, Gan, Warmup

OPTIMIZER = Optimizer(peak_lr=1e-2, b2=0.99)
DISTILL = Distill(
    name="toy",
    num_steps=4,
    student=dataclasses.replace(OPTIMIZER, ema_decay=0.9),
    fake=OPTIMIZER,
    discriminator=dataclasses.replace(OPTIMIZER, b1=0.0),
    critic_steps=2,
    step_law="2-3",
    gan=Gan(widths=(8, 8), blocks=1, layer_scale=0.1),
    warmup=Warmup(steps=1, updates=2, teacher_steps=2, student=OPTIMIZER, critic_steps=1),
    evaluation=Evaluation(num_items=2, teacher_steps=2, student_steps=(2,), num_players=1),
    data=Data(batch_size=8, num_frames=8),
)


def batch(size=8, frames=8, seed=0):
    rng = np.random.default_rng(seed)

    def floats(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    def tokens(length):
        return rng.integers(0, 40, (size, length)).astype(np.int32)

    def masks(length):
        return np.arange(length)[None] < rng.integers(2, length + 1, (size, 1))

    return Batch(
        latents=floats(size, frames, 4),
        frame_mask=np.arange(frames)[None] < rng.integers(frames // 2, frames + 1, (size, 1)),
        source_latents=floats(size, frames, 4),
        edit_mask=np.ones((size, frames), np.float32),
        text_tokens=tokens(5),
        text_mask=masks(5),
        lyric_tokens=tokens(6),
        lyric_mask=masks(6),
        timbre_latents=floats(size, 6, 4),
        is_cover=np.zeros(size, bool),
    )
