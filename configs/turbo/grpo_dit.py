"""Tunes the released 2B turbo model to sing its lyrics in order: what a "turbo-rl" would be.

Method:   negative-aware fine-tuning (train/grpo_dit.py, arXiv:2509.16117) of adapters on songs of
          eight steps, the attention alignment score of the frozen turbo model as reward, read from
          the seven heads of the release. The release names method and reward; group size, rates and
          weights are those of the method's paper. `algorithm=flow_grpo` with `kl_weight=0.02` takes
          policy gradients on two drawn steps instead.
Command:  python -m train.grpo_dit --config configs/turbo/grpo_dit.py
Before:   add --dry_run --devices 8 for memory, operations and bytes of every step.
Needs:    33 GiB on each of 8 devices for the update, 1.1 of them to stay, by XLA's analysis on a
          processor, which widens 16 bits; 24 GiB are received. No autoencoder: the reward is read
          from latents.
Cost:     not run here: no device of that size was at hand.     Expect:  not known yet.
"""

from acestep_jax.nn.lora import LoRA
from acestep_jax.tasks.alignment import RELEASED_HEADS
from acestep_jax.training.config import Data, Mesh, Model, Optimizer
from acestep_jax.training.recipes.grpo_dit import AasReward, GrpoDiT, Nft, toy_grpo_dit


def get_config(quick: bool = False) -> GrpoDiT:
    """Gives the run; `quick` puts toys in its place, but keeps the adapters."""
    config = GrpoDiT(
        name="turbo_grpo_dit",
        num_steps=1500,
        mesh=Mesh(fsdp=-1),
        model=Model(
            preset="turbo",
            text_preset="qwen3_embedding_0p6b",
            weights="ACE-Step/acestep-v15-turbo",
            text_weights="ACE-Step/Ace-Step1.5/Qwen3-Embedding-0.6B",
            dtype="bfloat16",
            frozen_dtype="bfloat16",
            remat=True,
        ),
        form="lora",
        adapter=LoRA(rank=32, alpha=64.0, dropout=0.0),
        policy=Optimizer(peak_lr=3e-4, b2=0.999, weight_decay=1e-4, ema_decay=0.9),
        algorithm="nft",
        nft=Nft(beta=1.0, time_law="turbo"),
        reward=AasReward(heads=RELEASED_HEADS, draws=2),
        group=16,
        rollout_steps=8,
        rollout_shift=3.0,
        kl_weight=1e-4,
        updates=2,
        data=Data(
            shards="data/shards/songs",
            batch_size=16,
            num_frames=1500,
            text_tokens=256,
            lyric_tokens=1024,
            timbre_frames=750,
            num_workers=8,
        ),
        log_every=5,
        save_every=50,
        eval_every=100,
    )
    return toy_grpo_dit(config) if quick else config
