"""Weights in the kernels' layout, and lists of operations over them that run as one call. What network the operations
make is not known here.

Shapes: N tokens of a step, O rows (outputs) and I columns (inputs) of a matrix, G groups of a row.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openglm.kernels import library as lib


@dataclass
class Weight:
    """One matrix as it is stored: fp32 (scales None), or codes and half-precision scales [O, G] in the format of
    quant/codes.py."""

    codes: Tensor
    scales: Tensor | None = None

    @property
    def kind(self) -> int:
        return lib.F32 if self.scales is None else lib.Q4 if self.codes.dtype == torch.uint8 else lib.Q8

    @property
    def columns(self) -> int:
        return self.codes.shape[1] * (2 if self.kind == lib.Q4 else 1)

    @property
    def group(self) -> int:
        return self.columns if self.scales is None else self.columns // self.scales.shape[1]

    @property
    def block(self) -> int:
        """Columns that share a scale in the panels: 64 where groups allow it, 32, or 0 where neither divides them."""
        return 64 if self.group in (self.columns,) or self.group % 64 == 0 else 32 if self.group % 32 == 0 else 0


class Arena:
    """Zeroed memory for weights, in slabs that the system may back with huge pages: streaming gigabytes in pages of 4
    KB costs a fifth of the speed."""

    SLAB = 64 << 20

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library, self._slab = library, torch.empty(0, dtype=torch.uint8)

    def take(self, size: int) -> Tensor:
        """`size` bytes of zeros, at a multiple of 64. What was never written costs nothing."""
        rounded = -(-size // 64) * 64
        if rounded > len(self._slab):
            self._slab = torch.frombuffer(
                mmap.mmap(-1, max(rounded, self.SLAB), mmap.MAP_PRIVATE | mmap.MAP_ANON), dtype=torch.uint8
            )
            self.library.glm_huge_pages(
                self._slab.data_ptr(), self._slab.numel()
            )  # before the first touch, which decides
        taken, self._slab = self._slab[:size], self._slab[rounded:]
        return taken


class Panels:
    """Matrices of the same input, one below the other, in panels of 16 rows (csrc/glm.h). `gated`: two, whose rows
    alternate eight by eight, so that a gate meets its branch.
    `forget`: what is packed is lost where it was, piece by piece, so that even the largest matrix is never in memory
    twice."""

    _AT_ONCE = 8 << 20  # bytes

    def __init__(
        self,
        arena: Arena,
        weights: Sequence[Weight],
        biases: Sequence[Tensor | None] = (),
        gated: bool = False,
        forget: bool = False,
    ) -> None:
        library, first, rows = arena.library, weights[0], [len(w.codes) for w in weights]
        assert all((w.kind, w.columns) == (first.kind, first.columns) for w in weights), (
            "matrices of one product differ in kind"
        )
        self.kind, self.columns, self.rows, self.block = (
            first.kind,
            first.columns,
            sum(rows),
            min(w.block for w in weights),
        )
        assert self.block, f"groups of {first.group} columns have no panels"
        padded = -(-self.rows // lib.PANEL) * lib.PANEL
        self.data = arena.take(library.glm_packed_bytes(self.kind, self.rows, self.columns, self.block))
        self.bias = torch.zeros(padded) if any(b is not None for b in biases) else None
        start = 0
        for i, weight in enumerate(weights):
            self._pack(library, weight, rows[i], 0 if gated else start, 1 + gated, i, forget)
            bias = biases[i] if biases else None
            if self.bias is not None and bias is not None:
                row = torch.arange(rows[i])
                row = row // 8 * 16 + i * 8 + row % 8 if gated else row + start
                self.bias[row] = bias.detach().float()
            start += rows[i]
        self.struct = lib.Matrix(
            self.data.data_ptr(),
            self.bias.data_ptr() if self.bias is not None else None,
            None,
            self.rows,
            self.columns,
            self.kind,
            self.block,
        )

    def _pack(
        self, library: ctypes.CDLL, weight: Weight, rows: int, target: int, interleaved: int, half: int, forget: bool
    ) -> None:
        codes = (weight.codes.float() if weight.scales is None else weight.codes).detach().contiguous()
        scales = None if weight.scales is None else weight.scales.detach().contiguous()
        step = max(1, self._AT_ONCE // codes[0].nbytes)
        for first in range(0, rows, step):
            piece, scale = codes[first : first + step], scales[first:].data_ptr() if scales is not None else None
            shape = (self.kind, len(piece), self.columns, self.block)
            library.glm_pack(
                *shape, piece.data_ptr(), scale, weight.group, self.data.data_ptr(), target + first, interleaved, half
            )
            if forget:
                library.glm_forget(piece.data_ptr(), piece.nbytes)


class Table:
    """A table that is only looked up, as and where it is stored: numbers in rows, or codes with their scales."""

    def __init__(self, weight: Weight) -> None:
        self.kept = codes, scales = weight.codes.detach(), weight.scales
        plain = {torch.float32: lib.ROWS_F32, torch.float16: lib.ROWS_F16, torch.bfloat16: lib.ROWS_BF16}
        kind, block = (
            (plain[codes.dtype], codes.stride(0))
            if scales is None
            else (lib.ROWS_Q4 if weight.kind == lib.Q4 else lib.ROWS_Q8, weight.group)
        )
        where = None if scales is None else scales.data_ptr()
        self.struct = lib.Matrix(codes.data_ptr(), None, where, len(codes), weight.columns, kind, block)


class PagedStore:
    """Keys and values of all layers in blocks of 16 tokens. `kind`: float32, float16 or int8."""

    def __init__(
        self, arena: Arena, kind: str, layers: int, blocks: int, heads: int, kv_heads: int, head_dim: int
    ) -> None:
        size = {"float32": 4, "float16": 2, "int8": 1}[kind]
        head = 2 * head_dim * lib.PANEL * size + (2 * 4 * lib.PANEL if kind == "int8" else 0)
        # What no sequence has written yet takes no memory.
        self.data = arena.take(layers * blocks * kv_heads * head).view(layers, blocks, kv_heads, head)
        layer_bytes, block_bytes, head_bytes = self.data.stride()[:3]
        self.struct = lib.Cache(
            self.data.data_ptr(), layer_bytes, block_bytes, head_bytes, lib.CACHE_KINDS[kind], heads, kv_heads, head_dim
        )

    def write(self, keys_LMPD: Tensor, values_LMPD: Tensor, table: np.ndarray, start: int) -> None:
        """Keys and values of P virtual tokens, those from `start` on, as the first of a sequence whose blocks are
        `table`."""
        width, kind = keys_LMPD.shape[3], {0: torch.float32, 1: torch.float16, 2: torch.int8}[self.struct.kind]
        half = width * lib.PANEL * kind.itemsize
        keys = self.data[..., :half].view(kind).unflatten(-1, (width, lib.PANEL))
        values = self.data[..., half : 2 * half].view(kind).unflatten(-1, (lib.PANEL, width))
        for token in range(start, keys_LMPD.shape[2]):
            block, slot = int(table[token // lib.PANEL]), token % lib.PANEL
            key, value = keys_LMPD[:, :, token].float(), values_LMPD[:, :, token].float()
            if kind == torch.int8:
                scales = self.data[:, block, :, 2 * half :].view(torch.float32)
                for column, rows in ((slot, key), (lib.PANEL + slot, value)):
                    scales[..., column] = scale = rows.abs().amax(-1).clamp_min(1e-8) / 127
                    rows /= scale[..., None]
                key, value = key.round(), value.round()
            keys[:, block, ..., slot], values[:, block, :, slot] = key, value


class Program:
    """Operations in order. `buffer` and `add` build it, `run` executes it for one step; the last operation's output is
    the result."""

    def __init__(
        self,
        library: ctypes.CDLL,
        store: PagedStore | None = None,
        layout: str = "learned_2d",
        frequencies: Tensor | None = None,
        angle_scale: float = 1.0,
    ) -> None:
        self.library, self.store = library, store
        self._ops: list[lib.Op] = []
        self._widths: list[int] = []
        self._homes: list[int] = []  # the buffer in whose memory each lies
        self._kept: list[Any] = [store, frequencies]  # what the pointers point to
        self._capacity = 0
        self._struct = lib.Program(
            rotary=lib.LAYOUTS[layout],
            angle_count=0 if frequencies is None else len(frequencies),
            angle_scale=angle_scale,
        )
        if store is not None:
            self._struct.cache = store.struct
        if frequencies is not None:
            self._struct.frequencies = frequencies.data_ptr()
        self.durations: np.ndarray | None = None

    def buffer(self, width: int, over: int | None = None) -> int:
        """A new matrix [tokens, width] of fp32 activations, known by its number. over: a buffer whose memory it takes,
        as the two are never needed together."""
        self._widths.append(width)
        self._homes.append(len(self._homes) if over is None else over)
        return len(self._widths) - 1

    def add(
        self,
        kind: int,
        in_: int = -1,
        out: int = -1,
        other: int = -1,
        layer: int = 0,
        mode: int = 0,
        scale: float = 1.0,
        eps: float = 0.0,
        adapter: int = 0,
        added: int = -1,
        matrix: Panels | Table | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> None:
        """Append an operation; csrc/program.cpp says which fields each kind reads. Tensors must be fp32 and
        contiguous."""
        for tensor in (weight, bias):
            assert tensor is None or (tensor.dtype == torch.float32 and tensor.is_contiguous()), tensor
        pointers = [t.data_ptr() if t is not None else None for t in (weight, bias)]
        self._kept += [matrix, weight, bias]
        self._ops.append(
            lib.Op(
                kind,
                in_,
                out,
                other,
                adapter,
                added,
                layer,
                mode,
                scale,
                eps,
                ctypes.pointer(matrix.struct) if matrix else None,
                *pointers,
            )
        )

    def profile(self) -> None:
        """From now on, `durations` holds the nanoseconds of each operation of the last run."""
        self.durations = np.zeros(len(self._ops), dtype=np.int64)
        self._ended = np.zeros(len(self._ops), dtype=np.int64)
        self._struct.ended = self._ended.ctypes.data

    def _reserve(self, tokens: int) -> None:
        if tokens <= self._capacity:
            return
        assert all(op.out != self._ops[-1].out for op in self._ops[:-1]), (
            "the result has room for the rows that are asked for, not for all tokens"
        )
        self._capacity = max(16, 1 << (tokens - 1).bit_length())
        widest = max((op.matrix.contents.columns + 63 for op in self._ops if op.matrix), default=0)
        # The result is new in every run, and is the widest of all.
        widths, result = self._widths, self._ops[-1].out
        widest_of = {
            home: max(w for w, h in zip(widths, self._homes, strict=True) if h == home)
            for home in set(self._homes) - {result}
        }
        memory = {home: torch.zeros(self._capacity * width) for home, width in widest_of.items()} | {
            result: torch.zeros(0)
        }
        self._rows = [
            memory[home][: self._capacity * width].view(-1, width)
            for width, home in zip(widths, self._homes, strict=True)
        ]
        self._codes = torch.zeros(self._capacity * widest, dtype=torch.int8)
        self._scales = torch.zeros(2, self._capacity * (widest // 32 + 1), dtype=torch.int32)
        self._angles = torch.zeros(self._capacity * 4 * max(1, self._struct.angle_count))
        self._op_array = (lib.Op * len(self._ops))(*self._ops)
        self._buffers = (lib.Buffer * len(self._rows))(*(lib.Buffer(r.data_ptr(), r.shape[1]) for r in self._rows))
        p = self._struct
        p.ops, p.op_count, p.buffers = self._op_array, len(self._ops), self._buffers
        p.codes, p.scales, p.corrections, p.angles = (
            self._codes.data_ptr(),
            self._scales[0].data_ptr(),
            self._scales[1].data_ptr(),
            self._angles.data_ptr(),
        )

    def _result(self, step: lib.Step) -> Tensor:
        """Memory for the rows that the last operation writes."""
        self._reserve(step.tokens)
        last = self._ops[-1].out
        result = torch.empty(step.outputs, self._widths[last])
        self._buffers[last].data = result.data_ptr()
        return result

    def run(self, step: lib.Step) -> Tensor:
        """The rows that the last operation wrote, [outputs, width]."""
        result = self._result(step)
        start = time.monotonic_ns()
        self.library.glm_run(ctypes.byref(self._struct), ctypes.byref(step))
        if self.durations is not None:
            self.durations = np.diff(self._ended, prepend=start)
        return result

    def go_on(
        self, step: lib.Step, choices: Sequence[lib.Choice], uniforms: np.ndarray, positions: np.ndarray
    ) -> np.ndarray:
        """Steps of one token a sequence, each with the tokens that the one before it chose; returns the tokens [steps,
        sequences]. There are fewer steps than uniforms [steps, sequences] (float64) where a sequence comes to an end of
        its choice, or logits are no numbers. positions [steps, 2, sequences] (int32): those of all steps."""
        chosen, _logits = np.empty(uniforms.shape, np.int32), self._result(step)  # held until the steps are done
        together = (lib.Choice * len(choices))(*choices)
        ahead = lib.Ahead(
            ctypes.addressof(together), uniforms.ctypes.data, positions.ctypes.data, chosen.ctypes.data, len(uniforms)
        )
        done = self.library.glm_go_on(ctypes.byref(self._struct), ctypes.byref(step), ctypes.byref(ahead))
        return chosen[:done]


def make_step(
    ids: np.ndarray,
    positions: np.ndarray,
    new: np.ndarray,
    cached: np.ndarray,
    visible: np.ndarray,
    tables: np.ndarray,
    wanted: np.ndarray,
    adapters: np.ndarray | None = None,
) -> lib.Step:
    """The arrays of a step as one structure of int32. ids [N], positions [2, N], adapters [N], of B sequences new,
    cached, visible [B] and tables [B, L], wanted [outputs]."""
    starts = np.zeros(len(new) + 1, np.int32)
    np.cumsum(new, out=starts[1:])
    parts = [
        ids,
        positions.ravel(),
        starts,
        cached,
        visible,
        tables.ravel(),
        wanted,
        np.zeros(len(ids)) if adapters is None else adapters,
    ]
    whole = np.concatenate(
        parts, dtype=np.int32, casting="unsafe"
    )  # one array: between two steps every call into numpy counts
    ends = accumulate((4 * len(part) for part in parts), initial=whole.ctypes.data)
    step = lib.Step(*islice(ends, len(parts)), len(ids), len(new), tables.shape[1], len(wanted))
    step.whole = whole  # kept alive with the step
    return step
