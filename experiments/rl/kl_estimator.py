"""Which estimator of the divergence holds the planner best?

    python -m experiments.rl.kl_estimator [--quick]

Expected: k2 and k1 in the reward pull the same way, k3 the other; without any, the divergence grows
for the same gain.
"""

from experiments.rl import runner

ABLATION = runner.Ablation(
    name="kl_estimator",
    question="Which estimator of the divergence holds the planner best?",
    subject="planner",
    variants={
        "k3": (),
        "k2": ("kl=k2",),
        "k1 in the reward": ("kl=reward",),
        "none": ("kl_weight=0.0",),
    },
)

if __name__ == "__main__":
    runner.main(ABLATION)
