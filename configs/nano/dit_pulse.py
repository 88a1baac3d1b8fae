"""Teaches the nano DiT to keep the time that its prompt names.

Method:   flow matching of the DiT alone, from prompts of tempo, key and metre without a word: in a
          small collection caption and lyrics name the song, and its tempo is then known by heart.
          The channels that tell levels, in which beats show, carry nearly all of the loss: a wrong
          tempo raises their error by a hundredth or two, which drowns among all 64.
Command:  python -m train.dit --config configs/nano/dit_pulse.py    (after tokenizer.py)
Cost:     4,000 steps of 32 x 5.12 s in some 55 minutes on two quiet cores.
Expect:   a wrong tempo raises the error of the levels at t = 0.7 by 0.011 / 0.028 / 0.048 after
          1,000 / 2,000 / 4,000 steps, and what is generated repeats at its own tempo: 0.02 / 0.13 /
          0.15 in autocorrelation, where songs have 0.38 (BUILD_NOTES.md, section 9). The shipped
          weights had 5,000 steps of dit_covers.py and of a first attempt at this before it.
"""

from acestep_jax.training.config import Data, Model, Optimizer
from acestep_jax.training.recipes.dit import TrainDiT, toy_dit
from configs.nano import vae_levels


def get_config(quick: bool = False) -> TrainDiT:
    """Gives the run; `quick` takes two steps from random weights."""
    config = TrainDiT(
        name="nano_dit_pulse",
        num_steps=4000,
        model=Model(
            weights="runs/nano_tokenizer/export/model",
            text_weights="runs/nano_tokenizer/export/text_encoder",
            remat=True,  # as in configs/nano/dit_tasks.py
        ),
        trained=("^dit$",),
        emphasis=(vae_levels.get_config().level_channels, 50.0),
        condition_dropout=0.05,
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
            shards="data/shards/own",
            batch_size=32,
            num_frames=128,
            start_at="chords",
            bare_share=1.0,
            metadata_dropout=0.02,
            # no room for words that are not there
            text_tokens=72,
            lyric_tokens=16,
            timbre_frames=16,
        ),
        log_every=20,
        save_every=250,
        eval_every=2000,
    )
    return toy_dit(config) if quick else config
