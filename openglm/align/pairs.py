"""Runs on pairs of answers: reads the files, measures the reference, hands rows and objective to the training loop.

Shapes: T tokens of a row, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openglm.align.objectives import PreferencePairs, RewardPairs
from openglm.checkpoints.load import load_model, network_config
from openglm.checkpoints.native import resolve, save_model
from openglm.config import DPOConfig, ModelConfig, PairsRunConfig, RewardConfig
from openglm.data.dialogue import read_records
from openglm.data.preferences import CHOSEN, PreferenceRow, PreferenceRows, preference
from openglm.model.positions import training_mask
from openglm.model.transformer import Transformer
from openglm.parallel.processes import shape
from openglm.runtime import choose_dtype, launched, progress, say
from openglm.text.load import load_tokenizer
from openglm.text.tokenizer import Tokenizer
from openglm.train.forward_backward import to_device
from openglm.train.loop import train
from openglm.train.objective import Head, Objective
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
    model, tokenizer = network_config(folder), load_tokenizer(folder)
    rows, heldout = read_pairs(config, model, tokenizer)
    if config.loss != "simpo":
        reference = load_model(folder, device=config.train.device, dtype="float32")
        dtype = choose_dtype(config.train.dtype, reference.device)
        for each in (rows, *heldout.values()):
            each.reference = log_probabilities(reference, each, dtype)
        del reference
    objective = PreferencePairs(config.loss, config.beta, config.gamma)
    return train(_run(config, model, tokenizer, rows, heldout, objective, on_step))


def reward(config: RewardConfig, on_step: OnStep | None = None) -> Result:
    """Teach `config.init_from` to score answers, in `config.train.out`; the same call resumes.

    The finished model's rewards have mean 0 over the chosen answers that it learnt from (arXiv 2403.17031). Raises
    ValueError in one line.
    """
    shape(config.parallel, launched()[0])
    folder = resolve(config.init_from)
    model, tokenizer = replace(network_config(folder), score=True), load_tokenizer(folder)
    rows, heldout = read_pairs(config, model, tokenizer)
    result = train(_run(config, model, tokenizer, rows, heldout, RewardPairs(config.shrink), on_step))
    if result.model is not None and launched()[1] == 0:
        trained = load_model(result.model, device=config.train.device, dtype="float32")
        dtype = choose_dtype(config.train.dtype, trained.device)
        mean = float(np.mean([pair[CHOSEN] for pair in rewards(trained, rows, dtype)]))
        with torch.no_grad():
            trained.score.bias -= mean
        save_model(result.model, trained, tokenizer)
    return result


def read_pairs(
    config: PairsRunConfig, model: ModelConfig, tokenizer: Tokenizer
) -> tuple[PreferenceRows, dict[str, PreferenceRows]]:
    """Training rows and held-out rows; says what was read."""

    def read(option: str) -> PreferenceRows:
        file = getattr(config.data, option)
        rows = PreferenceRows(
            read_records(file, preference, f"data.{option}"),
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


def log_probabilities(model: Transformer, rows: PreferenceRows, dtype: torch.dtype) -> Measured:
    """Of the targets of every sample [its tokens]; 0 where nothing is trained."""

    def measure(head: Head, hidden_TH: Tensor, row: PreferenceRow) -> Tensor:
        trained = torch.from_numpy(row.loss_mask).nonzero()[:, 0].to(hidden_TH.device)
        targets = torch.from_numpy(row.targets).to(hidden_TH.device)[trained]
        found_T = hidden_TH.new_zeros(len(hidden_TH), dtype=torch.float32)
        return found_T.index_copy(0, trained, head.log_probability(hidden_TH[trained], targets))

    return _measure(model, rows, dtype, measure, "measuring the reference")


def rewards(model: Transformer, rows: PreferenceRows, dtype: torch.dtype) -> Measured:
    """The reward of every answer [1]."""

    def measure(head: Head, hidden_TH: Tensor, row: PreferenceRow) -> Tensor:
        return head.scores(hidden_TH) * torch.from_numpy(row.end).to(hidden_TH.device)

    found = _measure(model, rows, dtype, measure, "scoring answers")
    return [[answer.sum(keepdims=True) for answer in pair] for pair in found]


@torch.no_grad()
def _measure(
    model: Transformer,
    rows: PreferenceRows,
    dtype: torch.dtype,
    measure: Callable[[Head, Tensor, PreferenceRow], Tensor],
    what: str,
) -> Measured:
    """measure(head, hidden states [T, H], row) -> [T] of every row, cut into its samples."""
    empty: NDArray[np.float32] = np.zeros(0, np.float32)
    found: Measured = [[empty, empty] for _ in range(len(rows))]
    with progress(what, rows.rows, "rows") as advance:
        for pairs, side, row in rows.each():
            arrays = {name: getattr(row, name)[None] for name in ("tokens", "position", "block_position", "segment")}
            tokens, positions, segment = to_device(arrays, model.device)
            mask = training_mask(segment, positions[:, 1], model.config.mask)
            with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
                hidden_TH = model(tokens, positions, mask)[0]
            values = measure(Head(model, dtype), hidden_TH, row).cpu().numpy()
            ends = np.cumsum([len(rows.samples[pair][side]) for pair in pairs])
            for pair, piece in zip(pairs, np.split(values, ends), strict=False):
                found[pair][side] = piece
            advance()
    return found
