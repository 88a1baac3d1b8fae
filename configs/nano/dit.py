"""Trains the nano DiT with its condition encoder from nothing.

Method:   flow matching, times of the release, one condition in seven dropped (train/dit.py). The
          text encoder can read already (configs/nano/text_encoder.py) and stands still. Trained
          jointly from random weights it never learned a tempo (BUILD_NOTES.md, section 9).
Command:  python -m train.dit --config configs/nano/dit.py
          (after `make data` and configs/nano/text_encoder.py)
Cost:     2,600 steps of 16 x 5.12 s in 47 minutes on about four fifths of two cores, when the text
          encoder was still trained with it.
Expect:   so trained, held-out error 1.72 / 1.31 / 1.23 after 300 / 1,200 / 2,400 steps (3.2 before
          training), on the latents of the first autoencoder.
"""

from acestep_jax.training.config import Data, Model, Optimizer
from acestep_jax.training.recipes.dit import TrainDiT, toy_dit


def get_config(quick: bool = False) -> TrainDiT:
    """Gives the run; `quick` takes two steps."""
    config = TrainDiT(
        name="nano_dit",
        num_steps=2600,
        model=Model(preset="nano", text_weights="runs/nano_text_encoder/export/text_encoder"),
        trained=("^dit$", "^condition_encoder$", "^null_condition$"),
        optimizer=Optimizer(
            name="muon",  # 100 of its steps do what 200 of AdamW's do; each costs a fifth more
            peak_lr=1e-3,
            muon_lr_ratio=20.0,
            warmup_steps=60,
            schedule="cosine",
            final_lr_ratio=0.02,
            ema_decay=0.99,
        ),
        data=Data(shards="data/shards/own,data/shards/real", batch_size=16, num_frames=128),
        log_every=20,
        save_every=200,
        eval_every=300,
    )
    return toy_dit(config) if quick else config
