"""The layers that hold quantized weights, in the places of `nn.Linear` and `nn.Embedding`. Products here are the plain
definition: weights are widened and multiplied by torch. The kernels hold themselves to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openglm.quant.codes import check_format, dequantize, fitting_format, quantize

_AT_ONCE = 1 << 22  # weights that are widened together: larger pieces leave gaps in memory that nothing fits


class QuantizedWeight(nn.Module):
    """Codes and scales of one matrix [rows, columns] (openglm/quant/codes.py). `group` 0: one scale a row."""

    codes: Tensor
    scales: Tensor

    def __init__(
        self, rows: int, columns: int, bits: int, group: int, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        check_format(bits, group, columns)
        self.rows, self.columns, self.bits, self.group = rows, columns, bits, group
        codes = (
            torch.empty(rows, columns, dtype=torch.int8, device=device)
            if bits == 8
            else torch.empty(rows, columns // 2, dtype=torch.uint8, device=device)
        )
        self.register_buffer("codes", codes)
        self.register_buffer(
            "scales", torch.empty(rows, columns // (group or columns), dtype=torch.float16, device=device)
        )

    def assign(self, codes: Tensor, scales: Tensor) -> None:
        """Take codes and scales as they are, without a copy. Raises ValueError for wrong shapes or types."""
        for name, ours, theirs in (("codes", self.codes, codes), ("scales", self.scales, scales)):
            if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
                raise ValueError(
                    f"{name}: {theirs.dtype} {list(theirs.shape)} where {ours.dtype} {list(ours.shape)} is expected"
                )
        self.codes, self.scales = codes, scales

    @classmethod
    def holding(cls, layer: nn.Linear | nn.Embedding, codes: Tensor, scales: Tensor) -> QuantizedWeight:
        """In the place of `layer`, with codes and scales for its weight; everything else is that of `layer`."""
        (rows, columns), groups = layer.weight.shape, scales.shape[1]
        new = cls(
            rows,
            columns,
            4 if codes.dtype == torch.uint8 else 8,
            0 if groups == 1 else columns // groups,
            device="meta",
        )
        new.assign(codes, scales)
        new._take(layer)
        return new

    @classmethod
    def of(cls, layer: nn.Linear | nn.Embedding, bits: int, group: int) -> QuantizedWeight:
        """Quantize a layer; its bias is shared, not copied."""
        return cls.holding(layer, *quantize(layer.weight.detach(), bits, group))

    def _take(self, layer: nn.Module) -> None:
        """What `holding` takes over besides the weight."""

    @property
    def weight(self) -> Tensor:
        """The matrix in fp32, made anew at each use."""
        return dequantize(self.codes, self.scales)

    def _apply(self, fn, recurse: bool = True):
        """Moves between devices; scales stay in half precision whatever the rest of the network is converted to."""
        scales = self.scales
        super()._apply(fn, recurse)
        if self.scales.dtype != scales.dtype:
            self.scales = scales.to(self.codes.device)
        return self

    def extra_repr(self) -> str:
        return f"{self.rows} x {self.columns}, int{self.bits}, {f'groups of {self.group}' if self.group else 'one scale a row'}"


class _Product(torch.autograd.Function):
    """x W^T, with a gradient for x alone. Weights are widened some rows at a time, and anew in the backward pass:
    autograd would keep those of all layers until then."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(codes, scales)
        return torch.cat([F.linear(x, weight) for weight in _widened(codes, scales, x.dtype)], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        codes, scales = ctx.saved_tensors
        at, found = 0, gradient.new_zeros(())
        for weight in _widened(codes, scales, gradient.dtype):
            found = found + gradient[..., at : at + len(weight)] @ weight
            at += len(weight)
        return found, None, None


def _widened(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    columns = codes.shape[1] * (2 if codes.dtype == torch.uint8 else 1)
    rows = max(1, _AT_ONCE // columns)
    for part in zip(codes.split(rows), scales.split(rows), strict=True):
        yield dequantize(*part, dtype)


class QuantizedLinear(QuantizedWeight):
    """y = x W^T + b with quantized W [out, in]; the bias keeps its type."""

    def __init__(
        self, rows: int, columns: int, bits: int, group: int, device: torch.device | str | None = None
    ) -> None:
        super().__init__(rows, columns, bits, group, device)
        self.register_parameter("bias", None)

    def _take(self, layer: nn.Module) -> None:
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        product = _Product.apply(x, self.codes, self.scales)
        return product if self.bias is None else product + self.bias


class QuantizedEmbedding(QuantizedWeight):
    """Rows of a quantized table. `dtype`: type of the rows it gives."""

    dtype = torch.float32

    def _take(self, layer: nn.Module) -> None:
        self.dtype = layer.weight.dtype

    def forward(self, ids: Tensor) -> Tensor:
        flat = ids.flatten()
        return dequantize(self.codes[flat], self.scales[flat], self.dtype).unflatten(0, ids.shape)


class StoredEmbedding(nn.Module):
    """Rows of a table as it is stored, which may be in a file (`weight` is then a view of it); gives them as
    `dtype`."""

    def __init__(self, weight_VH: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight, self.dtype = nn.Parameter(weight_VH, requires_grad=False), dtype

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight).to(self.dtype)


def quantize_model(model: nn.Module, bits: int, group: int) -> nn.Module:
    """Replace every linear layer and the word embedding by quantized ones, in place. Position tables and norms stay as
    they are. Matrices whose columns `group` does not divide get the nearest format that fits."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, QuantizedLinear.of(child, *fitting_format(child.in_features, bits, group)))
    columns = model.embedding.weight.shape[1]
    model.embedding = QuantizedEmbedding.of(model.embedding, *fitting_format(columns, bits, group))
    return model
