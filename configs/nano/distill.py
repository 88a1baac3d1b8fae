"""The demo: distils the shipped nano teacher into an 8-step student, and reports.

Method:   adversarial dynamic-shift distillation (train/distill.py): a short regression to guided
          end points, then distribution matching with a ConvNeXt discriminator.
Command:  make demo, or: python -m train.distill --config configs/nano/distill.py
Cost:     160 iterations and the report in 14 minutes of one core; the shipped student is this run.
Expect:   law to the teacher 0.17 with 8 steps and 0.21 with 4 (undistilled teacher: 0.64 and 1.20;
          the teacher with other noise: -0.01); mean spectrum 1.7 and 1.3 dB off (2.1 and 2.2). Pair
          by pair 0.23 and 0.22 (0.38 and 0.39). One diagnostic complains: the adversary is weak
          (0.03). One seed, 16 validation prompts; three seeds in experiments/README.md.
"""

from acestep_jax.training.config import Data, Model, Optimizer
from acestep_jax.training.recipes.distill import Distill, Evaluation, Gan, Warmup, toy_distillation


def get_config(quick: bool = False) -> Distill:
    """Gives the run; `quick` shrinks everything and takes a few iterations."""
    config = Distill(
        name="nano_distill",
        num_steps=160,
        model=Model(
            weights="asset:nano/acestep-v15-nano",
            text_weights="asset:nano/text_encoder",
            vae_weights="asset:nano/vae",
            remat=True,  # on a processor a tenth faster than keeping activations
        ),
        student=Optimizer(
            peak_lr=1e-4,
            warmup_steps=10,
            schedule="cosine",
            final_lr_ratio=0.1,
            b2=0.99,
            ema_decay=0.98,
            weight_decay=0.0,
        ),
        fake=Optimizer(peak_lr=3e-4, b2=0.99, weight_decay=0.0),
        discriminator=Optimizer(peak_lr=7e-5, b1=0.0, b2=0.99),
        critic_steps=5,
        # where the teacher's songs are nearest to real ones (experiments/distill/strength.py)
        guidance_scale=2.5,
        decoupled=False,  # levels of their own left it farther from its teacher (coupling.py there)
        gan=Gan(widths=(64, 96, 128), blocks=1, layer_scale=0.1),
        warmup=Warmup(
            steps=10,
            updates=8,
            teacher_steps=24,
            student=Optimizer(peak_lr=3e-4, b2=0.99, weight_decay=0.0),
            critic_steps=5,
        ),
        evaluation=Evaluation(num_items=16),
        data=Data(batch_size=8, num_frames=128, start_at="chords"),
        log_every=2,
        save_every=40,
    )
    return toy_distillation(config) if quick else config
