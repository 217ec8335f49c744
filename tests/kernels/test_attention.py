"""Rotary positions and attention over the paged cache, against the network's own modules and the definition."""

import math

import numpy as np
import pytest
import torch
from helpers.programs import Request, Served, random_request

from openglm.kernels import library as lib
from openglm.kernels.program import Program, make_step
from openglm.model.positions import Rotary
from openglm.presets import model_preset


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
@pytest.mark.parametrize(("heads", "kv_heads", "d"), [(4, 4, 16), (6, 2, 32), (16, 2, 64), (24, 2, 48), (3, 1, 256)])
def test_whole_sequences(library, kind, heads, kv_heads, d):
    requests = [
        random_request(n, heads, kv_heads, d, n, prefix) for n, prefix in ((1, 0), (16, 5), (17, 17), (40, 23), (31, 0))
    ]
    out = Served(library, kind, requests).advance([len(r.q) for r in requests])
    for i, request in enumerate(requests):
        torch.testing.assert_close(out[i], request.expected(kind), rtol=5e-5, atol=5e-5)


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_token_by_token_equals_all_at_once_to_the_last_bit(library, kind):
    """Chunks of any size, alone or beside others, around the limits of blocks."""
    requests = [random_request(n, 4, 2, 16, n) for n in (15, 16, 17, 33)]
    whole = Served(library, kind, requests).advance([len(r.q) for r in requests])
    served, parts = Served(library, kind, requests), {i: [] for i in range(4)}
    sizes = np.random.default_rng(3).integers(0, 5, (200, 4))
    for step in sizes:
        counts = [min(int(n), len(r.q) - done) for n, r, done in zip(step, requests, served.done, strict=True)]
        for i, rows in served.advance(counts).items() if any(counts) else ():
            parts[i].append(rows)
    for i in range(4):
        assert torch.equal(torch.cat(parts[i]), whole[i])


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_more_columns_than_one_look_at_the_maximum(library, kind):
    """Scores that grow along the sequence, so that the running maximum changes; lengths around 512 and 1024."""
    request = random_request(1030, 2, 1, 16, 5, prefix=3)
    request.k *= torch.linspace(0.1, 4, 1030)[:, None, None]
    served = Served(library, kind, [request])
    out = torch.cat([served.advance([n])[0] for n in (500, 11, 1, 1, 200, 310, 1, 1, 5)])
    torch.testing.assert_close(out, request.expected(kind), rtol=5e-5, atol=5e-5)


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_nan_spoils_what_looks_at_it_and_nothing_else(library, kind):
    requests = [random_request(20, 4, 4, 16, 1), random_request(20, 4, 4, 16, 2), random_request(20, 4, 4, 16, 3)]
    requests[1].k[7, 2, 3] = torch.nan
    requests[2].v[9, 1, 5] = torch.inf
    out = Served(library, kind, requests).advance([20, 20, 20])
    bad = [~torch.isfinite(out[i]) for i in range(3)]
    assert not bool(bad[0].any())
    assert bool(bad[1][7:, 2].all()) and int(bad[1].sum()) == 13 * 16
    assert bool(bad[2][9:, 1].any(-1).all()) and not bool(bad[2][:9].any()) and not bool(bad[2][:, [0, 2, 3]].any())


@pytest.mark.parametrize("positions", ["rope", "rope_2d", "rope_half"])
@pytest.mark.parametrize("half", [False, True])
def test_rotary_layouts(library, positions, half):
    """Attention of turned queries and keys depends on their turning: compared through the network's own Rotary, with head norms."""
    config = model_preset("nano", positions=positions, head_dim=32, heads=4, kv_heads=2, rope_fp16_frequencies=half)
    rotary, request = Rotary(config), random_request(21, 4, 2, 32, 7)
    position = torch.stack([torch.arange(21) * 37, torch.arange(21) % 5])
    norms = [torch.rand(32) + 0.5 for _ in range(2)]
    served = Served(library, "float32", [request])
    frequencies = rotary.frequencies(torch.device("cpu"))
    served.program = Program(library, served.store, positions, frequencies)
    for width in (8 * 32, 4 * 32):
        served.program.buffer(width)
    served.program.add(lib.ROTARY, 0, layer=1, scale=1 / math.sqrt(32), weight=norms[0], bias=norms[1], eps=1e-5)
    served.program.add(lib.ATTEND, 0, 1, layer=1)
    x = torch.cat([t.flatten(1) for t in (request.q, request.k, request.v)], 1)
    served.program._reserve(21)
    served.program._rows[0][:21] = x
    step = make_step(
        np.zeros(21), position.numpy(), np.array([21]), np.array([0]), np.array([0]), served.tables, np.arange(21)
    )
    ours = served.program.run(step).unflatten(1, (4, 32))

    def turn(t, w):
        normed = torch.nn.functional.rms_norm(t, (32,), w, 1e-5)
        return rotary(normed.transpose(0, 1)[None], rotary.angles(position[None]))[0].transpose(0, 1)

    turned = Request(turn(request.q, norms[0]), turn(request.k, norms[1]), request.v)
    torch.testing.assert_close(ours, turned.expected(), rtol=3e-5, atol=3e-5)
