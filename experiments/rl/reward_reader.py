"""Does a policy that reads its own songs learn to sing, or to read?

    python -m experiments.rl.reward_reader [--quick]

Expected: its own score rises, and that of the frozen reader less than where the frozen one rewards.
"""

from experiments.rl import runner

ABLATION = runner.Ablation(
    name="reward_reader",
    question="Does a policy that reads its own songs learn to sing, or to read?",
    subject="dit",
    variants={
        "frozen": (),
        "self": ("reward.reader=self",),
    },
)

if __name__ == "__main__":
    runner.main(ABLATION)
