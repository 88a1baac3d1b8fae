"""Trains the nano tokenizer and detokenizer, and teaches the nano DiT to follow their hints.

Method:   diffusion autoencoder with a reconstruction start (train/tokenizer.py), 1,000 codes that
          tell levels of the first 48 channels, and so notes. The last of the runs that make the
          shipped model: the tasks it knows stay in the mixture, so covers are learned beside them.
Command:  python -m train.tokenizer --config configs/nano/tokenizer.py    (after dit_tasks.py)
Cost:     about 10 minutes on two cores: 1,500 steps of reconstruction, 300 joint, 100 to settle.
          The shipped codec was made beside the finished DiT in two runs: the 1,500 steps in 4:43,
          then, with trained=(), 400 joint ones whose lambda began at 0.5. This form of it, with a
          DiT that learns, has not been run.
Expect:   of the two runs, on songs of ours: held-out velocity error 0.806 with true hints, 0.831
          with shuffled ones, 0.810 without; 428 codes' worth of 1,000 in use. Counted codes tell
          the key of 0.3 of 64 held-out songs (chance 0.04; of none without level_weight).
"""

from acestep_jax.training.config import Data, Model, Optimizer
from acestep_jax.training.recipes.tokenizer import TrainTokenizer, toy_tokenizer

TASKS = (
    ("text2music", 0.4),
    ("cover", 0.36),
    ("repaint", 0.08),
    ("extract", 0.06),
    ("lego", 0.03),
    ("complete", 0.07),
)


def get_config(quick: bool = False) -> TrainTokenizer:
    """Gives the run; `quick` takes six steps."""
    config = TrainTokenizer(
        name="nano_tokenizer",
        num_steps=1900,
        reconstruct_steps=1500,
        settle_steps=100,
        # the last 16 channels tell levels already; the others change their sign with every frame
        level_weight=10.0,
        level_channels=48,
        model=Model(
            weights="runs/nano_dit_tasks/export/model",
            text_weights="runs/nano_dit_tasks/export/text_encoder",
        ),
        codec=Optimizer(
            # at 2e-3 all windows got one code within 40 steps
            peak_lr=1e-3,
            warmup_steps=20,
            schedule="cosine",
            final_lr_ratio=0.1,
            ema_decay=0.98,
        ),
        decoder=Optimizer(
            peak_lr=5e-4, warmup_steps=20, schedule="cosine", final_lr_ratio=0.05, ema_decay=0.98
        ),
        data=Data(
            shards="data/shards/own,data/shards/real",
            batch_size=16,
            num_frames=128,
            tasks=TASKS,
            start_at="chords",
        ),
        log_every=20,
        save_every=100,
    )
    return toy_tokenizer(config) if quick else config
