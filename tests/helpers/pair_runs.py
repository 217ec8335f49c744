"""A made-up preference objective over two segments of a row, and runs of it."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from openglm.config import ModelConfig, OptimizerConfig, ParallelConfig, RunConfig, TrainConfig
from openglm.data.mixture import NetworkRow
from openglm.train.loop import train
from openglm.train.objective import Batch, Head
from openglm.train.run import Result, Run

HALF, VOCAB = 8, 24
SEQ = 2 * HALF
MODEL = ModelConfig(vocab_size=VOCAB, layers=2, hidden=16, heads=2, ffn_hidden=32, max_positions=SEQ)


@dataclass(frozen=True, kw_only=True)
class PairRow(NetworkRow):
    """A preferred answer (segment 0) and a rejected one (segment 1)."""

    answer: NDArray[np.bool_]
    next_token: NDArray[np.int64]
    reference: NDArray[np.float32]
    """log-probabilities of a reference model"""
    margin: NDArray[np.float32]
    """one number a row: how far apart the two should be"""


class Pairs:
    """Row i: the preferred answer has even tokens and the rejected one odd ones, after the same prompt. Some rows hold no pair."""

    fingerprint = "pairs"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def row(self, index: int) -> PairRow:
        rng = np.random.default_rng((self.seed, index))
        prompt = rng.integers(0, VOCAB, 3)
        answers = [2 * rng.integers(0, VOCAB // 2, HALF - 2) + parity for parity in (0, 1)]
        texts = [np.concatenate([prompt, answer]) for answer in answers]
        at = np.arange(HALF)
        answered = (
            (at >= 2) & (at < HALF - index % 3) & (index % 5 != 0)
        )  # of different lengths, and no pair in each fifth row
        return PairRow(
            tokens=np.concatenate([text[:HALF] for text in texts]),
            position=np.tile(at, 2),
            block_position=np.tile(at + 1, 2),
            segment=np.repeat([0, 1], HALF),
            answer=np.tile(answered, 2),
            next_token=np.concatenate([text[1:] for text in texts]),
            reference=rng.normal(-3, 0.1, SEQ).astype(np.float32),
            margin=np.asarray(1 + index % 2, np.float32),
        )


@dataclass(frozen=True)
class PairMargin:
    """softplus(margin - (score of the preferred - score of the rejected)); a score is the answer's log-probability over the reference's."""

    fields: tuple[str, ...] = ("next_token", "reference", "segment", "margin", "row")
    where: str = "answer"
    by_position: bool = False
    metrics: tuple[str, ...] = ("accuracy",)

    def count(self, batch: Batch) -> float:
        return float(batch["answer"].any(axis=1).sum())

    def loss(self, head: Head, hidden_NH: Tensor, fields: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        gain_N = -head.cross_entropy(hidden_NH, fields["next_token"]) - fields["reference"]
        rows, row_of_N = fields["row"].unique(return_inverse=True)
        scores_R2 = gain_N.new_zeros(2 * len(rows)).index_add(0, 2 * row_of_N + fields["segment"], gain_N).view(-1, 2)
        margin_R = gain_N.new_zeros(len(rows)).index_copy(0, row_of_N, fields["margin"])
        ahead_R = scores_R2[:, 0] - scores_R2[:, 1]
        return F.softplus(margin_R - ahead_R).sum(), {"accuracy": (ahead_R > 0).sum()}


def run(out: Path, parallel: ParallelConfig, steps: int = 12, lr: float = 1e-2) -> tuple[Result, list[dict]]:
    """Train on pairs; the result, and the record of each step."""
    options = TrainConfig(
        out=str(out),
        steps=steps,
        seq_len=SEQ,
        batch_rows=8,
        accumulation=2,
        device="cpu",
        dtype="float32",
        save_every=steps,
        log_every=1,
        eval_every=steps,
        eval_rows=8,
    )
    config = RunConfig(train=options, optimizer=OptimizerConfig(lr=lr), parallel=parallel)
    records: list[dict] = []
    objective = PairMargin()
    result = train(
        Run(
            config=config,
            model=MODEL,
            rows=Pairs(0),
            heldout={"kept": Pairs(1)},
            objective=objective,
            on_step=lambda _, record: records.append(record),
        )
    )
    return result, records


def run_spread(folder: Path, runs: dict[str, dict]) -> None:
    """Train in FOLDER/name with those options of `parallel`; the first of the processes writes FOLDER/name.json."""
    dist.init_process_group("gloo")
    for name, parallel in runs.items():
        result, records = run(folder / name, ParallelConfig(**parallel))
        if int(os.environ["RANK"]) == 0:
            (folder / f"{name}.json").write_text(json.dumps({"heldout": result.heldout, "records": records}))
    dist.destroy_process_group()
