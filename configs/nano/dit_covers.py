"""Teaches the nano DiT all tasks again, and the codes of its finished tokenizer: the last run.

Method:   flow matching as in configs/nano/dit_tasks.py; sources of covers pass through the codes.
          Joint training (configs/nano/tokenizer.py) moves the hints under the DiT and is short: it
          left a DiT that did as well without hints as with them. Now the codes stand still. The
          text encoder does too. Two fifths of the prompts are bare and the levels weigh eight times
          the rest, so that the tempo stays that the DiT has just learned.
Command:  python -m train.dit --config configs/nano/dit_covers.py    (after dit_pulse.py)
Cost:     2,800 steps of 16 x 5.12 s in 35 minutes on two cores.
Expect:   what repeats at its own tempo grows from 0.15 to 0.16 (guidance 2.5, songs 0.38), librosa
          finds the tempo of 0.41 of the prompts and the key of 0.53. Held-out error 0.890 on covers
          and 0.906 on text2music, prompts bare or not; hints are worth that difference.
"""

from acestep_jax.training.config import Data, Model, Optimizer
from acestep_jax.training.recipes.dit import TrainDiT, toy_dit
from configs.nano import vae_levels

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
        num_steps=2800,
        model=Model(
            weights="runs/nano_pulse/export/model",
            text_weights="runs/nano_pulse/export/text_encoder",
            remat=True,  # as in configs/nano/dit_tasks.py
        ),
        trained=("^dit$", "^condition_encoder$", "^null_condition$"),
        covers=True,
        emphasis=(vae_levels.get_config().level_channels, 8.0),
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
            bare_share=0.4,
        ),
        log_every=20,
        save_every=200,
        eval_every=400,
        eval_tasks=("text2music", "cover"),
        eval_prompts=True,
    )
    return toy_dit(config) if quick else config
