"""Flow-GRPO or negative-aware fine-tuning?

    python -m experiments.rl.algorithm [--quick]

Expected: equal gain for fewer passes with NFT; the SDE leaves noise on eight steps, CPS does not.
"""

from experiments.rl import runner

ABLATION = runner.Ablation(
    name="algorithm",
    question="Flow-GRPO or negative-aware fine-tuning?",
    subject="dit",
    variants={
        "nft": (),
        "flow_grpo, cps": ("algorithm=flow_grpo", "kl_weight=0.02"),
        "flow_grpo, sde": (
            *("algorithm=flow_grpo", "kl_weight=0.02"),
            *("flow_grpo.rule=sde", "flow_grpo.strength=0.7"),
        ),
        "flow_grpo, one noise a group": (
            *("algorithm=flow_grpo", "kl_weight=0.02", "flow_grpo.share_noise=true"),
        ),
    },
)

if __name__ == "__main__":
    runner.main(ABLATION)
