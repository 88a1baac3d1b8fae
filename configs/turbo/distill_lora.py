"""Distils the released 2B fine-tuned model into an adapter that makes it an 8-step generator.

Method:   as configs/turbo/distill.py, in the form that fits on few devices: one frozen base, and
          adapters of rank 64 each for student and fake score; without them the base is the teacher.
          Rate, rank and warm-up follow DMD2's LoRA runs (arXiv:2405.14867: 5e-5, rank 64); the fake
          score's rank and rate are larger, as it has to follow. The student is exported merged, and
          as an adapter in the naming of PEFT, of the release and of diffusers.
Command:  python -m train.distill --config configs/turbo/distill_lora.py
Before:   add --dry_run --topology h100:8 for memory, operations and bytes of every step: on eight
          of them at most 5.6 GiB each, of which 3.8 stay (BUILD_NOTES.md, section 14).
Cost:     not run yet: no device of that size was at hand.     Expect:  not known yet.
"""

import dataclasses

from acestep_jax.nn.lora import LoRA
from acestep_jax.training.config import Data, Mesh, Model, Optimizer
from acestep_jax.training.recipes.distill import Distill, Evaluation, Gan, Warmup, toy_distillation

ATTENTION_AND_MLP = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def get_config(quick: bool = False) -> Distill:
    """Gives the run; `quick` puts the nano family with random weights in its place."""
    student = Optimizer(peak_lr=5e-5, warmup_steps=200, b2=0.999, weight_decay=0.0, ema_decay=0.999)
    adapter = LoRA(rank=64, alpha=64.0, dropout=0.0, targets=ATTENTION_AND_MLP)
    config = Distill(
        name="turbo_distill_lora",
        num_steps=16_000,
        mesh=Mesh(fsdp=-1),
        model=Model(
            preset="sft",
            text_preset="qwen3_embedding_0p6b",
            weights="ACE-Step/acestep-v15-sft",
            text_weights="ACE-Step/Ace-Step1.5/Qwen3-Embedding-0.6B",
            vae_weights="ACE-Step/Ace-Step1.5/vae",
            dtype="bfloat16",
            frozen_dtype="bfloat16",
            remat=True,
            export_layouts=("official", "diffusers"),
        ),
        form="lora",
        adapter=adapter,
        fake_adapter=dataclasses.replace(adapter, rank=128, alpha=128.0),
        student=student,
        fake=dataclasses.replace(student, peak_lr=1e-4, ema_decay=0.0),
        discriminator=Optimizer(peak_lr=1e-5, b1=0.0, b2=0.99, weight_decay=0.0),
        critic_steps=5,
        guidance_scale=4.0,
        step_law="4-8",
        gan=Gan(weight=1e-2, widths=(256, 512, 768), blocks=3),
        warmup=Warmup(
            steps=500,
            updates=2,
            teacher_steps=50,
            student=dataclasses.replace(student, peak_lr=1e-4, warmup_steps=100, ema_decay=0.0),
            critic_steps=50,
        ),
        evaluation=Evaluation(num_items=64, num_players=8),
        data=Data(
            shards="data/shards/real",
            batch_size=32,
            num_frames=1500,
            text_tokens=256,
            lyric_tokens=1024,
            timbre_frames=750,
            num_workers=8,
        ),
        log_every=10,
        save_every=500,
    )
    return toy_distillation(config) if quick else config
