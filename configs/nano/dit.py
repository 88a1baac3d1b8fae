"""Trains the nano DiT with its condition encoder and its text encoder from nothing.

Method:   flow matching, times of the release, one condition in seven dropped (train/dit.py). No
          pretrained nano text encoder exists, so this run trains it jointly with the rest.
Command:  python -m train.dit --config configs/nano/dit.py        (after `make data`)
Cost:     0.66 s a step at best on two cores. The shipped weights took 40 minutes on busy ones, by
          another route than this file, which was not yet run whole: 1,200 steps on 100 own songs
          and 79 recordings, then 1,163 on 240 own songs and the same, `--resume changed`.
Expect:   held-out error 1.156 after 2,100 steps (3.2 before training; 1.6 after 1,200).
"""

import dataclasses

from acestep_jax.training.config import Data, Model, Optimizer
from acestep_jax.training.recipes.dit import TrainDiT


def get_config(quick: bool = False) -> TrainDiT:
    """Gives the run; `quick` takes two steps."""
    config = TrainDiT(
        name="nano_dit",
        num_steps=2600,
        model=Model(preset="nano", text_preset="nano"),
        trained=("^dit$", "^condition_encoder$", "^null_condition$", "^text_encoder$"),
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
    if not quick:
        return config
    return dataclasses.replace(
        config,
        num_steps=2,
        log_every=1,
        eval_batches=1,
        data=Data(shards="synthetic", batch_size=2, num_frames=16, timbre_frames=16),
    )
