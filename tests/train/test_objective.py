"""The loop trains whatever an objective says: a made-up preference loss runs through it unchanged, alone, data-parallel and in a pipeline."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.pair_runs import MODEL, PairMargin, Pairs, run, run_spread
from helpers.processes import run_together

from openglm.config import ParallelConfig
from openglm.data.mixture import batches
from openglm.model.positions import training_mask
from openglm.model.transformer import Transformer
from openglm.parallel.processes import Processes
from openglm.train import loss as loss_module
from openglm.train.forward_backward import WholeForwardBackward

ALONE = Processes(torch.device("cpu"))
SPREAD = {"shared": {"data": 2, "zero": 3}, "piped": {"pipeline": 2}, "cut": {"tensor": 2}}


@pytest.fixture
def model():
    found = Transformer(MODEL)
    found.initialize(torch.Generator().manual_seed(3))
    return found


@pytest.fixture
def batch():
    return next(batches(Pairs(0), 0, 8, 0))


def log_probs(model, batch):
    """Of every next token, in the plainest way [B, T]."""
    tokens, segment, block = (torch.from_numpy(batch[name]) for name in ("tokens", "segment", "block_position"))
    positions = torch.stack([torch.from_numpy(batch["position"]), block], 1)
    logits = model.project(model(tokens, positions, training_mask(segment, block)))
    return logits.log_softmax(-1).gather(-1, torch.from_numpy(batch["next_token"])[..., None])[..., 0]


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return found


def assert_gradients_equal(found, expected):
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("micro_rows", [1, 3, 8])
def test_a_loss_over_whole_rows_has_the_gradient_of_its_definition(model, batch, micro_rows, monkeypatch):
    """In any division into micro-batches, some of which hold no pair."""
    monkeypatch.setitem(loss_module._LOGITS_AT_ONCE, "cpu", 1)  # pieces, were it a sum over positions
    gain, answer = log_probs(model, batch) - torch.from_numpy(batch["reference"]), torch.from_numpy(batch["answer"])
    half = answer.shape[1] // 2
    score = torch.where(answer, gain, 0)
    ahead = score[:, :half].sum(1) - score[:, half:].sum(1)
    held = answer.any(1)
    total = F.softplus(torch.from_numpy(batch["margin"]) - ahead)[held].sum()
    (total / 6).backward()
    expected = gradients(model)

    forward_backward = WholeForwardBackward(model, ALONE, torch.float32, micro_rows, objective=PairMargin())
    sums = forward_backward.gradient(batch, 6.0)
    assert PairMargin().count(batch) == int(held.sum()) == 6
    assert sums.loss == pytest.approx(float(total.detach()), rel=1e-5)
    assert sums.metrics == {"accuracy": int((ahead > 0)[held].sum())}
    assert_gradients_equal(gradients(model), expected)
    assert forward_backward.evaluate(batch).loss == pytest.approx(sums.loss, rel=1e-6)


@dataclass(frozen=True)
class Clipped:
    """PPO's clipped ratio, token by token: advantages are the row's margin, the old log-probabilities its reference."""

    fields: tuple[str, ...] = ("next_token", "reference", "margin")
    where: str = "answer"
    by_position: bool = True
    metrics: tuple[str, ...] = ("ratio", "clipped")

    def count(self, batch):
        return float(batch["answer"].sum())

    def loss(self, head, hidden_NH, fields):
        ratio = torch.exp(-head.cross_entropy(hidden_NH, fields["next_token"]) - fields["reference"])
        gain = torch.minimum(ratio * fields["margin"], ratio.clamp(0.8, 1.2) * fields["margin"])
        return -gain.sum(), {"ratio": ratio.sum(), "clipped": (ratio > 1.2).sum()}


@pytest.mark.parametrize("at_once", [1, 1 << 22])
def test_a_loss_over_positions_reads_fields_of_tokens_and_of_rows(model, batch, monkeypatch, at_once):
    wide = {
        name: np.tile(array, (4,) + (1,) * (array.ndim - 1)) for name, array in batch.items()
    }  # more than one piece
    monkeypatch.setitem(loss_module._LOGITS_AT_ONCE, "cpu", at_once)
    ratio = torch.exp(log_probs(model, wide) - torch.from_numpy(wide["reference"]))
    margin = torch.from_numpy(wide["margin"])[:, None]
    answer = torch.from_numpy(wide["answer"])
    total = -torch.minimum(ratio * margin, ratio.clamp(0.8, 1.2) * margin)[answer].sum()
    (total / 100).backward()
    expected = gradients(model)
    sums = WholeForwardBackward(model, ALONE, torch.float32, 32, objective=Clipped()).gradient(wide, 100.0)
    assert int(answer.sum()) > 64  # positions_at_once is never below
    assert sums.loss == pytest.approx(float(total.detach()), rel=1e-5)
    assert sums.metrics["ratio"] == pytest.approx(float(ratio[answer].sum().detach()), rel=1e-5)
    assert sums.metrics["clipped"] == int((ratio > 1.2)[answer].sum())
    assert_gradients_equal(gradients(model), expected)


def test_the_loop_learns_a_preference_and_reports_its_metrics(tmp_path):
    result, records = run(tmp_path, ParallelConfig(), steps=40, lr=3e-2)
    assert result.finished and result.heldout.keys() == {"kept", "kept/accuracy"}
    assert result.heldout["kept/accuracy"] == 1.0 and result.heldout["kept"] < records[0]["loss"] / 4
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    logged = [line["metrics"]["accuracy"] for line in lines if "metrics" in line]
    assert logged == [record["metrics"]["accuracy"] for record in records] and logged[-1] == 1.0
    assert [record["trained"] for record in records[:3]] == [6, 6, 7]  # pairs: rows 0, 5, 10, 15, 20 have none


def test_in_two_processes_it_is_the_run_in_one(tmp_path):
    run_together(2, run_spread, tmp_path, SPREAD)
    result, records = run(tmp_path / "alone", ParallelConfig())
    for name in SPREAD:
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert found["heldout"] == pytest.approx(result.heldout, rel=1e-5), name
        for ours, expected in zip(found["records"], records, strict=True):
            for key in ("loss", "grad_norm"):
                assert ours[key] == pytest.approx(expected[key], rel=1e-4), (name, ours["step"], key)
            assert ours["metrics"] == expected["metrics"] and ours["trained"] == expected["trained"]
