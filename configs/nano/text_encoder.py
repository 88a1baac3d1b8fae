"""Teaches the nano text encoder to read prompts, before any DiT is trained with it.

Method:   from the state of a prompt's last token: tempo, key, metre and words
          (train/text_encoder.py).
Command:  python -m train.text_encoder --config configs/nano/text_encoder.py
Cost:     3,000 steps of 32 prompts in 10 minutes on about two thirds of two cores. The shipped one
          was made in two stretches of 1,500, each with its own cosine, from weights that had been
          trained jointly with a DiT; from random weights this run has not been made.
Expect:   right on captions of held-out songs: tempo (within 2 %) 0.80 after the first stretch and
          1.00 after the second, key 1.00, metre 0.99 and 1.00.
"""

from acestep_jax.training.config import Data, Optimizer
from acestep_jax.training.recipes.text_encoder import Facts, TrainTextEncoder, toy_text_encoder


def get_config(quick: bool = False) -> TrainTextEncoder:
    """Gives the run; `quick` takes two steps from random weights."""
    config = TrainTextEncoder(
        name="nano_text_encoder",
        num_steps=3000,
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
