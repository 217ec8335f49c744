"""Programs of one or two operations, which tests feed and read; and what they need."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from helpers import reference
from openglm.kernels import library as lib
from openglm.kernels.program import Arena, PagedStore, Panels, Program, Weight, make_step
from openglm.quant.codes import dequantize, quantize

LIBRARY = lib.load()
PATHS = lib.paths(LIBRARY) if LIBRARY else []


def run(library, inputs, widths, **op):
    """One operation: `inputs` are the contents of the first buffers, `widths` of all; returns the last one's rows."""
    program = Program(library)
    for width in widths:
        program.buffer(width)
    program.add(**op)
    tokens = len(inputs[0])
    program._reserve(tokens)
    for rows, x in zip(program._rows, inputs, strict=False):
        rows[:tokens] = x
    zero = np.zeros((2, tokens), np.int32)
    return program.run(
        make_step(zero[0], zero, np.array([tokens]), zero[0, :1], zero[0, :1], zero[:1], np.arange(tokens))
    )


def random_weight(rows, columns, kind, generator, size=0.1):
    """A stored weight and the matrix it stands for. kind: float, or bits and group."""
    weight = torch.randn(rows, columns, generator=generator) * size
    if kind == "float":
        return Weight(weight), weight
    codes, scales = quantize(weight, *kind)
    return Weight(codes, scales), dequantize(codes, scales)


def product(library):
    """Some product of int4 weights, always the same."""
    generator = torch.Generator().manual_seed(1)
    weight, _ = random_weight(96, 128, (4, 64), generator)
    x = torch.randn(64, 128, generator=generator)
    return run(library, [x], [128, 96], kind=lib.LINEAR, in_=0, out=1, matrix=Panels(Arena(library), [weight]))


def as_stored(x: Tensor, kind: str) -> Tensor:
    """Keys or values [tokens, heads, D] as the cache keeps them: int8 with a scale for each token and head."""
    if kind == "int8":
        step = x.abs().amax(-1, keepdim=True) / 127
        return (x / step).round() * step
    return x.to(getattr(torch, kind)).float()


@dataclass
class Request:
    """Queries, keys and values of one sequence, [tokens, heads, D], and how many columns all its tokens see."""

    q: Tensor
    k: Tensor
    v: Tensor
    prefix: int = 0

    def expected(self, kind: str = "float32") -> Tensor:
        seen = torch.arange(1, len(self.q) + 1).clamp_min(self.prefix)
        return reference.attention(self.q, as_stored(self.k, kind), as_stored(self.v, kind), seen)


def random_request(length, heads, kv_heads, d, seed, prefix=0):
    generator = torch.Generator().manual_seed(seed)
    make = lambda n: torch.randn(length, n, d, generator=generator)  # noqa: E731
    return Request(make(heads) * 2, make(kv_heads), make(kv_heads), prefix)


class Served:
    """Requests over one cache, whose blocks are dealt in random order; `advance` computes some tokens of each."""

    def __init__(self, library, kind, requests, blocks=160, layer=1):
        (_, heads, d), kv_heads = requests[0].q.shape, requests[0].k.shape[1]
        self.requests, self.done, self.layer = requests, [0] * len(requests), layer
        self.store = PagedStore(Arena(library), kind, 2, blocks, heads, kv_heads, d)
        self.store.data.fill_(0xFF)  # NaN everywhere: what nobody wrote must not be read
        self.tables = (
            np.random.default_rng(1)
            .permutation(blocks)
            .astype(np.int32)[: blocks // len(requests) * len(requests)]
            .reshape(len(requests), -1)
        )
        self.program = Program(library, self.store)
        width = (heads + 2 * kv_heads) * d
        self.program.buffer(width)
        self.program.buffer(heads * d)
        self.program.add(lib.ROTARY, 0, layer=layer, scale=1 / math.sqrt(d))
        self.program.add(lib.ATTEND, 0, 1, layer=layer)

    def advance(self, counts):
        """{request: its new rows, [tokens, heads, D]} of those that have any."""
        active = [i for i, n in enumerate(counts) if n]
        rows = [
            torch.cat(
                [
                    t[self.done[i] : self.done[i] + counts[i]].flatten(1)
                    for t in (self.requests[i].q, self.requests[i].k, self.requests[i].v)
                ],
                1,
            )
            for i in active
        ]
        x, new = torch.cat(rows), np.array([counts[i] for i in active])
        self.program._reserve(len(x))
        self.program._rows[0][: len(x)] = x
        zero = np.zeros((2, len(x)), np.int32)
        cached, prefix = [np.array([v[i] for i in active]) for v in (self.done, [r.prefix for r in self.requests])]
        out = self.program.run(make_step(zero[0], zero, new, cached, prefix, self.tables[active], np.arange(len(x))))
        for i in active:
            self.done[i] += counts[i]
        return dict(zip(active, out.unflatten(1, self.requests[0].q.shape[1:]).split(new.tolist()), strict=True))
