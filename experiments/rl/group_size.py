"""How many songs does a group need?

    python -m experiments.rl.group_size [--quick]

As many songs a step in all variants. Expected: larger groups judge a song better, smaller ones see
more prompts.
"""

from experiments.rl import runner

ABLATION = runner.Ablation(
    name="group_size",
    question="How many songs does a group need?",
    subject="dit",
    variants={
        "4": ("group=4", "data.batch_size=16"),
        "8": (),
        "16": ("group=16", "data.batch_size=4"),
    },
)

if __name__ == "__main__":
    runner.main(ABLATION)
