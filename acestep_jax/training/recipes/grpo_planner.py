"""Configuration of reinforcement learning of the planner."""

import dataclasses
from typing import Literal

from acestep_jax.nn.lora import LoRA
from acestep_jax.ops.policy import VARIANTS, Variant
from acestep_jax.training.config import Data, Mesh, Optimizer, Run, require
from acestep_jax.training.recipes import toys
from acestep_jax.training.recipes.planner import PlannerModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asking:
    """What the planner is asked for, and how long its answers may be."""

    plan: Literal["given", "written"] = "given"  # the chain of thought: the song's, or its own
    seconds: tuple[int, int] = (10, 30)  # shortest and longest song
    prompt_tokens: int = 384  # room for a prompt; longer ones are passed over
    sheet_tokens: int = 256  # room for what a listener should say of the song
    plan_tokens: int = 256  # most tokens of a written thought; an unfinished one scores 0
    caption_tokens: int = 64  # most tokens of the caption within it
    temperature: float = 1.0  # of all draws; nothing else shapes them

    def __post_init__(self) -> None:
        low, high = self.seconds
        require(
            10 <= low <= high <= 600, f"asking.seconds={self.seconds}; use 10 <= a <= b <= 600."
        )
        require(self.temperature > 0, f"asking.temperature={self.temperature} must be positive.")
        for field in ("prompt_tokens", "sheet_tokens", "plan_tokens", "caption_tokens"):
            require(getattr(self, field) > 0, f"asking.{field} must be positive.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PmiReward:
    """What an answer is worth (ops/pmi.py)."""

    # pmi: what a listener learns from the codes; likelihood: mean log-probability of what was
    # written under the reference, which is what PMI is compared with
    source: Literal["pmi", "likelihood"] = "pmi"
    squash: Literal["sigmoid", "raw"] = "sigmoid"  # raw keeps a gradient where the sigmoid is flat
    scale: float = 0.1  # of the sigmoid, in nats a token
    weights: tuple[float, float, float] = (0.5, 0.3, 0.2)  # of caption, lyrics and metadata
    recall: Literal["ranked", "within"] = "ranked"  # ranks weighed, or plain top-k recall
    top_k: int = 10  # ranks that count
    as_trained: bool = False  # write scored values as thoughts do; the release dumps them as given
    # planners that listen, frozen, whose mean counts; "start" is the one that training starts from
    scorers: tuple[str, ...] = ("start",)
    saturation_limit: float = 0.5  # warn where a larger share of scores lies where it is flat

    def __post_init__(self) -> None:
        require(bool(self.scorers), "reward.scorers is empty; name a planner, or start.")
        require(self.scale > 0, f"reward.scale={self.scale} must be positive.")
        require(self.top_k > 0, f"reward.top_k={self.top_k} must be positive.")
        require(
            min(self.weights) >= 0 and sum(self.weights) > 0,
            f"reward.weights={self.weights}; use 0 or more, not all of them 0.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrpoPlanner(Run):
    """Group-relative policy optimisation of the planner (train/grpo_planner.py)."""

    model: PlannerModel = PlannerModel()  # where the policy starts; its copy is the reference
    frozen_dtype: Literal["float32", "bfloat16"] = (
        "float32"  # that reference and scorer are kept in
    )
    # Prompts a step are data.batch_size, songs those of data.shards
    asking: Asking = Asking()
    reward: PmiReward = PmiReward()
    group: int = 8  # answers to a prompt
    trained: Literal["all", "thought", "codes"] = "all"  # tokens that the loss counts
    variant: Literal["grpo", "dr_grpo", "dapo", "rloo", "gspo"] = "dapo"  # see ops.policy.VARIANTS
    clip: tuple[float, ...] = ()  # (low, high) of the ratio, instead of the variant's own
    dual_clip: float = 0.0  # the most that a negative advantage counts, times; 0: no bound
    # k2 and k3 are differentiated, and have the gradients of the two directions; reward subtracts
    # k1 from the reward, which is k2's gradient by another way
    kl: Literal["k2", "k3", "reward"] = "k3"
    kl_weight: float = 0.02  # of the divergence from the reference
    updates: int = 1  # of the policy on each set of answers
    importance_cap: float = 2.0  # of weights where sampler and trainer differ; 0: no weights
    optimizer: Optimizer = Optimizer(peak_lr=1e-6, warmup_steps=20, weight_decay=0.0)
    lora: bool = False  # train adapters, and merge them where the planner is exported
    adapter: LoRA = LoRA(rank=32, alpha=64.0, dropout=0.0)
    columns: int = 64  # tokens of an answer whose logits are held at once
    eval_batches: int = 2  # batches of held-out prompts an evaluation averages

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.group > 1, f"group={self.group}; advantages compare two answers or more.")
        require(self.updates > 0, f"updates={self.updates} must be positive.")
        require(len(self.clip) in (0, 2), f"clip={self.clip}; give (low, high), or nothing.")
        require(
            self.trained == "codes" or self.asking.plan == "written",
            f"trained={self.trained!r} with asking.plan=given: only codes are written then; use "
            "trained=codes, or asking.plan=written.",
        )
        require(
            self.adapter.dropout == 0,
            f"adapter.dropout={self.adapter.dropout}: ratios compare the same network; use 0.",
        )

    @property
    def algorithm(self) -> Variant:
        """The variant, with this run's clip."""
        chosen = VARIANTS[self.variant]
        return chosen._replace(clip=self.clip) if self.clip else chosen


def toy_grpo(config: GrpoPlanner) -> GrpoPlanner:
    """Keeps a recipe's method and shrinks its sizes: two steps on made-up songs, anywhere."""
    return dataclasses.replace(
        config,
        num_steps=2,
        mesh=Mesh(),
        model=PlannerModel(preset="planner_toy"),
        frozen_dtype="float32",
        asking=dataclasses.replace(
            config.asking,
            seconds=(10, 10),
            prompt_tokens=288,
            sheet_tokens=224,
            plan_tokens=96,
            caption_tokens=4,
        ),
        reward=dataclasses.replace(config.reward, scorers=("start",)),
        data=Data(shards="synthetic", batch_size=2),
        group=2,
        adapter=dataclasses.replace(config.adapter, rank=2),
        optimizer=toys.OPTIMIZER,
        eval_batches=1,
        log_every=1,
    )
