"""Trains the 2B DiT with its condition encoder from nothing, on all tasks but covers.

Method:   flow matching (train/dit.py) in the three stages that are reported of ACE-Step 1.5: text
          to music on everything (20 M tracks), then all tasks where stems are known (6 M), then
          the curated part (2 M). Neither optimizer nor batch, nor how long each stage took, is
          published: AdamW and its constants are those of ACE-Step v1, the rest is our choice.
Command:  python -m train.dit --config configs/base/dit.py --set mesh.fsdp=32
Needs:    2.1 B trained parameters with gradient, two moments and an average, 20 bytes each: 43 GB
          over the mesh, and the activations of four clips of a minute a device. The test suite
          traces step and evaluation at full size.
Cost:     not run here: no device of that size was at hand.     Expect:  not known yet.

Covers read their source through the 5 Hz codes, and the tokenizer is trained on top of a DiT
(train/tokenizer.py). With its weights the last stage is repeated, `covers=True`, and a share of
`("cover", 0.1)` in `tasks`.
"""

import dataclasses

from acestep_jax.training.config import Data, Mesh, Model, Optimizer
from acestep_jax.training.recipes.dit import DiTPhase, TrainDiT, toy_dit

ALL_TASKS = (
    ("text2music", 0.7),
    ("repaint", 0.1),
    ("extract", 0.05),
    ("lego", 0.1),
    ("complete", 0.05),
)


def get_config(quick: bool = False) -> TrainDiT:
    """Gives the run; `quick` puts toys in its place, but keeps the stages."""
    everything = Data(
        shards="data/shards/pretraining",
        # a quarter of a minute to four minutes; as many frames in every batch, more or less
        buckets=((375, 512, 512), (1500, 1024, 128), (3000, 1536, 64), (6000, 2048, 32)),
        batch_size=128,
        num_frames=1500,
        text_tokens=256,
        lyric_tokens=1024,
        timbre_frames=750,
        num_workers=8,
    )
    stems = dataclasses.replace(
        everything,
        shards="data/shards/pretraining,data/shards/stems",
        shard_weights=(0.3, 0.7),
        tasks=ALL_TASKS,
    )
    curated = dataclasses.replace(
        stems, shards="data/shards/curated,data/shards/stems", shard_weights=(0.8, 0.2)
    )
    config = TrainDiT(
        name="base_dit",
        num_steps=600_000,
        mesh=Mesh(fsdp=-1),
        model=Model(
            preset="base",
            text_preset="qwen3_embedding_0p6b",
            text_weights="ACE-Step/Ace-Step1.5/Qwen3-Embedding-0.6B",
            vae_weights="ACE-Step/Ace-Step1.5/vae",
            dtype="bfloat16",
            frozen_dtype="bfloat16",
            remat=True,
        ),
        straight_start=True,
        masked_loss=True,  # buckets pad: unmasked, long ones would teach silence
        optimizer=Optimizer(
            peak_lr=1e-4,
            warmup_steps=4000,
            schedule="linear",
            final_lr_ratio=0.1,
            b1=0.8,
            b2=0.9,
            weight_decay=1e-2,
            ema_decay=0.9999,
        ),
        data=everything,
        phases=(
            DiTPhase(num_steps=400_000),
            DiTPhase(num_steps=150_000, data=stems),
            DiTPhase(num_steps=50_000, data=curated),
        ),
        eval_every=5000,
        eval_batches=8,
        eval_prompts=True,
        eval_tasks=tuple(name for name, _ in ALL_TASKS),
        log_every=20,
        save_every=2000,
        keep_period=50_000,
    )
    return quick_form(config) if quick else config


def quick_form(config: TrainDiT) -> TrainDiT:
    """Shrinks the run to one step a stage, on songs made up on the spot."""
    toy = toy_dit(config)
    edits = dataclasses.replace(toy.data, tasks=(("text2music", 0.5), ("repaint", 0.5)))
    stages = (None, edits, edits)
    return dataclasses.replace(
        toy,
        num_steps=len(stages),
        phases=tuple(DiTPhase(num_steps=1, data=data) for data in stages),
        eval_tasks=("text2music", "repaint"),
    )
