"""Bytes on a device against the papers' formulas and figures."""

import dataclasses

import pytest
from helpers.planned import gpt

from openglm.parallel.stages import divisors
from openglm.plan.devices import device
from openglm.plan.layout import Job, Layout
from openglm.plan.memory import layer_activations, memory, stage_memory
from openglm.presets import PRESETS, model_preset

STATE = ("weights", "gradients", "master", "adam")


def job(model=None, devices=1, batch=64, **options):
    return Job(model or gpt(), 2048, batch, devices, device("a100-80g"), **options)


def test_175b_takes_2_8_terabytes():
    """2 + 2 + 4 + 4 + 4 bytes a weight: GPT-3, before anything is shared out."""
    parts = memory(job(), Layout(1, 1, 1, zero=0))
    assert sum(parts[name] for name in STATE) == pytest.approx(175e9 * 16, rel=0.01)


@pytest.mark.parametrize("zero,gigabytes", [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_zero_shares_out_what_its_paper_says(zero, gigabytes):
    """7.5 B weights on 64 devices: arXiv 1910.02054, figure 1."""
    model = gpt(36, 4096, 32)
    weights = memory(job(model), Layout(1, 1, 1, zero=0))["weights"] / 2
    parts = memory(job(model, 64), Layout(64, 1, 1, zero=zero))
    assert sum(parts[name] for name in STATE) * 7.5e9 / weights / 1e9 == pytest.approx(gigabytes, rel=0.02)


@pytest.mark.parametrize("t", [1, 8])
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_activations_are_those_of_korthikanti(t, recompute, sequence_parallel):
    """arXiv 2205.05198, table 2."""
    s, b, h, a = 2048, 2, 12288, 96
    layout = Layout(1, t, 1, micro_batch=b, recompute=recompute, sequence_parallel=sequence_parallel)
    scores = 5 * a * s / h if recompute == "none" else 0
    expected = {True: (34 + scores) / t, False: 10 + (24 + scores) / t}[sequence_parallel]
    if recompute == "full":
        expected = 2 / t if sequence_parallel else 2
    assert layer_activations(job(devices=t, fused_attention=False), layout, recompute) == pytest.approx(
        s * b * h * expected
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_matrices_are_nearly_all_of_the_weights(preset):
    model = model_preset(preset)
    matrices = model.layers * model.layer_weights + model.vocab_size * model.hidden * (1 if model.tied else 2)
    assert matrices == pytest.approx(model.parameters, rel=0.01)


def test_parts_sum_and_stages_hold_the_model():
    model = model_preset("glm-130b")
    here = dataclasses.replace(job(model, 768, 4224), device=device("a100-40g"))
    layout = Layout(24, 4, 8)
    parts = memory(here, layout)
    assert parts.pop("total") == pytest.approx(sum(parts.values()))
    weights = sum(stage_memory(here, layout, stage)["weights"] for stage in range(8)) * 4 / 2
    assert weights == pytest.approx(
        model.parameters + model.vocab_size * model.hidden, rel=0.005
    )  # the tied table lies on both ends


@pytest.mark.parametrize("p", [2, 8, 35])
def test_lighter_ends_add_up(p):
    for layers in range(p, 200):
        first, inner, last = Layout(1, 1, p).stage_layers(job(gpt(layers=layers)))
        if p in divisors(layers) or p in divisors(layers + 2):
            assert first + inner * (p - 2) + last == layers


@pytest.mark.parametrize(
    "layers,hidden,data,tensor,pipeline,micro_batch,gradient_bytes",
    [
        (72, 14336, 48, 8, 1, 1, 2),
        (72, 14336, 32, 2, 6, 2, 2),
        (72, 14336, 32, 2, 6, 1, 2),
        (100, 12288, 16, 4, 6, 1, 6),
    ],
)
def test_runs_that_did_not_fit_do_not_fit(layers, hidden, data, tensor, pipeline, micro_batch, gradient_bytes):
    """Out of memory in BigScience's search for BLOOM's layout (train/tr11-176B-ml/chronicles-prequel.md), 80 GB each."""
    here = job(
        gpt(layers, hidden, 64, 250880),
        384,
        data * micro_batch * 8,
        gradient_bytes=gradient_bytes,
        fused_attention=False,
    )
    assert memory(here, Layout(data, tensor, pipeline, micro_batch))["total"] > 0.98 * here.device.memory
