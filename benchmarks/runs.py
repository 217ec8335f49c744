"""Training runs that measurements start, kill and compare: in processes that say what they do, and under torchrun."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from openglm.config import ModelConfig, OptimizerConfig
from openglm.data.mixture import Row
from openglm.model.transformer import Transformer
from openglm.parallel.processes import Processes
from openglm.train.forward_backward import WholeForwardBackward
from openglm.train.optimizer import Optimizers

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from helpers import crashes, tiny_runs  # the tests' own small runs

__all__ = ["CausalRows", "child", "crashes", "plain_step", "tiny_runs", "torchrun"]


def child(work: Callable[[int], None]) -> tuple[int, int]:
    """Run `work(descriptor to write to)` in a process of its own; returns its number and the descriptor to read from."""
    read, write = os.pipe()
    number = os.fork()
    if number:
        os.close(write)
        return number, read
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    try:
        work(write)
    finally:
        os._exit(0)


def torchrun(processes: int, *arguments: str, restarts: int = 0) -> list[str]:
    """The command that starts a script and its arguments in so many processes on this machine."""
    options = ["--standalone", "--max-restarts", str(restarts), "--monitor-interval", "0.5"]
    launcher = [sys.executable, "-m", "torch.distributed.run", *options, "--nproc-per-node", str(processes)]
    return [*(launcher if processes > 1 or restarts else [sys.executable]), *arguments]


class CausalRows:
    """Random rows that are all part B: each token sees its past, and all are trained."""

    fingerprint = "random"

    def __init__(self, vocab: int, seq_len: int) -> None:
        self.vocab, self.seq_len = vocab, seq_len

    def row(self, index: int) -> Row:
        text = np.random.default_rng(index).integers(10, self.vocab, self.seq_len + 1)
        position = np.arange(self.seq_len)
        return Row(
            tokens=text[:-1].copy(),
            targets=text[1:].copy(),
            loss_mask=np.ones(self.seq_len, np.float32),
            position=position,
            block_position=position + 1,
            segment=np.zeros_like(position),
        )


def plain_step(config: ModelConfig, micro_rows: int, dtype: torch.dtype) -> Callable[[dict[str, np.ndarray]], None]:
    """Our step without the loop around it: passes, clipping and update of a fresh network, on the batch that is given."""
    torch.manual_seed(1)
    model, alone = Transformer(config), Processes(torch.device("cpu"))
    model.initialize()
    forward_backward = WholeForwardBackward(model.train(), alone, dtype, micro_rows)
    optimizers = Optimizers(model.named_parameters(), OptimizerConfig(), dtype, alone)

    def step(batch: dict[str, np.ndarray]) -> None:
        forward_backward.gradient(batch, float(batch["loss_mask"].sum()))
        optimizers.clip()
        optimizers.step(1e-3)

    return step
