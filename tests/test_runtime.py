"""What is set for the whole process."""

import itertools

import pytest
import torch

from openglm import runtime
from openglm.runtime import multiply_by_onednn


@pytest.mark.parametrize("rows, columns, inner", [(1, 4096, 1024), (64, 8192, 256), (512, 8, 1024), (300, 70, 5000)])
def test_products_in_float32_stay_exact_whoever_multiplies(rows, columns, inner):
    """bfloat16 inside of a product would be wrong by a hundredth of its terms, float32 is by a millionth."""
    switch = torch.backends.mkldnn.matmul
    before = switch.fp32_precision
    generator = torch.Generator().manual_seed(rows)
    a, b = torch.randn(rows, inner, generator=generator), torch.randn(columns, inner, generator=generator)
    try:
        multiply_by_onednn()
        found = torch.nn.functional.linear(a, b)
    finally:
        switch.fp32_precision = before
    exact, terms = a.double() @ b.double().T, a.abs() @ b.abs().T
    assert float(((found - exact).abs() / terms).max()) < 1e-6


def test_the_time_that_other_programs_take_chooses_no_compute_type(monkeypatch):
    seconds = itertools.count()
    monkeypatch.setattr(runtime.time, "perf_counter", lambda: float(next(seconds)))
    assert runtime._product_seconds(torch.device("cpu"), torch.float32) < 1
