"""What is trained beside a model that stays as it is."""

import math
from dataclasses import dataclass

from openglm.config.checks import Count, Positive, check_fields, require


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank changes of matrices (arXiv 2106.09685)."""

    rank: Count = 8
    """inner width of a change"""
    alpha: Positive = 32.0
    """a change is scaled by alpha / rank"""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    """matrices of every layer that are changed: q_proj k_proj v_proj (together the published models' query_key_value),
    o_proj, up_proj, gate_proj, down_proj; or all"""
    dropout: float = 0.0
    """share of the inputs of a change that is left out in training"""
    rslora: bool = False
    """scale by alpha / sqrt(rank), for large ranks (arXiv 2312.03732)"""

    def __post_init__(self) -> None:
        check_fields(self, "lora.")
        require(bool(self.targets), "lora.targets", self.targets, "name the matrices to change, or all")
        require(0 <= self.dropout < 1, "lora.dropout", self.dropout, "must lie in [0, 1)")

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


@dataclass(frozen=True)
class PrefixConfig:
    """Keys and values in front of every layer (P-Tuning v2, arXiv 2110.07602)."""

    length: Count = 128
    """virtual tokens"""
    projection: bool = False
    """make keys and values by two layers, which are trained too"""
    dropout: float = 0.0
    """share of the keys and values that is left out in training"""

    def __post_init__(self) -> None:
        check_fields(self, "prefix.")
        require(0 <= self.dropout < 1, "prefix.dropout", self.dropout, "must lie in [0, 1)")
