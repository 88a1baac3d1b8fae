"""Trains a nano planner that listens and does nothing else, as a scorer of other planners.

Method:   the planner's script on the understanding task alone (train/planner.py), from nothing, so
          that it shares no weight with the planner that it will judge. Seeds make different ones.
Command:  python -m train.planner --config configs/nano/listener.py --set seed=1 \
            --workdir runs/listeners/1
Before:   shards with codes, as configs/nano/planner.py makes them.
Cost:     24 minutes of one core beside a second run.
Expect:   seeds 1 and 2 are shipped (assets/nano/listeners), since the reinforcement of the nano
          planner is scored by them; its start's answers are worth 0.69 to them, 0.51 to itself.
"""

import dataclasses

from acestep_jax.training.recipes.planner import TrainPlanner, toy_planner
from configs.nano import planner


def get_config(quick: bool = False) -> TrainPlanner:
    """Gives the run; `quick` takes two steps."""
    whole = planner.get_config()
    config = dataclasses.replace(
        whole,
        name="nano_listener",
        num_steps=700,
        chats=dataclasses.replace(whole.chats, mixture=(("understand", 1.0),)),
    )
    return toy_planner(config) if quick else config
