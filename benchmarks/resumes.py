"""Kill a training run at random instants and resume it, again and again, and compare it with one that was left alone.

    python benchmarks/resumes.py [--resumes 50] [--optimizer muon] [--seed 0]

Compared bit for bit: weights, running average, optimizer, random number generators, rows consumed, the loss of every step (also of steps that
were done twice), and log.jsonl without its clock. One JSON object on standard output.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from runs import child, crashes, tiny_runs

from openglm.config import OptimizerConfig

SAVE_EVERY = 3


def train_on(out: Path, steps: int, optimizer: str, workers: int, write: int) -> None:
    torch.set_num_threads(1)

    def report(step, record):
        os.write(write, f"{step} {record['loss'].hex()} {record['grad_norm'].hex()}\n".encode())

    tiny_runs.run(
        out,
        OptimizerConfig(optimizer, lr=1e-2),
        on_step=report,
        workers=workers,
        steps=steps,
        ema=0.9,
        save_every=SAVE_EVERY,
        log_every=2,
        eval_every=7,
    )


def broken_run(out: Path, steps: int, options: argparse.Namespace, expected: dict[str, str]) -> tuple[int, int]:
    """Kill and resume until the end; returns (resumes, steps whose figures differ)."""
    chance, resumes, differing = random.Random(options.seed), -1, 0
    while True:
        resumes += 1
        number, read = child(partial(train_on, out, steps, options.optimizer, resumes % 2))
        left = chance.randint(1, 2 * SAVE_EVERY - 1) if resumes < options.resumes else steps + 1
        with os.fdopen(read) as lines:
            for line in lines:
                step, *figures = line.split()
                differing += expected[step] != " ".join(figures)
                left -= 1
                if left == 0:
                    time.sleep(chance.uniform(0, 0.05))
                    os.kill(number, signal.SIGKILL)
                    break
            else:
                os.waitpid(number, 0)
                return resumes, differing
            for line in lines:
                if line.endswith("\n"):
                    step, *figures = line.split()
                    differing += expected[step] != " ".join(figures)
        os.waitpid(number, 0)
        if resumes % 10 == 0:
            print(f"{resumes} resumes, step {step}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resumes", type=int, default=50, help="kills of the broken run")
    parser.add_argument("--optimizer", default="muon", choices=("adamw", "muon"), help="optimizer of both runs")
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    options = parser.parse_args()
    importlib.import_module("torch.utils.tensorboard")  # once here, not in every child
    steps, started = options.resumes * 2 * SAVE_EVERY, time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="resumes-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        number, read = child(partial(train_on, folder / "whole", steps, options.optimizer, 0))
        with os.fdopen(read) as lines:
            expected = {step: " ".join(figures) for step, *figures in map(str.split, lines)}
        os.waitpid(number, 0)
        resumes, differing = broken_run(folder / "broken", steps, options, expected)
        whole, broken = (crashes.everything(folder / run, steps) for run in ("whole", "broken"))
    tensors, others = (
        {(kind, name): tensor for kind, named in kinds.items() for name, tensor in named.items()}
        for kinds, _, _ in (whole, broken)
    )
    both = tensors.keys() & others.keys()
    unequal = tensors.keys() ^ others.keys() | {key for key in both if not torch.equal(tensors[key], others[key])}
    found = {
        "resumes": resumes, "steps": steps, "tensors": len(tensors), "tensors_that_differ": len(unequal), "state_equal": whole[1] == broken[1],
        "steps_that_differ": differing, "log_equal": whole[2] == broken[2], "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
