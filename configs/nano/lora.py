"""Teaches the shipped nano model a style from a handful of songs, by low-rank adapters.

Method:   train/lora.py: rank 8, alpha 16, dropout 0.1 in the attention of every layer, as the
          release does; flow matching with the times of the base, one condition in seven dropped.
Data:     your songs: python -m acestep_jax.data.prepare --source my_songs --out data/shards/style
Command:  python -m train.lora --config configs/nano/lora.py
Cost:     0.55 s of processor time a step of 8 + 4 clips, and half a minute to compile.
Expect:   in 80 steps the error on other songs of a style falls by 4 % (telephone) to 6 % (tremolo),
          that of other music rises by 0.2 to 0.4 % (experiments/README.md, three seeds).
"""

from acestep_jax.training.config import Data, Model, Optimizer
from acestep_jax.training.recipes.lora import TrainLoRA, toy_adapters


def get_config(quick: bool = False) -> TrainLoRA:
    """Gives the run; `quick` takes two steps of random networks."""
    config = TrainLoRA(
        name="nano_lora",
        num_steps=120,
        model=Model(
            weights="asset:nano/acestep-v15-nano",
            text_weights="asset:nano/text_encoder",
            vae_weights="asset:nano/vae",
        ),
        optimizer=Optimizer(
            peak_lr=1e-3, warmup_steps=12, schedule="cosine", final_lr_ratio=0.01, b2=0.999
        ),
        data=Data(shards="data/shards/style", batch_size=8, num_frames=128),
        prior="+",  # the songs that ship with the package
        prior_weight=4.0,  # with 2, the error of other songs rose by 0.9 %
        log_every=10,
        save_every=40,
    )
    return toy_adapters(config) if quick else config
