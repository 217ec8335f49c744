"""How a run is spread over processes."""

from dataclasses import dataclass
from typing import Literal

from openglm.config.checks import Count, Whole, check_fields, require


@dataclass(frozen=True)
class ParallelConfig:
    """How a run is spread over data x tensor x pipeline processes, one for each device, started by torchrun."""

    data: Whole = 0
    """data-parallel replicas; each trains on its share of the rows. 0: as many as the processes allow"""
    tensor: Count = 1
    """processes that split each matrix: heads, feed-forward columns and vocabulary (Megatron-LM)"""
    pipeline: Count = 1
    """pipeline stages; each holds consecutive blocks of the network"""
    zero: Literal[1, 2, 3] = 1
    """ZeRO stage: what replicas shard. 1: optimizer state; 2: gradients too; 3: weights too"""
    schedule: Literal["gpipe", "1f1b", "interleaved", "zero-bubble"] = "1f1b"
    """order of the pipeline's forward and backward passes"""
    chunks: Count = 1
    """parts of the network on each stage, for the interleaved and zero-bubble schedules"""

    def __post_init__(self) -> None:
        check_fields(self, "parallel.")
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
