"""Should matching and guidance have noise levels of their own?

    python -m experiments.distill.coupling [--quick]

Expected, after arXiv:2511.22677: decoupled is better, as guidance looks below the student's step.
Found: no order in the ablation's 80 iterations (three seeds); in the recipe's 160 decoupled
overshoots (one seed; BUILD_NOTES.md, section 14).
"""

from experiments.distill import players, runner

ABLATION = runner.Ablation(
    name="coupling",
    question="Should matching and guidance have noise levels of their own?",
    variants={
        "coupled": (),
        "decoupled": ("decoupled=true",),
    },
    grid=players.grid((8, 4), (1.0, 2.0, 3.0)),
)

if __name__ == "__main__":
    runner.main(ABLATION)
