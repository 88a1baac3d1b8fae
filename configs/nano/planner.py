"""Trains the nano planner from nothing, on the codes of the nano tokenizer.

Method:   four tasks in one model, loss on the assistant's turn (train/planner.py): plan and codes
          from a caption, plan and lyrics from codes, from a few words, from rough lyrics. Songs are
          cut anew every time, and begin at any of a code's five frames.
Command:  python -m acestep_jax.data.add_codes --shards data/shards/own --out data/shards/codes \
            --shifts 5
          python -m train.planner --config configs/nano/planner.py
Cost:     not measured yet.     Expect:  not known yet; a code at random costs ln 1000 = 6.9 nats.
"""

from acestep_jax.training.config import Data, Optimizer
from acestep_jax.training.recipes.planner import Chats, PlannerModel, TrainPlanner, toy_planner


def get_config(quick: bool = False) -> TrainPlanner:
    """Gives the run; `quick` takes two steps."""
    config = TrainPlanner(
        name="nano_planner",
        num_steps=1400,
        model=PlannerModel(preset="planner_nano"),
        chats=Chats(
            length=512,
            seconds=(10, 28),  # what the shards hold of a song
            mixture=(("generate", 5.0), ("understand", 4.0), ("inspire", 1.0), ("format", 1.0)),
            retold=0.5,  # so that tempo and key are looked up, not known by heart
        ),
        optimizer=Optimizer(
            name="muon",
            peak_lr=2e-3,  # from random weights; a trained planner is tuned at 1e-5
            muon_lr_ratio=10.0,
            warmup_steps=50,
            schedule="linear",
            weight_decay=0.1,
            ema_decay=0.99,
        ),
        data=Data(shards="data/shards/codes", batch_size=8),
        log_every=20,
        save_every=100,
        eval_every=150,
    )
    return toy_planner(config) if quick else config
