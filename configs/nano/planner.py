"""Trains the nano planner from nothing, on the codes of the nano tokenizer.

Method:   four tasks in one model, loss on the assistant's turn (train/planner.py): plan and codes
          from a caption, plan and lyrics from codes, from a few words, from rough lyrics. Songs are
          cut anew every time, and begin at any of a code's five frames; some are told in another
          key and tempo, and codes that are listened to move to their neighbours now and then.
Command:  python -m acestep_jax.data.add_codes --shards data/shards/own --out data/shards/codes \
            --shifts 5
          python -m train.planner --config configs/nano/planner.py
Cost:     53 minutes of about three quarters of one core for the first weights, in four stretches on
          the codes of another tokenizer: 762 steps without `retold` and `jitter`; 416 with
          retold=0.5; 322 with retold=0.7 and jitter=0.3, at peak_lr=4e-3; 200 with understand 9,
          generate 2 and jitter=0.5 at 8e-3. From there, on the codes that hold notes, 1,000 steps
          of this file (27 minutes beside two other jobs) and 450 with understand 10, generate 2,
          inspire and format 0.5 (4 minutes). The mean of the weights of these two is shipped: the
          first plans best, the second listens best. This form, from nothing, has not been run.
Expect:   5.24 nats a code on held-out songs (unigrams 6.50, bigrams 6.04); valid blueprints with
          and without the grammar; the caption's tempo in all plans, its key in 0.98. A listener
          tells the tempo of 0.23 of 64 songs (others' 0.13) and the key of 0.17 (others' 0.04).
          After 400 steps, before `retold`, none of six tempi had reached its plan.
"""

from acestep_jax.nn.config import MODELS
from acestep_jax.training.config import Data, Optimizer
from acestep_jax.training.recipes.planner import Chats, PlannerModel, TrainPlanner, toy_planner


def get_config(quick: bool = False) -> TrainPlanner:
    """Gives the run; `quick` takes two steps."""
    config = TrainPlanner(
        name="nano_planner",
        num_steps=1700,
        model=PlannerModel(preset="planner_nano"),
        chats=Chats(
            length=512,
            seconds=(10, 28),  # what the shards hold of a song
            mixture=(("generate", 4.0), ("understand", 6.0), ("inspire", 1.0), ("format", 1.0)),
            retold=0.7,  # so that tempo and key are looked up, not known by heart
            jitter=0.15,
            levels=MODELS["nano"].fsq_input_levels,
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
