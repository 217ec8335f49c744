"""Alignment: what reward models, DPO and their kin take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from openglm.config.checks import check_choices, require
from openglm.config.recipes import RunConfig
from openglm.config.train import OptimizerConfig


@dataclass(frozen=True)
class PairsConfig:
    """Pairs of a better and a worse answer."""

    pairs: str
    """file of pairs to train on: prompt, chosen, rejected; `glm data feedback` writes one"""
    heldout: str = ""
    """file of pairs that are only measured"""
    seed: int = 1
    """seed for the order of pairs"""
    workers: int = 0
    """processes that prepare batches in advance; 0: the training process prepares them"""


@dataclass(frozen=True, kw_only=True)
class PairsRunConfig(RunConfig):
    """A model tuned on pairs."""

    init_from: str
    """folder of the model to start from, or the name of a bundled model"""
    data: PairsConfig
    """the pairs"""

    def __post_init__(self) -> None:
        for name in ("batch_rows", "eval_rows"):
            value = getattr(self.train, name)
            require(value % 2 == 0, f"train.{name}", value, "must be even: rows of pairs come in twos")
        micro = self.train.batch_rows // self.train.accumulation
        require(micro % 2 == 0, "train.accumulation", self.train.accumulation, "leaves an odd number of rows at a time")


@dataclass(frozen=True, kw_only=True)
class RewardConfig(PairsRunConfig):
    """A model that scores answers, learnt from pairs."""

    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-5))
    """optimizer and learning rate"""
    shrink: float = 0.0
    """weight of the squared rewards in the loss; above 0 it keeps rewards near 0 (ChatGLM-RLHF)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.shrink >= 0, "shrink", self.shrink, "must not be negative")


@dataclass(frozen=True, kw_only=True)
class DPOConfig(PairsRunConfig):
    """A model tuned to prefer the better answer of each pair, without a reward model."""

    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-6))
    """optimizer and learning rate"""
    loss: Literal["dpo", "ipo", "simpo"] = "dpo"
    """dpo (arXiv 2305.18290); ipo (2310.12036): draws the margin to 1 / (2 beta); simpo (2405.14734): mean
    log-probabilities without a reference"""
    beta: float = 0.1
    """how strongly the reference holds; simpo: scale of the margin (its paper takes 2 to 2.5)"""
    gamma: float = 0.0
    """simpo: margin aimed at (its paper takes 0.5 to 1.6)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self, "")
        require(self.beta > 0, "beta", self.beta, "must be positive")
        require(self.gamma == 0 or self.loss == "simpo", "gamma", self.gamma, "belongs to loss = simpo")
