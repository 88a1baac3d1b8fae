"""Must a student be trained on the states of its own sampler?

    python -m experiments.distill.backward [--quick]

All are sampled by the ODE. Expected: trained on noised songs, a student is too wide there
(tests/ops/test_distill_grids.py has the closed form for Gaussian data).
Found (three seeds): 1.7 to 2.1 times as far as the undistilled teacher, and more varied.
"""

from experiments.distill import players, runner

ABLATION = runner.Ablation(
    name="backward",
    question="Must a student be trained on the states of its own sampler?",
    variants={
        "own states": (),
        "own, noised again": ("backward=renoise",),
        "noised songs": ("backward=forward",),
    },
    grid=players.grid((8, 4), (1.0, 2.0, 3.0)),
)

if __name__ == "__main__":
    runner.main(ABLATION)
