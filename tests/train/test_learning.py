"""What a step does: the right loss, the right gradient, every parameter once, and a network that learns."""

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.tiny_runs import MODEL, SEQ, VOCAB, Rows, log_lines, run
from hypothesis import given
from hypothesis import strategies as st

from openglm.checkpoints.load import load_model
from openglm.config import ModelConfig, OptimizerConfig
from openglm.data.mixture import batches
from openglm.model.positions import training_mask
from openglm.model.transformer import Transformer
from openglm.parallel.processes import Processes
from openglm.train import loss as loss_module
from openglm.train.forward_backward import WholeForwardBackward
from openglm.train.loss import step_flops
from openglm.train.optimizer import Muon, Optimizers, learning_rate, orthogonalize, parameter_groups

ALONE = Processes(torch.device("cpu"))


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Transformer(MODEL)
    model.initialize()
    return model


@pytest.fixture
def batch():
    return next(batches(Rows(), 0, 6, 0))


def plain_loss(model, batch):
    """The definition: logits of every position, cross entropy, weighted mean."""
    tokens, segment, block = (torch.from_numpy(batch[name]) for name in ("tokens", "segment", "block_position"))
    positions = torch.stack([torch.from_numpy(batch["position"]), block], 1)
    logits = model.project(model(tokens, positions, training_mask(segment, block, model.config.mask)))
    losses = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch["targets"]).flatten(), reduction="none")
    weights = torch.from_numpy(batch["loss_mask"]).flatten()
    return (losses * weights).sum(), weights.sum()


def forward_backward(model, rows=6):
    return WholeForwardBackward(model, ALONE, torch.float32, rows)


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return found


@pytest.mark.parametrize("at_once", [1, 1 << 22])
def test_loss_and_gradient_are_those_of_the_definition(model, batch, monkeypatch, at_once):
    monkeypatch.setitem(loss_module._LOGITS_AT_ONCE, "cpu", at_once)
    total, weight = plain_loss(model, batch)
    (total / weight).backward()
    total, expected = float(total.detach()), gradients(model)
    found = forward_backward(model).gradient(batch, float(weight))
    assert found.loss == pytest.approx(total, rel=1e-6)
    assert forward_backward(model).evaluate(batch).loss == pytest.approx(total, rel=1e-6)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7, msg=name)


def test_a_causal_model_never_sees_ahead_while_it_trains(model, batch):
    """The same rows and weights: the loss is that of the causal definition, and not of a part A read both ways."""
    causal = Transformer(dataclasses.replace(MODEL, mask="causal"))
    with torch.no_grad():
        for weight in model.parameters():  # larger than at the start, where attention hardly matters
            weight.mul_(10 if weight.dim() > 1 else 1)
    causal.load_state_dict(model.state_dict())
    total, weight = plain_loss(causal, batch)
    both_ways = float(plain_loss(model, batch)[0].detach())
    found = forward_backward(causal).gradient(batch, float(weight)).loss
    assert found == pytest.approx(float(total.detach()), rel=1e-6) and abs(found - both_ways) > 1e-4 * both_ways


def test_targets_without_loss_do_not_matter(model, batch):
    before = forward_backward(model).gradient(batch, 10.0).loss
    expected = gradients(model)
    changed = {**batch, "targets": np.where(batch["loss_mask"] > 0, batch["targets"], 7)}
    assert forward_backward(model).gradient(changed, 10.0).loss == before
    assert all(torch.equal(g, expected[name]) for name, g in gradients(model).items())


def test_a_batch_without_loss_changes_nothing(model, batch):
    silent = {**batch, "loss_mask": np.zeros_like(batch["loss_mask"])}
    assert forward_backward(model).gradient(silent, 1.0).loss == 0.0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("accumulation", [2, 4, 8])
def test_a_step_does_not_depend_on_its_division(tmp_path, accumulation):
    """Rows have different numbers of trained tokens: a mean of means would differ."""
    whole = run(tmp_path / "1", accumulation=1, steps=6)
    parts = run(tmp_path / "n", accumulation=accumulation, steps=6)
    ours, theirs = load_model(whole.model), load_model(parts.model)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=name)
    for one, other in zip(log_lines(tmp_path / "1"), log_lines(tmp_path / "n"), strict=True):
        if "loss" in one:
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_one_batch_is_learned_by_heart(tmp_path, name):
    class One(Rows):
        def row(self, i):
            return super().row(i % 2)

    losses = []
    changes = {"steps": 80, "batch_rows": 2, "accumulation": 1, "save_every": 80, "eval_every": 80}
    run(
        tmp_path,
        OptimizerConfig(name, lr=3e-2, weight_decay=0.0),
        rows=One(),
        on_step=lambda _, record: losses.append(record["loss"]),
        **changes,
    )
    assert losses[0] == pytest.approx(math.log(VOCAB), rel=0.1)
    assert losses[-1] < 0.05


def test_the_loss_in_the_log_is_the_mean_over_tokens(tmp_path):
    seen = []
    run(tmp_path, on_step=lambda _, record: seen.append((record["loss"] * record["trained"], record["trained"])))
    lines = [line for line in log_lines(tmp_path) if "loss" in line]
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    for line in lines:
        window = seen[line["step"] - 3 : line["step"]]
        assert line["loss"] == pytest.approx(sum(a for a, _ in window) / sum(b for _, b in window))


def test_tuning_starts_from_the_given_weights(tmp_path):
    first = run(tmp_path / "first")
    losses = []
    run(
        tmp_path / "second",
        model=None,
        init_from=str(first.model),
        on_step=lambda _, record: losses.append(record["loss"]),
    )
    batch = next(batches(Rows(), 0, 8, 0))
    expected = forward_backward(load_model(first.model)).evaluate(batch).loss / float(batch["loss_mask"].sum())
    assert losses[0] == pytest.approx(expected, rel=1e-5)


SHAPES = [
    {}, {"tied": False, "bias": "qkv", "residual": "sandwich", "positions": "rope_half"},
    {"norm": "layernorm", "bias": "all", "activation": "gelu", "positions": "learned_2d"}, {"residual": "deepnorm", "activation": "geglu", "bias": "all"},
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_parameter_is_in_one_group_and_moves(shape, name):
    model = Transformer(
        ModelConfig(vocab_size=VOCAB, layers=2, hidden=16, heads=2, ffn_hidden=32, max_positions=SEQ, **shape)
    )
    model.initialize()
    config = OptimizerConfig(name, lr=1e-2)
    groups = parameter_groups(model.named_parameters(), config)
    listed = sorted(n for group in groups.values() for n, _ in group)
    assert listed == sorted(n for n, _ in model.named_parameters())
    assert all(p.ndim == 2 and n.startswith("blocks.") for n, p in groups["muon"]) and bool(groups["muon"]) == (
        name == "muon"
    )
    assert all(p.ndim == 1 for _, p in groups["plain"]) and all(p.ndim == 2 for _, p in groups["decay"])
    assert "embedding.weight" in dict(groups["decay"])
    optimizers = Optimizers(model.named_parameters(), config, torch.float32, ALONE)
    held = [p for o in optimizers.all for group in o.param_groups for p in group["params"]]
    assert len(held) == len(set(held)) == len(listed)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizers.step(1e-2)
    assert all(not torch.equal(p, before[n]) and p.grad is None for n, p in model.named_parameters())


def test_norms_and_biases_do_not_decay():
    model = Transformer(ModelConfig(vocab_size=VOCAB, layers=1, hidden=16, heads=2, ffn_hidden=32, bias="all"))
    optimizers = Optimizers(model.named_parameters(), OptimizerConfig(weight_decay=0.5), torch.float32, ALONE)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizers.step(0.1)
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[n] * (0.95 if p.ndim == 2 else 1.0), msg=n)


def test_a_state_of_another_model_is_refused(model):
    optimizers = Optimizers(model.named_parameters(), OptimizerConfig(), torch.float32, ALONE)
    with pytest.raises(ValueError, match=r"blocks.9.x|exp_avg"):
        optimizers.load_state({"blocks.9.x|exp_avg": torch.zeros(3)})
    with pytest.raises(ValueError, match="has shape"):
        optimizers.load_state({"embedding.weight|exp_avg": torch.zeros(3)})
    with pytest.raises(ValueError, match="has shape"):
        optimizers.load_state({"embedding.weight|exp_avg": torch.zeros(())})


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)])
def test_muon_gives_the_steps_of_torch(shape):
    torch.manual_seed(3)
    start, grads = torch.randn(shape), torch.randn(5, *shape)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizers = (
        Muon([{"params": [ours]}], 0.02, 0.1, torch.bfloat16),
        torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for grad in grads:
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = grad.clone()
            optimizer.step()
    ours, theirs = ours.detach(), theirs.detach()
    assert float((ours - theirs).norm()) < 0.02 * float((theirs - start).norm())


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 40), (1, 40, 8)])
def test_orthogonal_factors_have_singular_values_near_one(shape):
    torch.manual_seed(4)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
    assert float(values.min()) > 0.5 and float(values.max()) < 1.3


@given(
    steps=st.integers(1, 500),
    warmup=st.floats(0, 1),
    floor=st.floats(0, 1),
    fall=st.floats(0, 1),
    schedule=st.sampled_from(["cosine", "linear"]),
)
def test_the_rate_rises_stays_then_falls_to_its_floor(steps, warmup, floor, fall, schedule):
    config = OptimizerConfig(lr=0.5, warmup_ratio=warmup, min_lr_ratio=floor, schedule=schedule, decay_ratio=fall)
    rates = [learning_rate(step, steps, config) for step in range(1, steps + 1)]
    peak = round(warmup * steps)
    falling = round(fall * (steps - peak))
    assert all(0 <= rate <= 0.5 + 1e-12 for rate in rates)
    assert all(a < b for a, b in pairwise(rates[:peak]))
    assert all(rate == 0.5 for rate in rates[peak : steps - falling])
    assert all(a >= b - 1e-12 for a, b in pairwise(rates[peak:]))
    assert rates[-1] == pytest.approx(0.5 * floor if falling else 0.5)


def test_rates_of_the_two_falls():
    """Half way down a cosine and a line are at the same height, a quarter of the way the cosine is at (1 + cos(pi / 4)) / 2."""
    cosine = OptimizerConfig(lr=1.0, warmup_ratio=0, min_lr_ratio=0, decay_ratio=0.8)
    linear = dataclasses.replace(cosine, schedule="linear")
    assert learning_rate(60, 100, cosine) == pytest.approx(0.5) == learning_rate(60, 100, linear)
    assert learning_rate(40, 100, cosine) == pytest.approx((1 + 2**-0.5) / 2)
    assert learning_rate(40, 100, linear) == pytest.approx(0.75)
    assert learning_rate(100, 100, dataclasses.replace(cosine, schedule="constant")) == 1.0


def test_flops_are_counted_as_documented():
    config = ModelConfig(vocab_size=100, layers=2, hidden=16, heads=2, kv_heads=1, ffn_hidden=32, tied=True)
    matrices = config.parameters - 100 * 16 - (2 * 2 + 1) * 16
    assert (
        step_flops(config, seen=8, tokens=80, trained=30) == 80 * (6 * matrices + 12 * 2 * 16 * 8) + 6 * 30 * 16 * 100
    )
