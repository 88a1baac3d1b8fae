"""Which part of the alignment score does what?

    python -m experiments.rl.aas_parts [--quick]

Expected: without coverage words are left out, without monotonicity they come in any order, without
confidence both are met by quiet, quick words; the part that is left out gains least.
"""

from experiments.rl import runner

ABLATION = runner.Ablation(
    name="aas_parts",
    question="Which part of the alignment score does what?",
    subject="dit",
    variants={
        "all three": (),
        "no coverage": ("reward.powers=0,2,1",),
        "no monotonicity": ("reward.powers=2,0,1",),
        "no confidence": ("reward.powers=2,2,0",),
    },
)

if __name__ == "__main__":
    runner.main(ABLATION)
