"""What is added to a trained network without touching its weights: the prefix of P-Tuning v2 (arXiv 2110.07602) and
LoRA (arXiv 2106.09685).

A prefix is made of virtual tokens: keys and values that every layer sees before its first token. They carry no
rotation, are seen by all tokens and take no positions. Shapes: L layers, N key/value heads, P virtual tokens, D head
width, S tokens seen, R rank.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openglm.config import ModelConfig, require


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

    def check(self, network: nn.Module, name: str) -> None:
        """Raises ValueError, naming the adapter, where it belongs to another network."""
        c, (layers, heads, _, width) = network.config, self.keys.shape
        fits = (layers, heads, width) == (c.layers, c.kv_heads, c.head_dim) and self.values.shape == self.keys.shape
        require(
            fits,
            f"adapter {name}",
            tuple(self.keys.shape),
            f"belongs to another model; this one has {c.layers} layers of {c.kv_heads} heads of {c.head_dim}",
        )


class Lora(nn.Module):
    """Products of two small matrices that are added to those of linear layers: y + (x down^T) up^T. The scale is part
    of `up`."""

    def __init__(self, pairs: dict[str, tuple[Tensor, Tensor]]) -> None:
        """pairs: down [R, in] and up [out, R] by the name of the layer in the network, such as
        `blocks.0.attention.q_proj`."""
        super().__init__()
        self.names = tuple(pairs)
        for number, (down_RI, up_OR) in enumerate(pairs.values()):
            self.register_buffer(f"down_{number}", down_RI)
            self.register_buffer(f"up_{number}", up_OR)

    def pair(self, name: str) -> tuple[Tensor, Tensor]:
        number = self.names.index(name)
        return getattr(self, f"down_{number}"), getattr(self, f"up_{number}")

    def check(self, network: nn.Module, name: str) -> None:
        """Raises ValueError, naming the adapter, where it belongs to another network."""
        layers = dict(network.named_modules())
        for layer in self.names:
            require(layer in layers, f"adapter {name}", layer, "no such layer in this model")
            (rank, columns), (rows, also) = (t.shape for t in self.pair(layer))
            fits = rank == also and (rows, columns) == _shape(layers[layer])
            require(
                fits,
                f"adapter {name}",
                layer,
                f"shapes [{rank}, {columns}] and [{rows}, {also}] do not fit this model's layer; it belongs to another model",
            )


def _shape(layer: nn.Module) -> tuple[int, ...]:
    """Rows and columns of a linear layer; a quantized one says them, for it has its weights only in codes."""
    return (
        (layer.rows, layer.columns) if hasattr(layer, "rows") else tuple(getattr(layer, "weight", torch.empty(0)).shape)
    )
