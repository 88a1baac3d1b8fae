"""Teaches the nano DiT the tasks beside text2music, and music that begins on a beat.

Method:   flow matching as in configs/nano/dit.py, from that run's weights; a third of the examples
          are repaints and stem tasks. Clips begin with a chord where chords are known: then their
          beats fall where the tempo says.
Command:  python -m train.dit --config configs/nano/dit_tasks.py    (after configs/nano/dit.py)
Cost:     3,200 steps of 16 x 5.12 s in 40 minutes on four fifths of two cores.
Expect:   held-out error 0.899 / 0.861 / 0.845 after 800 / 1,600 / 2,400 steps, of songs with other
          prompts 0.951, from weights that 5,800 steps on another autoencoder's latents had left.
          Those figures are of a run that trained the text encoder with it, which never told one
          tempo from another (BUILD_NOTES.md, section 9).
"""

from acestep_jax.training.config import Data, Model, Optimizer
from acestep_jax.training.recipes.dit import TrainDiT, toy_dit

TASKS = (
    ("text2music", 0.62),
    ("repaint", 0.1),
    ("extract", 0.1),
    ("lego", 0.06),
    ("complete", 0.12),
)
"""Covers come after this run, with codes to read: configs/nano/tokenizer.py."""


def get_config(quick: bool = False) -> TrainDiT:
    """Gives the run; `quick` takes two steps from random weights."""
    config = TrainDiT(
        name="nano_dit_tasks",
        num_steps=3200,
        model=Model(
            weights="runs/nano_dit/export/model",
            text_weights="runs/nano_dit/export/text_encoder",
            remat=True,  # on a processor, computing activations again beats storing them by 7 %
        ),
        trained=("^dit$", "^condition_encoder$", "^null_condition$"),
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
        eval_prompts=True,
    )
    return toy_dit(config) if quick else config
