"""All ablations, one after the other, with one judge and the runs that they share.

    python -m experiments.distill [--quick] [--seeds 0 1 2] [--variants NAME ...]

Each question's file tells what was expected and found; its numbers stand in `results/`.
"""

from experiments.distill import (
    adversary,
    backward,
    coupling,
    critic_ratio,
    discriminator,
    runner,
    shift_law,
    step_law,
    terms,
)

QUESTIONS = (
    *(coupling, terms, adversary, backward),
    *(shift_law, step_law, discriminator, critic_ratio),
)

if __name__ == "__main__":
    runner.main(*(question.ABLATION for question in QUESTIONS))
