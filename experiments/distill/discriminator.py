"""Should the discriminator see latents, or hidden states of a DiT?

    python -m experiments.distill.discriminator [--quick]

Expected: features learn faster early, latents are cheaper. Losses and penalties, beside.
Found (three seeds): features of the teacher cost 1.7 times as much and end farther from real
songs. The others have not run.
"""

from experiments.distill import players, runner

ABLATION = runner.Ablation(
    name="discriminator",
    question="Should the discriminator see latents, or hidden states of a DiT?",
    variants={
        "latents": (),
        "latents, exact R1": ("gan.r1=exact",),
        "latents, hinge": ("gan.loss=hinge",),
        "latents, non-saturating": ("gan.loss=nonsaturating",),
        "features of the teacher": ("gan.layers=2,5", "gan.discriminator=features"),
        "features of the fake score": (
            "gan.layers=2,5",
            "gan.discriminator=features",
            "gan.features_of=fake",
        ),
    },
    grid=players.grid((8, 4), (1.0, 3.0)),
)

if __name__ == "__main__":
    runner.main(ABLATION)
