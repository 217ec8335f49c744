"""The int8 and int4 format against its definition, and the scale search against the plain one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from openglm.model.transformer import Transformer
from openglm.presets import model_preset
from openglm.quant.codes import dequantize, pack, quantize, unpack
from openglm.quant.layers import QuantizedEmbedding, QuantizedLinear, quantize_model


def absmax(weight, bits, group):
    """Nearest code at the scale that cuts nothing off: the published quantizer, group by group."""
    parts = weight.unflatten(1, (-1, group or weight.shape[1]))
    scale = (parts.abs().amax(2) / (127 if bits == 8 else 7)).half().float()[..., None]
    return ((parts / scale).round() * scale).flatten(1)


def test_every_pair_of_codes_survives_packing_with_the_even_column_on_top():
    codes = torch.cartesian_prod(torch.arange(-8, 8), torch.arange(-8, 8)).to(torch.int8)
    packed = pack(codes)
    assert torch.equal(unpack(packed), codes)
    assert packed[(codes == torch.tensor([-1, 3])).all(1)].item() == 0xF3


@pytest.mark.parametrize(("bits", "group"), [(8, 0), (8, 64), (4, 0), (4, 32), (4, 128)])
def test_error_is_no_larger_than_the_published_quantizer_makes(bits, group):
    weight = torch.randn(24, 256, generator=torch.Generator().manual_seed(1)) * 0.02
    found = dequantize(*quantize(weight, bits, group))
    ours, plain = (found - weight).square().sum(), (absmax(weight, bits, group) - weight).square().sum()
    assert ours <= plain * (1 + 1e-6)
    if bits == 4 and group:
        assert ours < 0.9 * plain


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.sampled_from([4, 8]), st.floats(1e-4, 1e3))
def test_each_weight_is_within_half_a_step_or_cut_at_the_end_of_its_group(rows, groups, bits, size):
    weight = torch.randn(rows, groups * 16, generator=torch.Generator().manual_seed(rows * 7 + groups)) * size
    codes, scales = quantize(weight, bits, 16)
    error = (dequantize(codes, scales) - weight).abs().unflatten(1, (-1, 16))
    step = scales.float().abs()[..., None]
    raw = unpack(codes) if bits == 4 else codes
    at_end = (raw == (7 if bits == 4 else 127)) | (raw == (-8 if bits == 4 else -127))
    assert bool((error <= 0.5 * step * 1.01 + 1e-7).logical_or(at_end.unflatten(1, (-1, 16))).all())


def test_without_the_search_the_error_is_a_little_larger():
    weight = torch.randn(24, 256, generator=torch.Generator().manual_seed(1)) * 0.02
    searched, direct = (
        float((dequantize(*quantize(weight, 4, 64, search)) - weight).square().sum()) for search in (True, False)
    )
    assert searched < direct < 1.15 * searched
    assert all(map(torch.equal, quantize(weight, 8, 64, True), quantize(weight, 8, 64, False)))


def test_zero_groups_and_single_outliers():
    weight = torch.zeros(2, 64)
    weight[1, 5] = 127 / 64  # half precision holds an eighth and a 127th of it
    for bits in (4, 8):
        assert torch.equal(dequantize(*quantize(weight, bits, 32)), weight)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e9])
def test_a_weight_that_no_scale_can_hold_is_refused(bad):
    weight = torch.randn(4, 64)
    weight[2, 3] = bad
    with pytest.raises(ValueError, match="cannot be quantized"):
        quantize(weight, 4, 32)


@pytest.mark.parametrize(
    ("bits", "group", "message"), [(5, 0, "bits = 5"), (4, 48, "group = 48"), (8, -1, "group = -1")]
)
def test_formats_that_do_not_fit_are_refused(bits, group, message):
    with pytest.raises(ValueError, match=message):
        quantize(torch.randn(4, 64), bits, group)


def test_layers_multiply_by_the_weights_they_stand_for():
    linear, table = nn.Linear(64, 10), nn.Embedding(7, 64)
    x, ids = torch.randn(3, 5, 64), torch.tensor([[0, 6], [3, 3]])
    quantized = QuantizedLinear.of(linear, 4, 32)
    torch.testing.assert_close(quantized(x), x @ quantized.weight.T + linear.bias)
    rows = QuantizedEmbedding.of(table, 8, 0)
    assert torch.equal(rows(ids), rows.weight[ids])
    assert quantized.half().scales.dtype == torch.float16 and quantized.to(torch.bfloat16).scales.dtype == torch.float16


@pytest.mark.parametrize("tied", [True, False])
def test_a_quantized_network_is_the_network_of_its_rounded_weights(tied):
    torch.manual_seed(0)
    config = model_preset("nano", vocab_size=64, layers=2, hidden=64, ffn_hidden=96, head_dim=16, tied=tied)
    model = Transformer(config)
    model.initialize(torch.Generator().manual_seed(2))
    rounded = Transformer(config)
    rounded.load_state_dict(
        {n: dequantize(*quantize(p, 4, 32)) if p.dim() == 2 else p for n, p in model.state_dict().items()}
    )
    ids = torch.tensor([[10, 11, config.tokens.gmask, config.tokens.sop, 12]])
    torch.testing.assert_close(quantize_model(model, 4, 32).logits(ids), rounded.logits(ids))
