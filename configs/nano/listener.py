"""Trains a nano planner that listens and does nothing else, as a scorer of other planners.

Method:   the planner's script on the understanding task alone (train/planner.py), from nothing, so
          that it shares no weight with the planner that it will judge. Seeds make different ones.
Command:  python -m train.planner --config configs/nano/listener.py --set seed=1 \
            --workdir runs/listeners/1
Before:   shards with codes, as configs/nano/planner.py makes them.
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
        num_steps=900,
        chats=dataclasses.replace(whole.chats, mixture=(("understand", 1.0),)),
    )
    return toy_planner(config) if quick else config
