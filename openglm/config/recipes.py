"""Everything that one training verb takes."""

from __future__ import annotations

from dataclasses import dataclass, field

from openglm.config.data import DataConfig, InfillingConfig
from openglm.config.model import ModelConfig
from openglm.config.parallel import ParallelConfig
from openglm.config.train import OptimizerConfig, StabilityConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What the training loop takes, whatever it optimizes."""

    train: TrainConfig
    """the run"""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """the update"""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """how it is spread over processes"""
    stability: StabilityConfig = field(default_factory=StabilityConfig)
    """what happens on trouble, and what keeps it away"""


@dataclass(frozen=True, kw_only=True)
class TextRunConfig(RunConfig):
    """A run on rows of text and conversations."""

    data: DataConfig
    """what it reads"""
    infilling: InfillingConfig = field(default_factory=InfillingConfig)
    """how blanks are made in plain text"""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TextRunConfig):
    """A model from random weights by blank infilling."""

    model: ModelConfig
    """shape of the network; its vocabulary and special tokens are set by the tokenizer of the corpus"""


@dataclass(frozen=True, kw_only=True)
class SFTConfig(TextRunConfig):
    """A model tuned on conversations; with `data.path`, on plain text between them as well, against forgetting."""

    init_from: str
    """folder of the model to start from, or the name of a bundled one"""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=2e-4))
    """the update"""
