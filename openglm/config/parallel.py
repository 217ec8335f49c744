"""How a run is spread over processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from openglm.config.checks import check_choices, require


@dataclass(frozen=True)
class ParallelConfig:
    """How a run is spread over processes, one a device, that torchrun starts: data x tensor x pipeline of them."""

    data: int = 0
    """groups of processes, each of which trains on its share of the rows; 0: as many as there are"""
    tensor: int = 1
    """processes that share each matrix: heads, feed-forward columns and vocabulary are cut among them (Megatron-LM)"""
    pipeline: int = 1
    """stages, one after another, that hold consecutive blocks"""
    zero: Literal[1, 2, 3] = 1
    """what data-parallel processes hold a share of (ZeRO): 1 the optimizer's state, 2 and gradients, 3 and weights"""
    schedule: Literal["gpipe", "1f1b", "interleaved", "zero-bubble"] = "1f1b"
    """order of forward and backward passes in the pipeline"""
    chunks: int = 1
    """pieces of the network that a stage holds, for interleaved and zero-bubble"""

    def __post_init__(self) -> None:
        check_choices(self, "parallel.")
        require(self.data >= 0, "parallel.data", self.data, "must not be negative; 0 takes all processes that are left")
        for name in ("tensor", "pipeline", "chunks"):
            require(getattr(self, name) > 0, f"parallel.{name}", getattr(self, name), "must be a positive whole number")
        pieces = self.schedule in ("interleaved", "zero-bubble")
        require(
            pieces or self.chunks == 1,
            "parallel.chunks",
            self.chunks,
            f"is for the schedules interleaved and zero-bubble, not {self.schedule}",
        )
        require(
            self.schedule != "interleaved" or self.chunks > 1,
            "parallel.chunks",
            self.chunks,
            "must be above 1 for the schedule interleaved",
        )
