"""What does the adversary add to distribution matching?

    python -m experiments.distill.adversary [--quick]

Its real class is recorded songs, or the teacher's own, which cannot teach what the teacher does
not know. Expected: nearer to real songs with it, as near to the teacher without.
Found (three seeds): so it is; nearer to real songs by 0.13 (0.02 to 0.25) of the
undistilled distance, and from its teacher 0.1 farther in the mean, which is not shown.
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
