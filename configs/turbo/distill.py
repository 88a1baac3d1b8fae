"""Distils the released 2B fine-tuned model into an 8-step generator: the complete recipe.

Method:   adversarial dynamic-shift distillation (train/distill.py): regression warm-up, critics
          alone, then decoupled distribution matching, guidance, and a discriminator of latents.
          Learning rates and ratios follow DMD2 (arXiv:2405.14867, SDXL) and are not published for
          this model; guidance 4 where the release samples with 7, as plain guidance at 7 saturates.
Command:  python -m train.distill --config configs/turbo/distill.py --set mesh.fsdp=64
Before:   add --dry_run --topology h100:8 for memory, operations and bytes of every step.
Needs:    student and fake score with optimizer 16 bytes a parameter each, teacher 2: 54 GB over the
          mesh, and activations: 12.0 GiB a device on eight H100, by XLA's compiler for them
          (BUILD_NOTES.md, section 14). The test suite traces every step at full size.
Cost:     not run yet: no device of that size was at hand.     Expect:  not known yet.
"""

from acestep_jax.training.config import Data, Mesh, Model, Optimizer
from acestep_jax.training.recipes.distill import Distill, Evaluation, Gan, Warmup, toy_distillation


def get_config(quick: bool = False) -> Distill:
    """Gives the run; `quick` puts the nano family with random weights in its place."""
    config = Distill(
        name="turbo_distill",
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
        student=Optimizer(
            peak_lr=1e-6, warmup_steps=200, b2=0.999, weight_decay=0.0, ema_decay=0.999
        ),
        fake=Optimizer(peak_lr=2e-6, warmup_steps=200, b2=0.999, weight_decay=0.0),
        discriminator=Optimizer(peak_lr=1e-5, b1=0.0, b2=0.99, weight_decay=0.0),
        critic_steps=5,
        guidance_scale=4.0,
        step_law="4-8",
        gan=Gan(weight=1e-2, widths=(256, 512, 768), blocks=3),
        warmup=Warmup(
            steps=500,
            updates=2,
            teacher_steps=50,
            student=Optimizer(peak_lr=2e-6, warmup_steps=100, b2=0.999, weight_decay=0.0),
            critic_steps=50,
        ),
        evaluation=Evaluation(num_items=64, num_players=8),
        data=Data(
            shards="data/shards/real",
            batch_size=128,
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
