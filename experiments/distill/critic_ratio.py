"""How many critic updates does a student update need, and how fast a fake score?

    python -m experiments.distill.critic_ratio [--quick]

Expected: with one, the fake score lags, and seeds differ more. The last two ask whether fewer,
larger updates close `dm_gap` as well, and whether a faster discriminator wins too often.
Found (three seeds): one is worse than two, five are no better than two. The last two have not run.
"""

from experiments.distill import players, runner

ABLATION = runner.Ablation(
    name="critic_ratio",
    question="How many critic updates does a student update need, and how fast a fake score?",
    variants={
        "1": ("critic_steps=1",),
        "2": (),
        "5": ("critic_steps=5",),
        "3, fake rate 6e-4": ("critic_steps=3", "fake.peak_lr=6e-4"),
        "2, discriminator rate 3e-4": ("discriminator.peak_lr=3e-4",),
    },
    grid=players.grid((8, 4), (1.0, 3.0)),
)

if __name__ == "__main__":
    runner.main(ABLATION)
