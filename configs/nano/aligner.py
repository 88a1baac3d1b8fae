"""Teaches a copy of the nano DiT when words are sung: the first half of an aligner.

Method:   cross-attention of four heads pulled to the tokens that are sung (train/aligner.py); songs
          of ours, whose words have known times, begun anywhere, with up to three seconds of lyrics
          before and after the clip, so that the place in the sheet does not tell the time.
Command:  python -m train.aligner --config configs/nano/aligner.py
Cost:     45 minutes of one core beside a second run, 25 of two.
Expect:   attention is even over a few words for 200 steps and then comes to hear: held-out
          divergence 1.43 nats a patch after 300 steps, 1.37 after 500, 1.20 after 1,500 (in the
          run that ships, the first 500 had no margins and noise of 0.05 to 0.3). Its score does not
          tell lyrics apart yet: configs/nano/aligner_strangers.py.
"""

from acestep_jax.training.config import Data, Model, Optimizer
from acestep_jax.training.recipes.aligner import TrainAligner, toy_aligner


def get_config(quick: bool = False) -> TrainAligner:
    """Gives the run; `quick` takes two steps from random weights."""
    config = TrainAligner(
        name="nano_aligner",
        num_steps=1500,
        model=Model(weights="asset:nano/acestep-v15-nano", text_weights="asset:nano/text_encoder"),
        strangers=0.0,
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
