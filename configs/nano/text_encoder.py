"""Teaches the nano text encoder to read prompts, before any DiT is trained with it.

Method:   behind a line of a prompt, every token tells tempo, key or metre by its direction, and the
          last one the words (train/text_encoder.py).
Command:  python -m train.text_encoder --config configs/nano/text_encoder.py
Cost:     8,000 steps of 32 prompts in 25 minutes on two quiet cores.
Expect:   after 3,000 steps of simpler forms and 1,500 of this one, at the last token of held-out
          captions: key and metre always right, tempo within 2 % in 0.48; 4,000 steps more: 0.97,
          which is the shipped one. A DiT begins to listen within 400 steps (BUILD_NOTES.md,
          section 9). From random weights in one run it has not been made.
"""

from acestep_jax.training.config import Data, Optimizer
from acestep_jax.training.recipes.text_encoder import Facts, TrainTextEncoder, toy_text_encoder


def get_config(quick: bool = False) -> TrainTextEncoder:
    """Gives the run; `quick` takes two steps from random weights."""
    config = TrainTextEncoder(
        name="nano_text_encoder",
        num_steps=8000,
        facts=Facts(length=96),  # as training of the DiT reads
        word_weight=0.1,
        optimizer=Optimizer(
            peak_lr=2e-3,
            warmup_steps=100,
            schedule="cosine",
            final_lr_ratio=0.02,
            weight_decay=0.01,
            b2=0.99,
            ema_decay=0.99,
        ),
        data=Data(shards="data/shards/own,data/shards/real", batch_size=32),
        log_every=20,
        save_every=500,
        eval_every=250,
    )
    return toy_text_encoder(config) if quick else config
