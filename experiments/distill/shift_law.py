"""Does one student for all shifts serve each as well as one for that shift alone?

    python -m experiments.distill.shift_law [--quick]

Measured at shifts 1, 2 and 3, which the joint student saw, and at 1.5 and 5, which nobody saw
(the continuous law ends at 5). Expected: fixed grids break off their own; joint breaks nowhere.
Found (three seeds): no difference at any shift from 1 to 5, so neither breaks.
"""

from experiments.distill import players, runner

ABLATION = runner.Ablation(
    name="shift_law",
    question="Does one student for all shifts serve each as well as one for that shift alone?",
    variants={
        "fixed 1": ("shift_law=1",),
        "fixed 3": ("shift_law=3",),
        "joint": (),
        "continuous": ("shift_law=continuous",),
    },
    grid=players.grid((8,), (1.0, 1.5, 2.0, 3.0, 5.0)),
)

if __name__ == "__main__":
    runner.main(ABLATION)
