"""The smallest training run that has everything: rows of uneven length with an order to them, and a network of two blocks."""

import json
import os

import numpy as np

from openglm.config import ModelConfig, OptimizerConfig, ParallelConfig, RunConfig, StabilityConfig, TrainConfig
from openglm.data.mixture import Row
from openglm.train.loop import train
from openglm.train.run import Run

SEQ, VOCAB = 24, 40
MODEL = ModelConfig(
    vocab_size=VOCAB, layers=2, hidden=16, heads=2, kv_heads=1, ffn_hidden=32, max_positions=SEQ, qk_norm=True
)


class Rows:
    """Row i: a context, then its repetition to be predicted; the rest is padding. A function of (seed, i) alone."""

    fingerprint = "tiny"

    def __init__(self, seed: int = 0, seq: int = SEQ, vocab: int = VOCAB) -> None:
        self.seed, self.seq, self.vocab, self.asked = seed, seq, vocab, []

    def row(self, i: int) -> Row:
        self.asked.append(i)
        rng = np.random.default_rng((self.seed, i))
        n = int(rng.integers(4, self.seq // 2 + 1))
        context = rng.integers(10, self.vocab, n)
        text = np.concatenate([context, context, np.zeros(self.seq - 2 * n + 1, np.int64)])
        at = np.arange(self.seq)
        inside = at < 2 * n
        part_b = inside & (at >= n)
        loss = (part_b & (at < 2 * n - 1)).astype(np.float32)
        return Row(
            tokens=text[:-1].copy(),
            targets=text[1:].copy(),
            loss_mask=loss,
            position=np.where(inside, at, 0),
            block_position=np.where(part_b, at - n + 1, 0),
            segment=np.where(inside, 0, -1),
        )


class Poisoned(Rows):
    """Some rows weigh so much that the loss of their batch is not finite."""

    def __init__(self, *bad: int) -> None:
        super().__init__()
        self.bad = bad

    def row(self, i):
        row = super().row(i)
        if i in self.bad:
            row.loss_mask[row.loss_mask > 0] = 3e38
        return row


def options(out, **changes) -> TrainConfig:
    usual = {
        "steps": 12,
        "seq_len": SEQ,
        "batch_rows": 8,
        "accumulation": 2,
        "save_every": 4,
        "log_every": 3,
        "eval_every": 6,
        "eval_rows": 4,
    }
    return TrainConfig(**{"out": str(out), **usual, "device": "cpu", "dtype": "float32", **changes})


def run(
    out,
    optimizer=None,
    rows=None,
    on_step=None,
    workers=0,
    model=MODEL,
    init_from=None,
    stability=None,
    parallel=None,
    **changes,
):
    config = RunConfig(
        train=options(out, **changes),
        optimizer=optimizer or OptimizerConfig(lr=1e-2),
        stability=StabilityConfig(**stability or {}),
        parallel=ParallelConfig(**parallel or {}),
    )
    return train(
        Run(
            config=config,
            model=model,
            rows=rows or Rows(),
            heldout={"heldout": Rows(9)},
            init_from=init_from,
            workers=workers,
            on_step=on_step,
        )
    )


def run_spread(out, parallel, stability, bad) -> None:
    """A run's part in one of several processes."""
    run(out, rows=Poisoned(*bad), stability=stability, parallel=parallel)


def run_without_end(out) -> None:
    """As a user's own process, which leads a group of its own; it says each step, and at last how far it came."""
    os.setsid()

    def say(step, _):
        print("step", step, flush=True)

    result = run(out, workers=1, steps=100_000, save_every=50, eval_every=100_000, on_step=say)
    print(result.step, result.finished)


def log_lines(out) -> list[dict]:
    """The log without what depends on the clock."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "wall"} for line in lines]
