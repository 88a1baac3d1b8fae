"""Tunes the nano planner so that its codes tell a listener the song that was asked for.

Method:   group-relative policy optimisation on audio codes behind the song's own chain of thought,
          mutual information with caption, lyrics and metadata as reward (train/grpo_planner.py).
Command:  python -m train.grpo_planner --config configs/nano/grpo_planner.py
Before:   a trained planner in the package, or model.weights=runs/nano_planner/export.
Cost:     40 minutes of one core beside a second run.
Expect:   over three seeds, 64 held-out prompts of 4 answers: the reward from 0.69 to 0.82, above
          the start's best of four by 0.029 (0.020-0.038); by the start as a scorer, which training
          never has, from 0.51 to 0.61: a gain of 0.096 (0.056-0.136); 0.28 nats a code from the
          start. After 45 steps 0.065 and 0.054 are gained, at 0.06 nats. Scored by the start alone,
          70 steps gained nothing by another listener (experiments/README.md).
"""

from acestep_jax.training.config import Data, Optimizer
from acestep_jax.training.recipes.grpo_planner import Asking, GrpoPlanner, PmiReward, toy_grpo
from acestep_jax.training.recipes.planner import PlannerModel


def get_config(quick: bool = False) -> GrpoPlanner:
    """Gives the run; `quick` takes two steps from random weights."""
    config = GrpoPlanner(
        name="nano_grpo_planner",
        num_steps=140,
        model=PlannerModel(preset="planner_nano", weights="asset:nano/acestep-5Hz-lm-nano"),
        asking=Asking(plan="given", seconds=(10, 14)),
        # two that training from nothing made, and not the start, which so can judge (--scorer)
        reward=PmiReward(scorers=("asset:nano/listeners/1", "asset:nano/listeners/2")),
        group=8,
        trained="codes",
        variant="dapo",
        kl="k3",
        kl_weight=0.02,
        optimizer=Optimizer(
            peak_lr=2e-4, warmup_steps=10, b2=0.99, weight_decay=0.0, ema_decay=0.9
        ),
        data=Data(shards="data/shards/own", batch_size=8),
        log_every=5,
        save_every=35,
        eval_every=0,
        eval_batches=0,  # experiments.rl.evaluate measures more
    )
    return toy_grpo(config) if quick else config
