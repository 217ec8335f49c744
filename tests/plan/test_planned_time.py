"""Operations and seconds of a step: identities with the papers, and what more of anything must do."""

import dataclasses

import pytest
from helpers.planned import gpt

from openglm.plan.cost import all_reduce, efficiency, hardware_flops, model_flops, product, ring, step
from openglm.plan.devices import DEVICES, device
from openglm.plan.layout import Job, Layout
from openglm.plan.memory import memory
from openglm.presets import model_preset


def job(devices, batch=1536, model=None, **options):
    return Job(model or gpt(), 2048, batch, devices, device("a100-80g"), **options)


@pytest.mark.parametrize("layers,hidden,heads", [(24, 2304, 24), (96, 12288, 96), (128, 25600, 160)])
def test_flops_of_megatron_lm(layers, hidden, heads):
    """arXiv 2104.04473, equation 3, and arXiv 2205.05198, equation 7; selective recomputation makes the two products of the scores once more."""
    b, s, v, h = 512, 2048, 51200, hidden
    here = job(1, b, gpt(layers, hidden, heads), fused_attention=False)
    assert hardware_flops(here, "full") == pytest.approx(
        96 * b * s * layers * h**2 * (1 + s / (6 * h) + v / (16 * layers * h))
    )
    assert model_flops(here) == pytest.approx(72 * b * s * layers * h**2 * (1 + s / (6 * h) + v / (12 * layers * h)))
    assert hardware_flops(here, "selective") - model_flops(here) == pytest.approx(4 * b * layers * s**2 * h)


def test_flops_of_glm_130b():
    """32.5 % MFU and 43.3 % HFU at 88.5 s a step on 768 A100 (arXiv 2210.02414, section 2.3)."""
    here = dataclasses.replace(job(768, 4224, model_preset("glm-130b")), device=device("a100-40g"))
    second = 768 * 88.5 * here.device.peak
    assert model_flops(here) / second == pytest.approx(0.325, rel=0.01)
    assert hardware_flops(here, "full") / second == pytest.approx(0.433, rel=0.01)


def test_flops_near_six_a_weight_and_token():
    here = job(1, 1)
    assert model_flops(here) / (6 * here.model.parameters * 2048) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("name", DEVICES)
def test_larger_products_run_nearer_the_peak_but_never_at_it(name):
    machine = device(name)
    rates = [2 * n**3 / product(machine, n, n, n) / machine.peak for n in (128, 512, 2048, 8192, 1 << 20)]
    assert rates == sorted(rates) and rates[0] > 0 and rates[-1] < 1
    assert efficiency(machine, 64, 4096, 4096) == efficiency(machine, 4096, 64, 4096)


def test_parts_sum_to_the_step_and_none_is_negative():
    for layout in (
        Layout(1, 1, 1),
        Layout(4, 8, 12),
        Layout(4, 8, 12, schedule="interleaved", chunks=2),
        Layout(384, 1, 1, zero=3),
        Layout(48, 8, 1, zero=2),
    ):
        parts = step(job(384), layout)
        assert parts.pop("total") == pytest.approx(sum(parts.values())) and all(
            seconds >= 0 for seconds in parts.values()
        )


def test_nobody_to_talk_to():
    parts = step(job(1, 8), Layout(1, 1, 1, zero=0))
    assert parts["tensor"] == parts["data"] == parts["bubble"] == 0 and "pipeline" not in parts


@pytest.mark.parametrize("tensor,pipeline", [(1, 1), (8, 1), (8, 12)])
def test_twice_the_devices_take_less_time_but_not_half(tensor, pipeline):
    times = [step(job(data * tensor * pipeline), Layout(data, tensor, pipeline))["total"] for data in (4, 8, 16)]
    assert times[0] > times[1] > times[2] and times[1] > times[0] / 2 and times[2] > times[1] / 2


def test_each_measure_costs_what_it_does():
    plain, fused = job(384, fused_attention=False), job(384)
    full, selective, none = (
        step(plain, Layout(4, 8, 12, recompute=again))["total"] for again in ("full", "selective", "none")
    )
    assert full > selective > none > step(fused, Layout(4, 8, 12, recompute="none"))["total"]
    assert full / none < 4 / 3 + 0.01  # one forward pass of three more, and no more bubble or exchange than before
    slow = dataclasses.replace(fused, device=dataclasses.replace(fused.device, network=fused.device.network / 8))
    assert step(slow, Layout(4, 8, 12))["total"] > step(fused, Layout(4, 8, 12))["total"]
    assert step(fused, Layout(4, 8, 12, split_boundary=True))["total"] < step(fused, Layout(4, 8, 12))["total"]
    assert step(fused, Layout(4, 8, 12, sequence_parallel=True))["element"] < step(fused, Layout(4, 8, 12))["element"]


def test_an_exchange_grows_with_its_group_whatever_its_bytes():
    """NCCL's own model of a ring (src/graph/tuning.cc): 8.4 us, 3.4 us a device and 14 us a node for each message."""
    grown = ring(1024, 0, 1e9, messages=10, nodes=128) - ring(512, 0, 1e9, messages=10, nodes=64)
    assert grown == pytest.approx(10 * (448 * 3.4e-6 + 64 * 14e-6))
    one, most = (ring(members, 1e9, 1e11, nodes=nodes) for members, nodes in ((8, 1), (1024, 128)))
    assert most > one > 1e9 / 1e11 * 7 / 8
    tree, around = all_reduce(1024, 0, 1e9, nodes=128), ring(1024, 0, 1e9, nodes=128)
    assert tree < around  # a tree of nodes is climbed in log2 of them


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_step_of_the_same_rows_a_device_takes_longer_on_more_devices(zero):
    model = gpt(32, 4096, 32)
    times = [step(job(n, 8 * n, model), Layout(n, 1, 1, zero=zero))["data"] for n in (8, 64, 256, 1024)]
    assert times == sorted(times) and times[0] < times[1] < times[2]


def test_selective_recomputation_with_fused_attention_makes_half_of_the_products_again():
    """torchtitan's Llama 2 13B lost 13.6 % of its rate to it (docs/performance.md: 2,162 and 1,904 tokens a second)."""
    here = job(64)
    none, half, full = (
        step(here, Layout(64, 1, 1, zero=3, recompute=again)) for again in ("none", "selective", "full")
    )
    assert half["products"] - none["products"] == pytest.approx((full["products"] - none["products"]) / 2)
    assert none["total"] < half["total"] < full["total"]
    memories = [
        memory(here, Layout(64, 1, 1, zero=3, recompute=a))["activations"] for a in ("none", "selective", "full")
    ]
    assert memories == sorted(memories, reverse=True)
