"""Trains the nano DiT with its condition encoder and its text encoder from nothing.

Method:   flow matching, times of the release, one condition in seven dropped (train/dit.py). No
          pretrained nano text encoder exists, so this run trains it jointly with the rest.
Command:  python -m train.dit --config configs/nano/dit.py
Cost:     measured hours and device, once run.      Expect:  held-out error, once run.
"""

import dataclasses

from acestep_jax.training.config import Data, Model, Optimizer, TrainDiT


def get_config(quick: bool = False) -> TrainDiT:
    """Gives the run; `quick` takes two steps."""
    config = TrainDiT(
        name="nano_dit",
        num_steps=1200,
        model=Model(preset="nano", text_preset="nano", vae_weights="asset:nano/vae"),
        trained=("^dit$", "^condition_encoder$", "^null_condition$", "^text_encoder$"),
        optimizer=Optimizer(
            peak_lr=1e-3, warmup_steps=60, schedule="cosine", final_lr_ratio=0.02, ema_decay=0.99
        ),
        data=Data(batch_size=16, num_frames=128),
        log_every=20,
        save_every=200,
        eval_every=300,
    )
    if not quick:
        return config
    return dataclasses.replace(
        config,
        num_steps=2,
        log_every=1,
        eval_batches=1,
        data=dataclasses.replace(config.data, batch_size=2),
    )
