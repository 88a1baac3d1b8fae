"""Must the number of steps vary in training for the student to be good at several?

    python -m experiments.distill.step_law [--quick]

4 is on the grid of 8, and 6 is not. Expected: a law of 8 alone is best at 8 and worse at 4 and 6.
Found (three seeds): no difference between 8 and 4 or 8, at 8, 6 or 4 steps.
"""

from experiments.distill import players, runner

ABLATION = runner.Ablation(
    name="step_law",
    question="Must the number of steps vary in training for the student to be good at several?",
    variants={
        "8": (),
        "4 or 8": ("step_law=4,8",),
        "4 to 8": ("step_law=4-8",),
    },
    grid=players.grid((8, 6, 4), (1.0, 3.0)),
)

if __name__ == "__main__":
    runner.main(ABLATION)
