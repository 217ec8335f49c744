"""Calibrated codes against plain ones: the same where there is nothing to gain, better where inputs are correlated."""

import pytest
import torch

import openglm
from openglm.model.positions import describe
from openglm.model.transformer import Transformer
from openglm.presets import model_preset
from openglm.quant.calibrate import calibrate_blocks, quantize_calibrated
from openglm.quant.codes import dequantize, quantize
from openglm.quant.layers import QuantizedLinear, quantize_model

TOKENS = {"pad": 0, "mask": 1, "gmask": 2, "smask": 3, "sop": 4, "eop": 5}
FRESH = [
    "昨天晚上下了一场大雨，早上起来路上都是水，我只好走另一条路去学校，到的时候已经迟到了，老师没有说什么，只是让我坐下。下课以后大家一起去吃饭。"
    * 2,
    "She said that she had never seen such a beautiful garden, and asked the owner how long it took him to plant all the flowers and build the wall."
    * 3,
]


def correlated_inputs(samples, columns):
    generator = torch.Generator().manual_seed(0)
    few = torch.randn(samples, columns // 4, generator=generator) @ torch.randn(
        columns // 4, columns, generator=generator
    )
    return few + 0.1 * torch.randn(samples, columns, generator=generator)


@pytest.mark.parametrize(("bits", "group"), [(4, 16), (4, 0), (8, 32)])
def test_uncorrelated_inputs_leave_nothing_to_make_up_for(bits, group):
    weight = torch.randn(12, 64, generator=torch.Generator().manual_seed(3))
    plain, calibrated = quantize(weight, bits, group), quantize_calibrated(weight, torch.eye(64), bits, group)
    assert torch.equal(plain[1], calibrated[1])
    torch.testing.assert_close(dequantize(*plain), dequantize(*calibrated), atol=1e-6, rtol=0)


@pytest.mark.parametrize("group", [0, 32])
def test_correlated_inputs_see_less_error(group):
    x, fresh = correlated_inputs(600, 64).split(300)
    weight = torch.randn(24, 64, generator=torch.Generator().manual_seed(1))
    errors = [
        ((dequantize(*codes) - weight) @ fresh.T).square().mean()
        for codes in (quantize(weight, 4, group), quantize_calibrated(weight, x.T @ x, 4, group))
    ]
    assert errors[1] < 0.6 * errors[0]


def test_inputs_that_are_always_zero_do_no_harm():
    x = correlated_inputs(300, 64)
    x[:, 10:20] = 0
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    assert (dequantize(*quantize_calibrated(weight, x.T @ x, 4, 32)) - weight).abs().max() < 1.0


@pytest.mark.parametrize("preset", ["nano", "chatglm-6b", "chatglm2-6b", "glm-4-0414-9b", "glm-10b"])
def test_every_linear_layer_of_every_family_is_calibrated(preset):
    config = model_preset(
        preset, vocab_size=64, layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16, ffn_hidden=128, tokens=TOKENS
    )
    model = Transformer(config)
    model.initialize(torch.Generator().manual_seed(5))
    ids = torch.cat(
        [
            torch.tensor([[2, 4]]).expand(8, 2),
            torch.randint(6, 64, (8, 48), generator=torch.Generator().manual_seed(0)),
        ],
        1,
    )
    described = describe(ids, None, config)
    whole = model(ids, *described).detach()
    calibrate_blocks(model, ids, *described, 8, 32)
    assert sum(isinstance(m, QuantizedLinear) for m in model.blocks.modules()) == 2 * (7 if config.gated else 6)
    assert not any(isinstance(m, torch.nn.Linear) for m in model.blocks.modules())
    assert (model(ids, *described) - whole).norm() < 0.02 * whole.norm()


def test_calibrated_blocks_of_nano_are_nearer_to_the_whole_ones(two_blocks):
    tokenizer = openglm.load_tokenizer(two_blocks)
    fresh = torch.tensor([[2, 4, *tokenizer.encode(text)[:60]] for text in FRESH])
    starts = torch.tensor([[2, 4, i] for i in range(300, 332)])
    seen = openglm.generate(
        openglm.load_model(two_blocks, device="cpu"), starts, 60, temperature=1.0, seed=0
    )  # text of its own making
    divergence = {}
    for kind in ("plain", "calibrated"):
        model = openglm.load_model(two_blocks, device="cpu")
        whole = model.logits(fresh).log_softmax(-1)
        if kind == "calibrated":
            calibrate_blocks(model, seen, *describe(seen, None, model.config), 4, 64)
        else:
            table = model.embedding
            quantize_model(model, 4, 64).embedding = table
        divergence[kind] = (whole.exp() * (whole - model.logits(fresh).log_softmax(-1))).sum(-1).mean()
    assert divergence["calibrated"] < 0.8 * divergence["plain"]


def test_too_little_text_is_refused():
    config = model_preset("nano", vocab_size=64, layers=1, hidden=64, ffn_hidden=96, head_dim=16)
    ids = torch.tensor([[2, 4, 9]])
    with pytest.raises(ValueError, match="3 tokens of text; at least 256"):
        calibrate_blocks(Transformer(config), ids, *describe(ids, None, config), 4, 32)
