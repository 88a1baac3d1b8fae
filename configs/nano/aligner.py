"""Teaches a copy of the nano DiT when words are sung: a listener for the alignment score.

Method:   cross-attention of four heads pulled to the tokens that are sung (train/aligner.py); songs
          of ours, whose words have known times, begun anywhere.
Command:  python -m train.aligner --config configs/nano/aligner.py
Cost:
Expect:
"""

from acestep_jax.training.config import Data, Model, Optimizer
from acestep_jax.training.recipes.aligner import TrainAligner, toy_aligner


def get_config(quick: bool = False) -> TrainAligner:
    """Gives the run; `quick` takes two steps from random weights."""
    config = TrainAligner(
        name="nano_aligner",
        num_steps=2200,
        model=Model(weights="asset:nano/acestep-v15-nano", text_weights="asset:nano/text_encoder"),
        levels=(0.02, 0.16),
        optimizer=Optimizer(
            name="muon",
            peak_lr=1e-3,
            muon_lr_ratio=20.0,
            warmup_steps=50,
            schedule="cosine",
            final_lr_ratio=0.02,
            ema_decay=0.99,
        ),
        data=Data(
            shards="data/shards/own",
            batch_size=16,
            num_frames=128,
            timbre_share=0.0,
            word_times=True,
            lyric_margin=3.0,
        ),
        log_every=25,
        save_every=250,
        eval_every=250,
        eval_batches=8,
    )
    return toy_aligner(config) if quick else config
