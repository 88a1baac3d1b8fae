"""What does each of the two terms do, matching and guidance?

    python -m experiments.distill.terms [--quick]

Expected: guidance alone drifts (its mean grows with every update), matching alone stays near an
unguided teacher, both reach the guided one.
Found (three seeds): so it is, by far; without a warm-up both terms are only half-way after 80
iterations.
"""

from experiments.distill import players, runner

ABLATION = runner.Ablation(
    name="terms",
    question="What does each of the two terms do, matching and guidance?",
    variants={
        "matching alone": ("guidance_scale=1.0", "warmup.steps=0"),
        "guidance alone": ("matching_weight=0.0", "warmup.steps=0"),
        "both": ("warmup.steps=0",),
        "both, projected guidance": ("guidance_rule=apg", "warmup.steps=0"),
    },
    grid=players.grid((8,), (1.0, 2.0, 3.0)),
)

if __name__ == "__main__":
    runner.main(ABLATION)
