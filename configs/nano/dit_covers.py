"""Teaches the nano DiT to follow the codes of its finished tokenizer: the last run of the family.

Method:   flow matching as in configs/nano/dit_tasks.py; sources of covers pass through the codes.
          Joint training (configs/nano/tokenizer.py) moves the hints under the DiT and is short: it
          left a DiT that did as well without hints as with them. Now the codes stand still. The
          text encoder does too: it has learned what captions say.
Command:  python -m train.dit --config configs/nano/dit_covers.py    (after tokenizer.py)
Cost:     3,000 steps of 16 x 5.12 s in 35 minutes on two cores.
Expect:   made twice. With the joint text encoder (2,400 steps, less text2music) the held-out error
          of covers was 0.907 before and 0.876 after (text2music 0.906 and 0.895): hints are worth
          0.019 where they were worth nothing, onsets of a cover fit its source's twice as well, at
          0.09. From there with a text encoder that can read: 0.874 and 0.892, and no beat yet
          (BUILD_NOTES.md, section 9). The shipped weights lack both.
"""

from acestep_jax.training.config import Data, Model, Optimizer
from acestep_jax.training.recipes.dit import TrainDiT, toy_dit

TASKS = (
    ("text2music", 0.5),
    ("cover", 0.24),
    ("repaint", 0.08),
    ("extract", 0.08),
    ("lego", 0.04),
    ("complete", 0.06),
)


def get_config(quick: bool = False) -> TrainDiT:
    """Gives the run; `quick` takes two steps from random weights."""
    config = TrainDiT(
        name="nano_dit_covers",
        num_steps=3000,
        model=Model(
            weights="runs/nano_tokenizer/export/model",
            text_weights="runs/nano_tokenizer/export/text_encoder",
            remat=True,  # as in configs/nano/dit_tasks.py
        ),
        trained=("^dit$", "^condition_encoder$", "^null_condition$"),
        covers=True,
        optimizer=Optimizer(
            name="muon",
            peak_lr=1e-3,
            muon_lr_ratio=20.0,
            warmup_steps=100,
            schedule="cosine",
            final_lr_ratio=0.02,
            ema_decay=0.995,
        ),
        data=Data(
            shards="data/shards/own,data/shards/real",
            batch_size=16,
            num_frames=128,
            tasks=TASKS,
            start_at="chords",
        ),
        log_every=20,
        save_every=200,
        eval_every=400,
        eval_tasks=("text2music", "cover"),
        eval_prompts=True,
    )
    return toy_dit(config) if quick else config
