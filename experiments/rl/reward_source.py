"""Is it information that helps, or likelihood?

    python -m experiments.rl.reward_source [--quick]

Expected: codes that are likely under the start are frequent ones; answers grow alike (distinct
falls, repetition rises) and tell nothing new.
"""

from experiments.rl import runner

ABLATION = runner.Ablation(
    name="reward_source",
    question="Is it information that helps, or likelihood?",
    subject="planner",
    variants={
        "pmi": (),
        "pmi, raw": ("reward.squash=raw",),
        "likelihood": ("reward.source=likelihood",),
    },
)

if __name__ == "__main__":
    runner.main(ABLATION)
