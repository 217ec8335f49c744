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
from measure import in_turn, ratio
from runs import CausalRows, plain_step

from openglm.config import RunConfig, TrainConfig
from openglm.data.mixture import batches
from openglm.presets import model_preset
from openglm.train.loop import train
from openglm.train.run import Run

MODEL, SEQ, ROWS, PARTS = model_preset("nano"), 512, 8, 2
RANDOM = CausalRows(MODEL.vocab_size, SEQ)


def plain(steps: int) -> list[float]:
    """Seconds of each step but the first."""
    step, marks = plain_step(MODEL, ROWS // PARTS, torch.float32), []
    stream = batches(RANDOM, 0, ROWS, 0)
    for _ in range(steps):
        step(next(stream))
        marks.append(time.perf_counter())
    return list(np.diff(marks))


def ours(steps: int) -> list[float]:
    marks: list[float] = []
    with tempfile.TemporaryDirectory() as out:
        options = TrainConfig(
            out, steps, SEQ, ROWS, PARTS, device="cpu", dtype="float32", save_every=steps, eval_every=steps, log_every=1
        )
        config = RunConfig(train=options)
        train(Run(config=config, model=MODEL, rows=RANDOM, on_step=lambda *_: marks.append(time.perf_counter())))
    return list(np.diff(marks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="turns")
    parser.add_argument("--steps", type=int, default=5, help="steps of a turn")
    args = parser.parse_args()
    runs = {"plain": plain, "ours": ours}
    contenders = {name: lambda _, run=run: statistics.median(run(args.steps)) for name, run in runs.items()}
    found = in_turn(contenders, args.rounds)
    plain_, ours_ = (statistics.median(found[name]) for name in ("plain", "ours"))
    apart = ratio(found["ours"], found["plain"])
    print(
        f"seconds a step: plain {plain_:.3f}, ours {ours_:.3f}; median of the rounds' ratios {apart:.3f}; {torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    main()
