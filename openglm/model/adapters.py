"""What is added to a trained network without touching its weights: so far the prefix of P-Tuning v2 (arXiv 2110.07602).

A prefix is made of virtual tokens: keys and values that every layer sees before its first token. They carry no rotation, are seen by
all tokens and take no positions. Shapes: L layers, N key/value heads, P virtual tokens, D head width, S tokens seen.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from openglm.config import ModelConfig


class Prefix(nn.Module):
    """Keys and values of P virtual tokens in every layer; a cache of any kind begins with them."""

    def __init__(self, keys_LNPD: Tensor, values_LNPD: Tensor) -> None:
        super().__init__()
        self.register_buffer("keys", keys_LNPD)
        self.register_buffer("values", values_LNPD)

    @classmethod
    def of(cls, table_PE: Tensor, config: ModelConfig) -> Prefix:
        """From the table that is trained: a row per virtual token, its keys and values layer after layer."""
        pairs = table_PE.unflatten(1, (config.layers, 2, config.kv_heads, config.head_dim))  # [P, L, 2, N, D]
        keys, values = pairs.permute(2, 1, 3, 0, 4).unbind(0)
        return cls(keys.contiguous(), values.contiguous())

    @property
    def length(self) -> int:
        return self.keys.shape[2]

    def widen(self, mask_B1TS: Tensor) -> Tensor:
        """The mask of tokens that see the virtual ones first: [B, 1, T, P + S]."""
        return F.pad(mask_B1TS, (self.length, 0), value=True)
