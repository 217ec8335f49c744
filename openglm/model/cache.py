"""Keys and values of the tokens seen so far: one plain tensor a layer, for the plain `generate`. The engine has its own
paged cache."""

from __future__ import annotations

import torch
from torch import Tensor

from openglm.config import ModelConfig
from openglm.model.adapters import Prefix
from openglm.model.attention import attend


class KVCache:
    """Room for `capacity` tokens behind those of a prefix. `append` returns all keys and values so far, [B, kv_heads,
    S, D]."""

    def __init__(
        self,
        config: ModelConfig,
        batch: int,
        capacity: int,
        device: torch.device,
        dtype: torch.dtype,
        prefix: Prefix | None = None,
    ) -> None:
        self.length = prefix.length if prefix else 0
        shape = (config.layers, batch, config.kv_heads, self.length + capacity, config.head_dim)
        self.keys = torch.empty(shape, device=device, dtype=dtype)
        self.values = torch.empty(shape, device=device, dtype=dtype)
        if prefix:
            self.keys[:, :, :, : self.length] = prefix.keys[:, None]
            self.values[:, :, :, : self.length] = prefix.values[:, None]

    def append(self, layer: int, key_BNTD: Tensor, value_BNTD: Tensor) -> tuple[Tensor, Tensor]:
        end = self.length + key_BNTD.shape[2]
        assert end <= self.keys.shape[3], (end, self.keys.shape[3])
        self.keys[layer, :, :, self.length : end] = key_BNTD
        self.values[layer, :, :, self.length : end] = value_BNTD
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def attend(
        self, layer: int, query_BNTD: Tensor, key_BNTD: Tensor, value_BNTD: Tensor, mask: Tensor | None, scale: float
    ) -> Tensor:
        """Remember the new keys and values, and let the queries look at all of them."""
        return attend(query_BNTD, *self.append(layer, key_BNTD, value_BNTD), mask, scale)

    def advance(self, tokens: int) -> None:
        """Called once a forward pass, after all layers have appended."""
        self.length += tokens
