"""Tunes the shipped nano student to sing its lyrics in order, by the attention of an aligner.

Method:   negative-aware fine-tuning on songs of its own, the attention alignment score as reward
          (train/grpo_dit.py). No head of nano itself hears words in time; who listens is a copy
          whose heads were taught (configs/nano/aligner.py) and which stays as it is.
          `--set algorithm=flow_grpo --set kl_weight=0.02` takes policy gradients.
Command:  python -m train.grpo_dit --config configs/nano/grpo_dit.py
Cost:     23 minutes of one core beside a second run.
Expect:   on 32 held-out prompts the aligner's score from 0.386 to 0.423, a gain of 0.038
          (0.019-0.058, one seed), most of it confidence; the policy's own reading hardly moves.
          Still rising, and not above the best of two songs yet (experiments/README.md).
"""

from acestep_jax.training.config import Data, Model, Optimizer
from acestep_jax.training.recipes.grpo_dit import AasReward, GrpoDiT, toy_grpo_dit


def get_config(quick: bool = False) -> GrpoDiT:
    """Gives the run; `quick` shrinks everything and takes two steps."""
    config = GrpoDiT(
        name="nano_grpo_dit",
        num_steps=60,
        model=Model(
            weights="asset:nano/acestep-v15-nano-turbo",
            text_weights="asset:nano/text_encoder",
            vae_weights="asset:nano/vae",
        ),
        policy=Optimizer(peak_lr=1e-4, warmup_steps=5, b2=0.99, weight_decay=0.0, ema_decay=0.9),
        algorithm="nft",
        reward=AasReward(aligner="asset:nano/aligners/1", draws=2),
        group=8,
        kl_weight=1e-3,
        updates=2,
        data=Data(
            shards="data/shards/own",
            batch_size=8,
            num_frames=128,
            start_at="chords",
            timbre_share=0.0,
        ),
        log_every=2,
        save_every=20,
        eval_every=20,
    )
    return toy_grpo_dit(config) if quick else config
