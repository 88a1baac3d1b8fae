"""Tunes the released 1.7B planner on a music collection, by adapters.

Method:   four tasks in one model, loss on the assistant's turn (train/planner.py); low-rank
          adapters of all projections, merged at the end. `lora=false` tunes all weights instead.
          From a plain Qwen3, model.plain=Qwen/Qwen3-1.7B and an empty model.weights extend it by
          audio tokens.
Command:  python -m train.planner --config configs/planner_1p7b/sft.py --set mesh.fsdp=8
Needs:    1.85 B frozen parameters; rows of 4,096 tokens hold conversations about songs of up to
          eight minutes. Songs need codes of the released tokenizer in their shards.
Cost:     not run here: no device of that size was at hand.     Expect:  not known yet.
"""

from acestep_jax.nn.lora import LoRA
from acestep_jax.training.config import Data, Mesh, Optimizer
from acestep_jax.training.recipes.planner import Chats, PlannerModel, TrainPlanner, toy_planner

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def get_config(quick: bool = False) -> TrainPlanner:
    """Gives the run; `quick` puts toys in its place, but keeps the adapters."""
    config = TrainPlanner(
        name="planner_1p7b_sft",
        num_steps=3000,
        mesh=Mesh(fsdp=-1),
        model=PlannerModel(
            preset="planner_1p7b",
            weights="ACE-Step/Ace-Step1.5/acestep-5Hz-lm-1.7B",
            dtype="bfloat16",
            remat=True,
        ),
        chats=Chats(length=4096, seconds=(30, 480)),
        lora=True,
        adapter=LoRA(rank=32, alpha=64.0, dropout=0.0, targets=PROJECTIONS),
        optimizer=Optimizer(
            peak_lr=1e-4,  # of adapters; all weights take 1e-5
            warmup_steps=90,
            schedule="cosine",
            b2=0.95,
            weight_decay=0.1,
        ),
        data=Data(shards="data/shards/tune", batch_size=64),
        log_every=10,
        save_every=250,
        eval_every=250,
    )
    return toy_planner(config) if quick else config
