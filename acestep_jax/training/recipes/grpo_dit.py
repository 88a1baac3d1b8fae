"""Configuration of reinforcement learning of the DiT."""

import dataclasses
from typing import Literal

from acestep_jax.nn.lora import LoRA
from acestep_jax.ops.policy import Variant
from acestep_jax.training.config import Data, Mesh, Model, Optimizer, Run, Samples, require
from acestep_jax.training.recipes import toys

STILL = Optimizer(frozen=("",), clip_norm=0.0)
"""The optimizer of a network that is kept in the state and moved by other means."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AasReward:
    """What a song is worth: the attention alignment score of its lyrics (ops/alignment.py)."""

    # A package that listens instead of the frozen start, of the same sizes: one whose heads were
    # taught (train/aligner.py)
    aligner: str = ""
    # (layer, heads) that are read, all from 0; empty: alignment_heads.json beside the weights of
    # who listens, or those of the release
    heads: tuple[tuple[int, tuple[int, ...]], ...] = ()
    steps: int = 8  # songs are noised to t = 1 / steps, the last time of such a sampler, and read
    draws: int = 2  # of that noise, whose scores are averaged
    powers: tuple[int, int, int] = (2, 2, 1)  # of coverage, monotonicity and confidence; 0: out
    # Who reads: the frozen start of training, or the policy itself, which learns to read sharply
    # instead of singing clearly; kept to be shown
    reader: Literal["frozen", "self"] = "frozen"
    log_self: bool = True  # log the policy's own score too: where it alone rises, it is fooled

    def __post_init__(self) -> None:
        for field in ("steps", "draws"):
            require(getattr(self, field) > 0, f"reward.{field} must be positive.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowGrpo:
    """Policy gradient on the steps of the sampler, some of which draw (ops/flow_policy.py)."""

    rule: Literal["sde", "cps"] = "cps"  # how a step draws; cps leaves no noise on coarse grids
    strength: float = 0.5  # of the noise: a of the SDE (0.7 in its paper), eta of CPS in [0, 1]
    window: int = 2  # steps that draw and are learned from; the others follow the ODE
    slide_every: int = 25  # steps of training after which the window moves on by one; 0: it stays
    clip: tuple[float, float] = (1e-3, 1e-3)  # of the ratio; log-probabilities are means
    recentre: bool = True  # subtract each step's mean log-ratio before clipping (GRPO-Guard)
    share_noise: bool = False  # songs of a group begin at one noise

    def __post_init__(self) -> None:
        require(self.strength > 0, f"flow_grpo.strength={self.strength} must be positive.")
        require(
            self.rule != "cps" or self.strength <= 1,
            f"flow_grpo.strength={self.strength}: of cps it is at most 1.",
        )
        require(self.window > 0, f"flow_grpo.window={self.window} must be positive.")
        require(self.slide_every >= 0, "flow_grpo.slide_every must not be negative.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nft:
    """Flow matching towards good songs and away from bad ones (ops/nft.py)."""

    beta: float = 1.0  # distance of the implicit velocities from the old one
    limit: float = 5.0  # advantage at which a song is good for certain
    normalise: bool = True  # let all noise levels count alike
    time_law: Literal["max2", "single", "uniform", "turbo"] = "max2"  # of the levels trained at
    old: Literal["copy", "slow", "late"] = "slow"  # how the sampling policy follows the trained

    def __post_init__(self) -> None:
        require(self.beta > 0, f"nft.beta={self.beta} must be positive.")
        require(self.limit > 0, f"nft.limit={self.limit} must be positive.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrpoDiT(Run):
    """Reinforcement learning of the DiT from lyric alignment (train/grpo_dit.py)."""

    samples: Samples = Samples(num_steps=8, shift=3.0, guidance_scale=1.0)
    model: Model = Model()  # where the policy starts; its frozen copy reads, and is the anchor
    form: Literal["full", "lora"] = "full"  # what is trained: all weights, or adapters
    adapter: LoRA = LoRA(rank=32, alpha=64.0, dropout=0.0)  # with form=lora
    policy: Optimizer = Optimizer(peak_lr=1e-5, b2=0.99, weight_decay=0.0, ema_decay=0.9)
    algorithm: Literal["flow_grpo", "nft"] = "nft"  # the second is what the release is said to use
    flow_grpo: FlowGrpo = FlowGrpo()
    nft: Nft = Nft()
    reward: AasReward = AasReward()
    # Prompts a step are data.batch_size; those without sung words are left out
    group: int = 8  # songs for a prompt
    rollout_steps: int = 8  # of the sampler
    rollout_shift: float = 3.0  # of its grid
    guidance_scale: float = 1.0  # of all velocities in rollout and update; 1 for distilled models
    advantage_scale: Literal["group", "batch", "none"] = "batch"  # what advantages are divided by
    advantage_limit: float = 5.0  # largest size of an advantage
    kl_weight: float = 1e-3  # of the divergence from the start: exact KL, or squared velocity
    updates: int = 2  # of the policy on each set of songs
    eval_batches: int = 1  # batches of held-out prompts an evaluation averages

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.group > 1, f"group={self.group}; advantages compare two songs or more.")
        require(self.updates > 0, f"updates={self.updates} must be positive.")
        require(
            self.algorithm != "flow_grpo" or self.flow_grpo.window < self.rollout_steps,
            f"flow_grpo.window={self.flow_grpo.window} leaves no last step without noise among "
            f"rollout_steps={self.rollout_steps}.",
        )
        require(
            self.adapter.dropout == 0,
            f"adapter.dropout={self.adapter.dropout}: ratios compare the same network; use 0.",
        )
        require(not self.data.buckets, "data.buckets: rollouts have one shape; leave them empty.")

    @property
    def variant(self) -> Variant:
        """How advantages are made."""
        return Variant(scale=self.advantage_scale, average="token", clip=self.flow_grpo.clip)

    @property
    def old(self) -> Optimizer:
        """Of the sampling policy of NFT: no gradient moves it."""
        return STILL


def toy_grpo_dit(config: GrpoDiT) -> GrpoDiT:
    """Keeps a recipe's method and shrinks its sizes: two steps of made-up songs, anywhere."""
    return dataclasses.replace(
        config,
        num_steps=2,
        mesh=Mesh(),
        model=dataclasses.replace(toys.MODEL, mask_padding=config.model.mask_padding),
        adapter=dataclasses.replace(config.adapter, rank=2),
        policy=toys.OPTIMIZER,
        reward=dataclasses.replace(
            config.reward, aligner="", heads=((0, (0,)), (1, (1,))), draws=1
        ),
        flow_grpo=dataclasses.replace(config.flow_grpo, window=1),
        group=2,
        rollout_steps=2,
        guidance_scale=1.0,  # half the programs; tests guide
        data=Data(batch_size=2, num_frames=96, timbre_frames=16),
        eval_batches=0,
        log_every=1,
    )
