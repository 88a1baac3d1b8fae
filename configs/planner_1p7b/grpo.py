"""Tunes the released 1.7B planner, thought and codes, by what its codes tell a listener.

Method:   group-relative policy optimisation (train/grpo_planner.py): the planner writes the chain
          of thought and the codes in one turn, both are trained by adapters of rank 32, and the
          released weights without them are reference and listener alike: one copy for three roles.
          The release is said to have been tuned so; its group size, rate, clip and divergence are
          not published. Ours: 16 prompts of 8 answers, DAPO's clip and mean, k3 of weight 0.02.
Command:  python -m train.grpo_planner --config configs/planner_1p7b/grpo.py
Before:   add --dry_run --devices 8 for memory, operations and bytes of every step.
Needs:    17.7 GiB on each of 8 devices for the update, 0.8 of them to stay, by XLA's analysis on a
          processor, which widens 16 bits; 41 GiB are received, twice the head and the layers.
Cost:     not run here: no device of that size was at hand.     Expect:  not known yet.
"""

from acestep_jax.nn.lora import LoRA
from acestep_jax.training.config import Data, Mesh, Optimizer
from acestep_jax.training.recipes.grpo_planner import Asking, GrpoPlanner, PmiReward, toy_grpo
from acestep_jax.training.recipes.planner import PlannerModel
from configs.planner_1p7b.sft import PROJECTIONS


def get_config(quick: bool = False) -> GrpoPlanner:
    """Gives the run; `quick` puts toys in its place, but keeps thoughts and adapters."""
    config = GrpoPlanner(
        name="planner_1p7b_grpo",
        num_steps=1000,
        mesh=Mesh(fsdp=-1),
        model=PlannerModel(
            preset="planner_1p7b",
            weights="ACE-Step/Ace-Step1.5/acestep-5Hz-lm-1.7B",
            dtype="bfloat16",
            remat=True,
        ),
        frozen_dtype="bfloat16",
        asking=Asking(
            plan="written",
            seconds=(30, 120),
            prompt_tokens=1024,
            sheet_tokens=1280,
            plan_tokens=512,
            caption_tokens=256,
        ),
        reward=PmiReward(scale=0.1),
        group=8,
        trained="all",
        variant="dapo",
        kl="k3",
        kl_weight=0.02,
        lora=True,
        adapter=LoRA(rank=32, alpha=64.0, dropout=0.0, targets=PROJECTIONS),
        optimizer=Optimizer(
            peak_lr=2e-5,  # of adapters; all weights take 1e-6
            warmup_steps=50,
            b2=0.99,
            weight_decay=0.0,
        ),
        columns=128,  # the head is gathered once for so many tokens of every answer
        data=Data(shards="data/shards/tune", batch_size=16),
        log_every=5,
        save_every=50,
        eval_every=100,
    )
    return toy_grpo(config) if quick else config
