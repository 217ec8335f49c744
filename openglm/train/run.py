"""A training run: what stays fixed while it trains, where its rows come from, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from openglm.config import OptimizerConfig, ParallelConfig, TrainConfig
from openglm.data.mixture import Row
from openglm.parallel.processes import Processes
from openglm.text.tokenizer import Tokenizer
from openglm.train.interrupt import StopRequest
from openglm.train.log import Log
from openglm.train.state import Saver


class Rows(Protocol):
    """Where rows come from: `data.mixture.Mixture`, or anything like it."""

    fingerprint: str

    def row(self, index: int) -> Row: ...


@dataclass(frozen=True)
class Result:
    """Where a run stands when `train` returns."""

    step: int
    finished: bool
    """False: asked to stop; the same call goes on from here"""
    heldout: dict[str, float]
    """last held-out loss of each source, in nats a token"""
    model: Path | None
    """folder of the finished model"""


@dataclass(frozen=True)
class Run:
    """What stays fixed while a run trains."""

    train: TrainConfig
    optimizer: OptimizerConfig
    parallel: ParallelConfig
    group: Processes
    rows: Rows
    heldout: dict[str, Rows]
    tokenizer: Tokenizer | None
    settings: dict[str, Any]
    workers: int
    stop: StopRequest
    log: Log | None
    """None but in the first process"""
    saver: Saver
    on_step: Callable[[int, dict[str, Any]], None] | None

    @property
    def out(self) -> Path:
        return Path(self.train.out)

    @property
    def own_rows(self) -> int:
        """Rows of a step that fall to this process."""
        return self.train.batch_rows // self.group.size("data")
