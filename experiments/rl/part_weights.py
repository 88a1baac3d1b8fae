"""What do the weights of caption, lyrics and metadata balance?

    python -m experiments.rl.part_weights [--quick]

Expected: a part by itself gains most of itself, and less of the others; 50/30/20 gains of each.
"""

from experiments.rl import runner

ABLATION = runner.Ablation(
    name="part_weights",
    question="What do the weights of caption, lyrics and metadata balance?",
    subject="planner",
    variants={
        "50/30/20": (),
        "caption": ("reward.weights=1,0,0",),
        "lyrics": ("reward.weights=0,1,0",),
        "metadata": ("reward.weights=0,0,1",),
    },
)

if __name__ == "__main__":
    runner.main(ABLATION)
