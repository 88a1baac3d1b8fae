"""Trains a tokenizer for the released 2B base model, at full size: 64,000 codes at 5 Hz.

Method:   diffusion autoencoder with a reconstruction start (train/tokenizer.py), beside the DiT.
          Stages, rates and weights are ours: how the release's tokenizer was trained is unknown.
Command:  python -m train.tokenizer --config configs/base/tokenizer.py --set mesh.fsdp=16
Needs:    1.79 B trained parameters with optimizer and average, 16 bytes each, and 0.6 B frozen ones
          in 16 bits: 30 GB over the mesh, and activations.
Cost:     not run yet: no device of that size was at hand.     Expect:  not known yet.
"""

from acestep_jax.training.config import Data, Mesh, Model, Optimizer
from acestep_jax.training.recipes.tokenizer import COVERS, TrainTokenizer, toy_tokenizer


def get_config(quick: bool = False) -> TrainTokenizer:
    """Gives the run; `quick` puts the nano family with random weights in its place."""
    config = TrainTokenizer(
        name="base_tokenizer",
        num_steps=50_000,
        reconstruct_steps=5_000,
        settle_steps=10_000,
        mesh=Mesh(fsdp=-1),
        model=Model(
            preset="base",
            text_preset="qwen3_embedding_0p6b",
            weights="ACE-Step/acestep-v15-base",
            text_weights="ACE-Step/Ace-Step1.5/Qwen3-Embedding-0.6B",
            dtype="bfloat16",
            frozen_dtype="bfloat16",
            remat=True,
        ),
        codec=Optimizer(
            peak_lr=1e-4, warmup_steps=500, schedule="cosine", final_lr_ratio=0.1, ema_decay=0.999
        ),
        decoder=Optimizer(
            peak_lr=3e-5, warmup_steps=500, schedule="cosine", final_lr_ratio=0.1, ema_decay=0.999
        ),
        start_batches=8,
        data=Data(
            shards="data/shards/real",
            batch_size=128,
            num_frames=1500,
            text_tokens=256,
            lyric_tokens=1024,
            timbre_frames=750,
            num_workers=8,
            tasks=COVERS,
        ),
        save_every=1000,
        eval_every=5000,
        eval_batches=8,
    )
    return toy_tokenizer(config) if quick else config
