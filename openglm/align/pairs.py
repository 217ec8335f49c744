"""Runs on pairs of answers: reads the files, measures the reference, hands rows and objective to the training loop.

Shapes: B rows, T tokens of a row, H hidden.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openglm.align.measure import Read, log_probabilities, measure
from openglm.align.objectives import PreferencePairs, RewardPairs
from openglm.align.report import write_report
from openglm.checkpoints.load import load_model, network_and_tokenizer
from openglm.checkpoints.native import resolve, save_model
from openglm.config import DPOConfig, ModelConfig, PairsRunConfig, RewardConfig
from openglm.data.preferences import CHOSEN, PreferenceRows, preference
from openglm.data.records import read_records
from openglm.model.transformer import Transformer
from openglm.parallel.processes import shape
from openglm.runtime import choose_dtype, launched, progress, say
from openglm.text.tokenizer import Tokenizer
from openglm.train.loop import train
from openglm.train.objective import Batch, Head, Objective
from openglm.train.run import OnStep, Result, Run

Measured = list[list[NDArray[np.float32]]]
"""of every pair, numbers of its chosen and of its rejected answer"""


def dpo(config: DPOConfig, on_step: OnStep | None = None) -> Result:
    """Tune `config.init_from` to prefer the chosen answers, in `config.train.out`; the same call resumes.

    The reference is the model as it starts. It is measured once, before training, so no second model is in memory.
    Raises ValueError in one line.
    """
    shape(config.parallel, launched()[0])  # before files are read, which takes a while
    folder = resolve(config.init_from)
    model, tokenizer = network_and_tokenizer(folder)
    rows, heldout = read_pairs(config, model, tokenizer)
    if config.loss != "simpo":
        reference = load_model(folder, device=config.train.device, dtype="float32")
        dtype = choose_dtype(config.train.dtype, reference.device)
        read, at_once = log_probabilities(), config.train.batch_rows // config.train.accumulation
        for each in (rows, *heldout.values()):
            each.reference = measure_pairs(reference, each, dtype, read, "measuring the reference", at_once)
        del reference
    objective = PreferencePairs(config.loss, config.beta, config.gamma)
    result = train(_run(config, model, tokenizer, rows, heldout, objective, on_step))
    if result.model is not None and launched()[1] == 0:
        write_report(Path(config.train.out))
    return result


def reward(config: RewardConfig, on_step: OnStep | None = None) -> Result:
    """Teach `config.init_from` to score answers, in `config.train.out`; the same call resumes.

    The finished model's rewards have mean 0 over the chosen answers that it learnt from (arXiv 2403.17031). Raises
    ValueError in one line.
    """
    shape(config.parallel, launched()[0])
    folder = resolve(config.init_from)
    model, tokenizer = network_and_tokenizer(folder)
    model = replace(model, score=True)
    rows, heldout = read_pairs(config, model, tokenizer)
    result = train(_run(config, model, tokenizer, rows, heldout, RewardPairs(config.shrink), on_step))
    if result.model is not None and launched()[1] == 0:
        trained = load_model(result.model, device=config.train.device, dtype="float32")
        dtype = choose_dtype(config.train.dtype, trained.device)
        at_once = config.train.batch_rows // config.train.accumulation
        mean = float(rewards(trained, rows, dtype, at_once)[:, CHOSEN].mean())
        assert trained.score is not None
        with torch.no_grad():
            trained.score.bias -= mean
        save_model(result.model, trained, tokenizer)
        write_report(Path(config.train.out))
    return result


def read_pairs(
    config: PairsRunConfig, model: ModelConfig, tokenizer: Tokenizer
) -> tuple[PreferenceRows, dict[str, PreferenceRows]]:
    """Training rows and held-out rows; says what was read."""

    def read(option: str) -> PreferenceRows:
        file = getattr(config.data, option)
        rows = PreferenceRows(
            read_records(file, preference, f"data.{option}", config.data.skip_bad),
            tokenizer,
            model.tokens,
            seq_len=config.train.seq_len,
            span_positions=model.span_positions,
            seed=config.data.seed,
        )
        say(f"{file}: {rows.summary}")
        return rows

    return read("pairs"), {"heldout": read("heldout")} if config.data.heldout else {}


def _run(
    config: PairsRunConfig,
    model: ModelConfig,
    tokenizer: Tokenizer,
    rows: PreferenceRows,
    heldout: dict[str, PreferenceRows],
    objective: Objective,
    on_step: OnStep | None,
) -> Run:
    return Run(
        config=config,
        model=model,
        rows=rows,
        heldout=heldout,
        objective=objective,
        tokenizer=tokenizer,
        init_from=str(resolve(config.init_from)),
        workers=config.data.workers,
        on_step=on_step,
    )


def measure_pairs(
    model: Transformer, rows: PreferenceRows, dtype: torch.dtype, read: Read, what: str, at_once: int = 1
) -> Measured:
    """What `read` finds in every answer; `at_once` rows go through the network together."""
    empty: NDArray[np.float32] = np.zeros(0, np.float32)
    found: Measured = [[empty, empty] for _ in range(len(rows))]
    each = list(rows.each())
    with progress(what, len(each), "rows") as advance:
        measured = measure(model, (row for *_, row in each), dtype, read, at_once)
        for (pairs, side, _), values in zip(each, measured, strict=True):
            ends = np.cumsum([len(rows.samples[pair][side]) for pair in pairs])
            for pair, piece in zip(pairs, np.split(values, ends), strict=False):
                found[pair][side] = piece
            advance()
    return found


def rewards(model: Transformer, rows: PreferenceRows, dtype: torch.dtype, at_once: int = 1) -> NDArray[np.float32]:
    """[pairs, 2] the reward of every answer; `at_once` rows go through the network together."""

    def read(head: Head, hidden_BTH: Tensor, batch: Batch) -> Tensor:
        return head.scores(hidden_BTH) * torch.from_numpy(batch["end"]).to(hidden_BTH.device)

    found = measure_pairs(model, rows, dtype, read, "scoring answers", at_once)
    return np.array([[answer.sum() for answer in pair] for pair in found], np.float32)
