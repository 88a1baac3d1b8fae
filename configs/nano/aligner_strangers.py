"""Teaches an aligner not to look at lyrics that are not sung: the second half.

Method:   as configs/nano/aligner.py, and three songs of ten are given a neighbour's lyrics, at
          which nobody should look. From the start this would teach to look at no lyrics at all.
Command:  python -m train.aligner --config configs/nano/aligner_strangers.py
Before:   configs/nano/aligner.py.
Cost:     12 minutes of two cores.
Expect:   experiments.alignment.truth, 72 held-out clips: the area of own lyrics against others'
          from 0.48 (0.40-0.56) to 0.65 (0.58-0.73). Shipped in assets/nano/aligners.
"""

import dataclasses

from acestep_jax.training.config import Model
from acestep_jax.training.recipes.aligner import TrainAligner, toy_aligner
from configs.nano import aligner


def get_config(quick: bool = False) -> TrainAligner:
    """Gives the run; `quick` takes two steps from random weights."""
    first = aligner.get_config()
    config = dataclasses.replace(
        first,
        name="nano_aligner_strangers",
        num_steps=700,
        model=Model(
            weights="runs/nano_aligner/export/model", text_weights="asset:nano/text_encoder"
        ),
        strangers=0.3,
        # where the rate of the first half would be, had it not fallen yet
        optimizer=dataclasses.replace(first.optimizer, peak_lr=2.5e-4, warmup_steps=20),
    )
    return toy_aligner(config) if quick else config
