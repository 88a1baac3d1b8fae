"""What does the adversary add to distribution matching?

    python -m experiments.distill.adversary [--quick]

Its real class is recorded songs, or the teacher's own, which cannot teach what the teacher does
not know. Expected: nearer to real songs with it, as near to the teacher without.
"""

from experiments.distill import players, runner

ABLATION = runner.Ablation(
    name="adversary",
    question="What does the adversary add to distribution matching?",
    variants={
        "without": ("gan.discriminator=none",),
        "real songs": (),
        "teacher's songs": ("gan.real=teacher", "gan.cached_batches=40"),
    },
    grid=players.grid((8, 4), (1.0, 3.0)),
)

if __name__ == "__main__":
    runner.main(ABLATION)
