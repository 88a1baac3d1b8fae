"""Trains the nano tokenizer and detokenizer, and teaches the nano DiT to follow their hints.

Method:   diffusion autoencoder with a reconstruction start (train/tokenizer.py), 1,000 codes.
          The last of the runs that make the shipped model: the tasks it knows stay in the mixture,
          so that covers are learned beside them.
Command:  python -m train.tokenizer --config configs/nano/tokenizer.py    (after dit_tasks.py)
Cost:     8 minutes on most of two cores: 500 steps of reconstruction, 300 joint, 100 to settle.
Expect:   held-out velocity error 0.904 with true hints, 0.922 with shuffled ones, 0.903 without;
          codes explain 15 % of the latents, and 193 codes' worth of 1,000 are in use.
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
        num_steps=900,
        reconstruct_steps=500,
        settle_steps=100,
        model=Model(
            weights="runs/nano_dit_tasks/export/model",
            text_weights="runs/nano_dit_tasks/export/text_encoder",
        ),
        codec=Optimizer(
            # at 2e-3 all windows got one code within 40 steps
            peak_lr=5e-4,
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
