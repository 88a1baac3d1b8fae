"""Tunes the shipped nano DiT to sing its lyrics in order, by the attention of its frozen start.

Method:   negative-aware fine-tuning on songs of its own, the attention alignment score as reward
          (train/grpo_dit.py). `--set algorithm=flow_grpo kl_weight=0.02` takes policy gradients.
Command:  python -m train.grpo_dit --config configs/nano/grpo_dit.py
Before:   heads that hear lyrics must be known of the weights: alignment_heads.json beside them.
Cost:     not measured yet.     Expect:  not known yet.
"""

from acestep_jax.training.config import Data, Model, Optimizer
from acestep_jax.training.recipes.grpo_dit import AasReward, GrpoDiT, toy_grpo_dit


def get_config(quick: bool = False) -> GrpoDiT:
    """Gives the run; `quick` shrinks everything and takes two steps."""
    config = GrpoDiT(
        name="nano_grpo_dit",
        num_steps=120,
        model=Model(
            weights="asset:nano/acestep-v15-nano",
            text_weights="asset:nano/text_encoder",
            vae_weights="asset:nano/vae",
        ),
        policy=Optimizer(peak_lr=3e-5, warmup_steps=5, b2=0.99, weight_decay=0.0, ema_decay=0.9),
        algorithm="nft",
        reward=AasReward(draws=2),
        group=8,
        guidance_scale=2.0,
        kl_weight=1e-3,
        updates=2,
        data=Data(shards="data/shards/own", batch_size=8, num_frames=128, start_at="chords"),
        log_every=2,
        save_every=20,
        eval_every=20,
    )
    return toy_grpo_dit(config) if quick else config
