"""A training run: what it is given, what stays fixed while it trains, and how it ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openglm.config import ModelConfig, RunConfig, TrainConfig
from openglm.data.mixture import Rows
from openglm.parallel.processes import Processes
from openglm.text.tokenizer import Tokenizer
from openglm.train.adapters import Adapter
from openglm.train.interrupt import StopRequest
from openglm.train.log import Log
from openglm.train.objective import NextToken, Objective
from openglm.train.state import Saver, State

OnStep = Callable[[int, dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is trained, on which rows, towards what. The same run, given again, goes on from its last checkpoint."""

    config: RunConfig
    """options; those of a dataclass derived from it are kept with the run and held to at a resume, too"""
    rows: Rows
    """what it trains on"""
    heldout: Mapping[str, Rows] = field(default_factory=dict)
    """rows on which the loss is measured, by name"""
    objective: Objective = field(default_factory=NextToken)
    """what a step optimizes"""
    model: ModelConfig | None = None
    """shape of the network; None: that of `init_from`"""
    init_from: str | None = None
    """folder of a model to start from; None: random weights"""
    adapter: Adapter | None = None
    """what is trained beside the model of `init_from`, in its place"""
    tokenizer: Tokenizer | None = None
    """goes into the model's folder, and makes samples readable"""
    workers: int = 0
    """processes that prepare rows ahead; 0: none"""
    attach: Callable[[Session, State], None] | None = None
    """gets the network before the first step, for rows that it makes itself"""
    on_step: OnStep | None = None
    """on_step(step, record) sees every step; record["act"] says what the guard did about it"""

    def settings(self, model: ModelConfig) -> dict[str, Any]:
        """All options that are written beside the output, and held to at a resume."""
        options = {f.name: getattr(self.config, f.name) for f in dataclasses.fields(self.config)}
        order = dict.fromkeys(("model", "train", "optimizer", "parallel", "stability", "init_from"))
        return {**order, **options, "model": model, "init_from": self.init_from, "rows": self.rows.fingerprint}


@dataclass(frozen=True)
class Result:
    """Where a run stands when `train` returns."""

    step: int
    finished: bool
    """False: asked to stop; the same call goes on from here"""
    heldout: dict[str, float]
    """last held-out loss of each source, in nats a token; metrics as source/metric"""
    model: Path | None
    """folder of the finished model, or adapter"""


@dataclass(frozen=True, kw_only=True)
class Session:
    """A run while it trains: what stays fixed in this process."""

    run: Run
    model: ModelConfig
    group: Processes
    settings: dict[str, Any]
    stop: StopRequest
    log: Log | None
    """None but in the first process"""
    saver: Saver

    @property
    def train(self) -> TrainConfig:
        return self.run.config.train

    @property
    def objective(self) -> Objective:
        return self.run.objective

    @property
    def out(self) -> Path:
        return Path(self.train.out)

    @property
    def own_rows(self) -> int:
        """Rows of a step that fall to this process."""
        return self.train.batch_rows // self.group.size("data")
