"""What each kernel computes, in plain torch: the definition that tests hold every code path to. Nothing here is fast.

Shapes: N tokens, I inputs, O outputs, H query heads, M key/value heads, D head width, S tokens seen.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from openglm.kernels import library as lib


def round_activations(x_NI: Tensor, block: int) -> Tensor:
    """What is left of activations in int8: each block of a token's inputs is counted in 127ths of its largest. NaN or
    infinity fills its block with NaN."""
    parts = F.pad(x_NI.float(), (0, -x_NI.shape[1] % block)).unflatten(1, (-1, block))
    step = parts.abs().amax(-1, keepdim=True) / 127
    rounded = torch.where(step == 0, 0.0, (parts / step).round() * step)
    bad = ~torch.isfinite(parts).all(-1, keepdim=True)
    return rounded.masked_fill(bad, torch.nan).flatten(1)[:, : x_NI.shape[1]]


def product(
    x_NI: Tensor,
    weight_OI: Tensor,
    bias_O: Tensor | None = None,
    mode: int = lib.PLAIN,
    residual_NO: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """x W^T + b and what a linear operation does with it; for gated modes the first half of the rows is the gate."""
    y = F.linear(x_NI, weight_OI, bias_O)
    if mode == lib.RESIDUAL:
        assert residual_NO is not None, "nothing to add to"
        return scale * residual_NO + y
    if mode in (lib.GELU, lib.GELU_TANH):
        return F.gelu(y, approximate="tanh" if mode == lib.GELU_TANH else "none")
    if mode in (lib.GEGLU, lib.SWIGLU):
        gate, branch = y.chunk(2, dim=1)
        return (F.silu(gate) if mode == lib.SWIGLU else F.gelu(gate)) * branch
    return y


def norm(
    x_NI: Tensor,
    weight_I: Tensor,
    bias_I: Tensor | None,
    eps: float,
    layernorm: bool,
    residual_NI: Tensor | None = None,
) -> Tensor:
    y = (
        F.layer_norm(x_NI, weight_I.shape, weight_I, bias_I, eps)
        if layernorm
        else F.rms_norm(x_NI, weight_I.shape, weight_I, eps)
    )
    return y if residual_NI is None else residual_NI + y


def attention(q_NHD: Tensor, k_SMD: Tensor, v_SMD: Tensor, seen_N: Tensor) -> Tensor:
    """One sequence: token n looks at the first seen_N[n] keys. What it does not see is not read, so that nothing there
    can spoil it."""
    groups = q_NHD.shape[1] // k_SMD.shape[1]
    out = torch.empty_like(q_NHD)
    for n, seen in enumerate(seen_N.tolist()):
        k, v = (t[:seen].repeat_interleave(groups, dim=1).float() for t in (k_SMD, v_SMD))
        scores = torch.einsum("hd,shd->hs", q_NHD[n], k) / math.sqrt(q_NHD.shape[2])
        out[n] = torch.einsum("hs,shd->hd", scores.softmax(-1), v)
    return out
