"""The network gives on a device what it gives on a CPU: pytest tests/device --device cuda."""

import pytest
import torch

import openglm

IDS = torch.randint(40, 340, (2, 24), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def device(request):
    return request.config.getoption("--device")


def test_logits(toy, device):
    on_device = openglm.load_model(toy, device=device, dtype="float32").logits(IDS.to(device))
    assert torch.allclose(on_device.cpu(), openglm.load_model(toy, device="cpu").logits(IDS), atol=1e-4)


def test_padding_changes_nothing(toy, device):
    model = openglm.load_model(toy, device=device, dtype="float32")
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), IDS], 1).to(device)
    mask = torch.arange(27, device=device).expand(2, 27) >= 3
    assert torch.allclose(model.logits(padded, mask)[:, 3:], model.logits(IDS.to(device)), atol=1e-4)


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_quantized_logits(toy, device, bits):
    found = openglm.load_model(toy, device=device, dtype="float32", quantize=bits).logits(IDS.to(device)).cpu()
    exact = openglm.load_model(toy, device="cpu").logits(IDS)
    assert (found - exact).norm() < (0.02 if bits == "int8" else 0.3) * exact.norm()


def test_greedy_answers(toy, device):
    prompt = torch.cat([IDS, torch.tensor([[2, 4]]).expand(2, 2)], 1)  # ... [gMASK] <sop>
    answers = [
        openglm.generate(
            openglm.load_model(toy, device=target, dtype="float32"), prompt.to(target), max_new_tokens=8
        ).cpu()
        for target in (device, "cpu")
    ]
    assert torch.equal(*answers)
