"""Multi-head and grouped-query attention with the options of the family.

Shapes: B batch, T tokens, S tokens seen, H hidden, N query heads, D head width.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openglm.config import ModelConfig
from openglm.model.positions import Rotary

PRODUCTS_UP_TO = 512
"""tokens seen, up to which a processor is trained by plain products: it keeps a number for each pair of tokens"""


class Cache(Protocol):
    """Keys and values of the tokens seen so far: plain tensors (cache.py), or the engine's blocks."""

    def attend(
        self, layer: int, query_BNTD: Tensor, key_BMTD: Tensor, value_BMTD: Tensor, mask: Tensor | None, scale: float
    ) -> Tensor:
        """Remember the new keys and values, and let the queries look at all of them."""

    def advance(self, tokens: int) -> None:
        """Called once a forward pass, after all layers have attended."""


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2) + eps) * weight. The weight takes the type of x, which under autocast keeps the fused
    kernel."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Softmax attention; the softmax runs in fp32 inside the fused kernels whatever the type of the products (GLM-130B,
    section 2.1)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.layer_scale = layer + 1 if config.qk_layer_scaling else 1
        query, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden, query, bias=config.bias != "none")
        self.k_proj = nn.Linear(config.hidden, kv, bias=config.bias != "none")
        self.v_proj = nn.Linear(config.hidden, kv, bias=config.bias != "none")
        self.o_proj = nn.Linear(query, config.hidden, bias=config.bias == "all")
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(
        self,
        x_BTH: Tensor,
        rotary: Rotary | None,
        angles: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        cache: Cache | None,
    ) -> Tensor:
        q = self.q_norm(self.q_proj(x_BTH).unflatten(-1, (-1, self.head_dim))).transpose(1, 2)  # [B, N, T, D]
        k = self.k_norm(self.k_proj(x_BTH).unflatten(-1, (-1, self.head_dim))).transpose(1, 2)
        v = self.v_proj(x_BTH).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        if rotary is not None:
            q, k = rotary(q, angles), rotary(k, angles)
        # Query-key layer scaling: the product in half precision is kept small, and the kernel scales it up again in
        # fp32.
        q = q / self.layer_scale if self.layer_scale > 1 else q
        scale = self.layer_scale / math.sqrt(self.head_dim)
        out = attend(q, k, v, mask, scale) if cache is None else cache.attend(self.layer, q, k, v, mask, scale)
        return self.o_proj(out.transpose(1, 2).flatten(-2))


def attend(q_BNTD: Tensor, k_BMSD: Tensor, v_BMSD: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """softmax(scale q k) v, [B, N, T, D]; each of the M key/value heads serves N / M query heads. mask None: each token
    sees its past."""
    if trains_by_products(q_BNTD, k_BMSD.shape[2]):
        return attend_by_products(q_BNTD, k_BMSD, v_BMSD, mask, scale)
    if (groups := q_BNTD.shape[1] // k_BMSD.shape[1]) > 1:
        k_BMSD, v_BMSD = k_BMSD.repeat_interleave(groups, dim=1), v_BMSD.repeat_interleave(groups, dim=1)
    return F.scaled_dot_product_attention(
        q_BNTD, k_BMSD, v_BMSD, attn_mask=mask, is_causal=mask is None and q_BNTD.shape[2] > 1, scale=scale
    )


def trains_by_products(q: Tensor, seen: int) -> bool:
    """Whether plain products are faster than the fused kernel, whose backward pass uses a processor's bfloat16 badly
    (docs/performance.md)."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else q.dtype
    return q.requires_grad and q.device.type == "cpu" and dtype == torch.bfloat16 and seen <= PRODUCTS_UP_TO


def attend_by_products(q_BNTD: Tensor, k_BMSD: Tensor, v_BMSD: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """`attend`, with every score in memory. The softmax is in fp32."""
    batch, heads, tokens, _ = q_BNTD.shape
    kv_heads, seen = k_BMSD.shape[1:3]
    if mask is None:
        mask = torch.ones(tokens, seen, dtype=torch.bool, device=q_BNTD.device).tril(seen - tokens)
    groups = (batch, kv_heads, heads // kv_heads * tokens)  # the query heads of a key/value head are one matrix
    scores = (q_BNTD * scale).reshape(*groups, -1) @ k_BMSD.mT
    scores = scores.float().view(batch, heads, tokens, seen).masked_fill(~mask, float("-inf"))
    weights = torch.softmax(scores, dim=-1).to(v_BMSD.dtype).view(*groups, seen)
    return (weights @ v_BMSD).view(batch, heads, tokens, -1)


def reference_attention(q_BNTD: Tensor, k_BNSD: Tensor, v_BNSD: Tensor, mask: Tensor) -> Tensor:
    """The definition, for tests: softmax(q k / sqrt(D)) v in fp32, forbidden places at -inf."""
    scores = q_BNTD.float() @ k_BNSD.float().transpose(-1, -2) / math.sqrt(q_BNTD.shape[-1])
    return torch.softmax(scores.masked_fill(~mask, float("-inf")), dim=-1) @ v_BNSD.float()
