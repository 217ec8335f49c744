"""Products of weights in panels, with what follows them, against the definition."""

import pytest
import torch
from helpers import reference
from helpers.programs import random_weight, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openglm.kernels import library as lib
from openglm.kernels.program import Arena, Panels, Weight
from openglm.quant.codes import dequantize

EVERY_PATH = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def rounded(x, weight):
    return x if weight.scales is None else reference.round_activations(x, weight.block)


def clear(x, weight):
    """None of the activations so near the middle between two codes that the last bit of a quotient decides between them."""
    if weight.scales is None:
        return x
    parts = torch.nn.functional.pad(x, (0, -x.shape[1] % weight.block)).unflatten(1, (-1, weight.block))
    step = parts.abs().amax(-1, keepdim=True) / 127
    scaled = parts / step
    return torch.where((scaled - scaled.floor() - 0.5).abs() < 1e-3, parts + 0.01 * step, parts).flatten(1)[
        :, : x.shape[1]
    ]


def assert_near(ours, theirs):
    """Sums of the same products in another order."""
    torch.testing.assert_close(
        ours, theirs, rtol=2e-5, atol=2e-5 * float(theirs.nan_to_num().abs().max()) + 1e-30, equal_nan=True
    )


KINDS = ["float", (4, 32), (4, 64), (4, 128), (4, 0), (8, 32), (8, 64), (8, 0)]


@EVERY_PATH
@given(
    kind=st.sampled_from(KINDS),
    tokens=st.integers(1, 9),
    rows=st.integers(1, 70),
    groups=st.integers(1, 4),
    seed=st.integers(0, 99),
    size=st.sampled_from([1e-3, 1.0, 300.0]),
)
def test_products_of_any_shape(library, kind, tokens, rows, groups, seed, size):
    generator = torch.Generator().manual_seed(seed)
    columns = groups * kind[1] if kind != "float" and kind[1] else 2 * (groups * 29 + seed % 7)
    weight, matrix = random_weight(rows, columns, kind, generator)
    x, bias = (
        clear(torch.randn(tokens, columns, generator=generator) * size, weight),
        torch.randn(rows, generator=generator),
    )
    ours = run(
        library, [x], [columns, rows], kind=lib.LINEAR, in_=0, out=1, matrix=Panels(Arena(library), [weight], [bias])
    )
    assert_near(ours, reference.product(rounded(x, weight), matrix, bias))


@pytest.mark.parametrize("kind", ["float", (4, 64), (8, 64)])
def test_more_tokens_than_one_chunk_holds(library, kind):
    generator = torch.Generator().manual_seed(1)
    weight, matrix = random_weight(40, 4096, kind, generator)
    x = torch.randn(101, 4096, generator=generator)
    ours = run(library, [x], [4096, 40], kind=lib.LINEAR, in_=0, out=1, matrix=Panels(Arena(library), [weight]))
    assert_near(ours, reference.product(rounded(x, weight), matrix))


@pytest.mark.parametrize("kind", ["float", (4, 64)])
@pytest.mark.parametrize("mode", [lib.RESIDUAL, lib.GELU, lib.GELU_TANH, lib.GEGLU, lib.SWIGLU])
def test_what_follows_a_product(library, kind, mode):
    generator = torch.Generator().manual_seed(mode)
    gated = mode in (lib.GEGLU, lib.SWIGLU)
    stored = [random_weight(27, 128, kind, generator, 0.4) for _ in range(1 + gated)]
    biases = [torch.randn(27, generator=generator) for _ in stored]
    x, residual = torch.randn(5, 128, generator=generator), torch.randn(5, 27, generator=generator)
    panels = Panels(Arena(library), [w for w, _ in stored], biases, gated)
    ours = run(
        library,
        [x, residual],
        [128, 27, 27],
        kind=lib.LINEAR,
        in_=0,
        out=2,
        other=1,
        mode=mode,
        scale=1.7,
        matrix=panels,
    )
    theirs = reference.product(
        rounded(x, stored[0][0]), torch.cat([m for _, m in stored]), torch.cat(biases), mode, residual, 1.7
    )
    assert_near(ours, theirs)


@pytest.mark.parametrize("kind", ["float", (4, 32)])
def test_several_matrices_below_each_other_and_single_biases(library, kind):
    generator = torch.Generator().manual_seed(2)
    stored = [random_weight(rows, 64, kind, generator) for rows in (13, 5, 30)]
    x, bias = torch.randn(3, 64, generator=generator), torch.randn(5, generator=generator)
    ours = run(
        library,
        [x],
        [64, 48],
        kind=lib.LINEAR,
        in_=0,
        out=1,
        matrix=Panels(Arena(library), [w for w, _ in stored], [None, bias, None]),
    )
    assert_near(
        ours,
        reference.product(
            rounded(x, stored[0][0]),
            torch.cat([m for _, m in stored]),
            torch.cat([torch.zeros(13), bias, torch.zeros(30)]),
        ),
    )


@pytest.mark.parametrize("kind", ["float", (4, 64), (8, 64)])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_bad_number_stays_in_its_token(library, kind, bad):
    generator = torch.Generator().manual_seed(3)
    weight, matrix = random_weight(20, 192, kind, generator)
    x = torch.randn(6, 192, generator=generator)
    x[4, 100] = bad
    ours = run(library, [x], [192, 20], kind=lib.LINEAR, in_=0, out=1, matrix=Panels(Arena(library), [weight]))
    assert not bool(torch.isfinite(ours[4]).any())
    others = [0, 1, 2, 3, 5]
    assert_near(ours[others], reference.product(rounded(x, weight), matrix)[others])


@pytest.mark.parametrize("kind", [(4, 64), (8, 64)])
def test_extremes_of_codes_and_activations(library, kind):
    """The largest codes against the largest activations: no narrow sum may overflow."""
    rows, columns = 32, 256
    codes = (
        torch.full((rows, columns // 2), 0x88, dtype=torch.uint8)
        if kind[0] == 4
        else torch.full((rows, columns), -127, dtype=torch.int8)
    )
    codes[::2] = 0x77 if kind[0] == 4 else 127
    weight = Weight(codes, torch.ones(rows, columns // 64, dtype=torch.float16))
    for x in (
        torch.ones(1, columns),
        -torch.ones(1, columns),
        torch.zeros(1, columns),
        torch.tensor([[1e-38] * columns]),
        torch.tensor([[1e30] * columns]),
    ):
        ours = run(
            library, [x], [columns, rows], kind=lib.LINEAR, in_=0, out=1, matrix=Panels(Arena(library), [weight])
        )
        assert_near(ours, reference.product(reference.round_activations(x, 64), dequantize(codes, weight.scales)))


@pytest.mark.parametrize("kind", ["float", (4, 64), (8, 64)])
def test_a_token_does_not_depend_on_its_company(library, kind):
    generator = torch.Generator().manual_seed(4)
    columns = 33 * 64  # one block more than the matrix tiles' kernel unpacks at once
    weight, _ = random_weight(33, columns, kind, generator)
    panels, x = Panels(Arena(library), [weight]), torch.randn(235, columns, generator=generator)
    together = run(library, [x], [columns, 33], kind=lib.LINEAR, in_=0, out=1, matrix=panels)
    for i in range(235):
        assert torch.equal(
            together[i : i + 1],
            run(library, [x[i : i + 1]], [columns, 33], kind=lib.LINEAR, in_=0, out=1, matrix=panels),
        )


@EVERY_PATH
@given(
    width=st.integers(1, 70),
    layernorm=st.booleans(),
    added=st.booleans(),
    biased=st.booleans(),
    size=st.sampled_from([1e-4, 1.0, 1e4]),
    seed=st.integers(0, 99),
)
def test_norms(library, width, layernorm, added, biased, size, seed):
    generator = torch.Generator().manual_seed(seed)
    x, residual = torch.randn(5, width, generator=generator) * size, torch.randn(5, width, generator=generator)
    weight, bias = (
        torch.randn(width, generator=generator),
        torch.randn(width, generator=generator) if biased and layernorm else None,
    )
    x[3, width // 2] = torch.nan
    ours = run(
        library,
        [x, residual],
        [width] * 3,
        kind=lib.NORM,
        in_=0,
        out=2,
        other=1 if added else -1,
        mode=int(layernorm),
        eps=1e-5,
        weight=weight,
        bias=bias,
    )
    theirs = reference.norm(x, weight, bias, 1e-5, layernorm, residual if added else None)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert bool(torch.isnan(ours[3]).all()) and bool(torch.isfinite(ours[[0, 1, 2, 4]]).all())
