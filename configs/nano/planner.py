"""Trains the nano planner from nothing, on the codes of the nano tokenizer.

Method:   four tasks in one model, loss on the assistant's turn (train/planner.py): plan and codes
          from a caption, plan and lyrics from codes, from a few words, from rough lyrics.
Command:  python -m train.planner --config configs/nano/planner.py     (after the songs have codes)
Cost:     not measured yet.     Expect:  not known yet; a code at random costs ln 1000 = 6.9 nats.
"""

from acestep_jax.training.config import Data, Optimizer
from acestep_jax.training.recipes.planner import Chats, PlannerModel, TrainPlanner, toy_planner


def get_config(quick: bool = False) -> TrainPlanner:
    """Gives the run; `quick` takes two steps."""
    config = TrainPlanner(
        name="nano_planner",
        num_steps=4000,
        model=PlannerModel(preset="planner_nano"),
        chats=Chats(length=512, seconds=(10, 30)),
        optimizer=Optimizer(
            peak_lr=1e-3,  # from random weights; a trained planner is tuned at 1e-5
            warmup_steps=120,
            schedule="cosine",
            b2=0.95,
            weight_decay=0.1,
            ema_decay=0.995,
        ),
        data=Data(shards="data/shards/own", batch_size=16),
        log_every=20,
        save_every=500,
        eval_every=500,
    )
    return toy_planner(config) if quick else config
