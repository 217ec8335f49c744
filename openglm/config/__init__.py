"""Everything a user can set, as dataclasses.

The docstring under a field is its help text on the command line; there is no second list of options. Every wrong value
is a `ValueError` that names the option, the value and what would be right. Nothing here imports more than the standard
library.
"""

from openglm.config.adapters import LoraConfig, PrefixConfig
from openglm.config.align import (
    DPOConfig,
    GRPOConfig,
    PairsConfig,
    PairsRunConfig,
    PPOConfig,
    PromptsConfig,
    RewardConfig,
    RolloutConfig,
    RolloutRunConfig,
)
from openglm.config.checks import check_fields, from_dict, require, shorten, shown
from openglm.config.data import DataConfig, InfillingConfig
from openglm.config.engine import EngineConfig
from openglm.config.matrices import LOGITS_BITS, Matrix
from openglm.config.model import SPAN_GAP, ModelConfig, SpecialTokens, Yarn
from openglm.config.parallel import ParallelConfig
from openglm.config.recipes import PretrainConfig, RunConfig, SFTConfig, TextRunConfig
from openglm.config.train import OptimizerConfig, StabilityConfig, TrainConfig

__all__ = [
    "LOGITS_BITS",
    "SPAN_GAP",
    "DPOConfig",
    "DataConfig",
    "EngineConfig",
    "GRPOConfig",
    "InfillingConfig",
    "LoraConfig",
    "Matrix",
    "ModelConfig",
    "OptimizerConfig",
    "PPOConfig",
    "PairsConfig",
    "PairsRunConfig",
    "ParallelConfig",
    "PrefixConfig",
    "PretrainConfig",
    "PromptsConfig",
    "RewardConfig",
    "RolloutConfig",
    "RolloutRunConfig",
    "RunConfig",
    "SFTConfig",
    "SpecialTokens",
    "StabilityConfig",
    "TextRunConfig",
    "TrainConfig",
    "Yarn",
    "check_fields",
    "from_dict",
    "require",
    "shorten",
    "shown",
]
