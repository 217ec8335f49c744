"""What the training loop costs over a plain one in one process: guard, log, running sums, progress bar, agreement between processes.

    python benchmarks/loop_overhead.py [--rounds 10] [--steps 5]

nano's shape, 8 rows of 512 tokens in two parts (a quarter of nano's own step, so that a fixed cost shows more), fp32, AdamW. The plain loop has rows, passes,
clipping and the update, and nothing else. They take turns; medians, and the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import numpy as np
import torch

from openglm.config import OptimizerConfig, RunConfig, TrainConfig
from openglm.data.mixture import Row, batches
from openglm.model.transformer import Transformer
from openglm.parallel.processes import Processes
from openglm.presets import model_preset
from openglm.train.forward_backward import WholeForwardBackward
from openglm.train.loop import train
from openglm.train.optimizer import Optimizers
from openglm.train.run import Run

MODEL, SEQ, ROWS, PARTS = model_preset("nano"), 512, 8, 2


class Rows:
    """Random rows that are all part B."""

    fingerprint = "random"

    def row(self, i: int) -> Row:
        text, at = np.random.default_rng(i).integers(10, MODEL.vocab_size, SEQ + 1), np.arange(SEQ)
        return Row(
            tokens=text[:-1].copy(),
            targets=text[1:].copy(),
            loss_mask=np.ones(SEQ, np.float32),
            position=at,
            block_position=at + 1,
            segment=np.zeros_like(at),
        )


def plain(steps: int) -> list[float]:
    """Seconds of each step but the first."""
    torch.manual_seed(1)
    model, alone, marks = Transformer(MODEL), Processes(torch.device("cpu")), []
    model.initialize()
    forward_backward, optimizers = (
        WholeForwardBackward(model, alone, torch.float32, ROWS // PARTS),
        Optimizers(model.named_parameters(), OptimizerConfig(), torch.float32, alone),
    )
    stream = batches(Rows(), 0, ROWS, 0)
    for _ in range(steps):
        batch = next(stream)
        forward_backward.gradient(batch, float(batch["loss_mask"].sum()))
        optimizers.clip()
        optimizers.step(1e-3)
        marks.append(time.perf_counter())
    return list(np.diff(marks))


def ours(steps: int) -> list[float]:
    marks: list[float] = []
    with tempfile.TemporaryDirectory() as out:
        options = TrainConfig(
            out, steps, SEQ, ROWS, PARTS, device="cpu", dtype="float32", save_every=steps, eval_every=steps, log_every=1
        )
        config = RunConfig(train=options)
        train(Run(config=config, model=MODEL, rows=Rows(), on_step=lambda *_: marks.append(time.perf_counter())))
    return list(np.diff(marks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="turns")
    parser.add_argument("--steps", type=int, default=5, help="steps of a turn")
    args = parser.parse_args()
    found: dict[str, list[float]] = {"plain": [], "ours": []}
    for round_ in range(args.rounds):
        for name, run in (("plain", plain), ("ours", ours)) if round_ % 2 else (("ours", ours), ("plain", plain)):
            found[name].append(statistics.median(run(args.steps)))
    ratio = statistics.median(a / b for a, b in zip(found["ours"], found["plain"], strict=True))
    plain_, ours_ = (statistics.median(found[name]) for name in ("plain", "ours"))
    print(
        f"seconds a step: plain {plain_:.3f}, ours {ours_:.3f}; median of the rounds' ratios {ratio:.3f}; {torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    main()
