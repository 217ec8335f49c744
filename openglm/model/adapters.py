"""What is added to a trained network without touching its weights: the prefix of P-Tuning v2 (arXiv 2110.07602) and
LoRA (arXiv 2106.09685).

A prefix is made of virtual tokens: keys and values that every layer sees before its first token. They carry no
rotation, are seen by all tokens and take no positions. Shapes: L layers, N key/value heads, P virtual tokens, D head
width, B batch, M query heads, T tokens, S tokens seen, R rank, E width of a prefix's table.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openglm.config import LoraConfig, ModelConfig, require
from openglm.model.attention import attend


class Prefix(nn.Module):
    """Keys and values of P virtual tokens in every layer; a cache of any kind begins with them. By itself it is a cache
    that remembers nothing, for whole sequences."""

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

    def attend(
        self, layer: int, query_BMTD: Tensor, key_BNTD: Tensor, value_BNTD: Tensor, mask: Tensor | None, scale: float
    ) -> Tensor:
        """Let the queries look at the virtual tokens and at the new ones."""
        key, value = (
            torch.cat([own[layer].to(new.dtype).expand(len(new), -1, -1, -1), new], 2)
            for own, new in ((self.keys, key_BNTD), (self.values, value_BNTD))
        )
        return attend(query_BMTD, key, value, mask, scale)

    def advance(self, tokens: int) -> None:
        """Part of being a cache."""

    def check(self, config: ModelConfig, name: str) -> None:
        """Raises ValueError, naming the adapter, where it belongs to another network."""
        layers, heads, _, width = self.keys.shape
        wanted = config.layers, config.kv_heads, config.head_dim
        require(
            (layers, heads, width) == wanted and self.values.shape == self.keys.shape,
            f"adapter {name}",
            tuple(self.keys.shape),
            f"belongs to another model; this one has {wanted[0]} layers of {wanted[1]} heads of {wanted[2]}",
        )


def prefix_width(config: ModelConfig) -> int:
    """Numbers that a virtual token has: keys and values of all layers."""
    return 2 * config.layers * config.kv_heads * config.head_dim


class PrefixEncoder(nn.Module):
    """What a prefix is trained as: a table, or a smaller one and two layers that make its rows. Names are ChatGLM's."""

    def __init__(self, config: ModelConfig, length: int, columns: int, inner: int = 0, dropout: float = 0.0) -> None:
        """columns: E, of the table; inner: width between the two layers, 0: there are none."""
        super().__init__()
        self.config, self.dropout = config, dropout
        self.embedding = nn.Embedding(length, columns)
        self.trans = (
            nn.Sequential(nn.Linear(columns, inner), nn.Tanh(), nn.Linear(inner, prefix_width(config)))
            if inner
            else None
        )

    def forward(self) -> Prefix:
        table_PE = self.embedding.weight
        rows = table_PE if self.trans is None else self.trans(table_PE)
        return Prefix.of(F.dropout(rows, self.dropout, self.training), self.config)


class Lora(nn.Module):
    """Products of two small matrices that are added to those of linear layers: y + scale (x down^T) up^T."""

    def __init__(self, pairs: dict[str, tuple[Tensor, Tensor]], scale: float = 1.0, dropout: float = 0.0) -> None:
        """pairs: down [R, in] and up [out, R] by the name of the layer in the network, such as
        `blocks.0.attention.q_proj`; layers that read the same may share the parameter `down`."""
        super().__init__()
        self.names, self.scale, self.dropout = tuple(pairs), scale, dropout
        self.hooks: list[torch.utils.hooks.RemovableHandle] = []
        for number, pair in enumerate(pairs.values()):
            for name, tensor in zip(("down", "up"), pair, strict=True):
                held = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)
                self.register_parameter(f"{name}_{number}", held)

    @classmethod
    def fresh(cls, model: ModelConfig, options: LoraConfig, seed: int) -> Lora:
        """As training begins: `up` is 0, so that nothing is changed yet. Matrices of a layer that read the same share
        one `down`, as where they are fused: `query_key_value` of the published models.

        Raises ValueError for a target that is not there or narrower than the rank.
        """
        layer = {matrix.name.rpartition(".")[2]: matrix for matrix in model.layer_matrices()}
        targets = tuple(layer) if options.targets == ("all",) else options.targets
        for target in targets:
            require(target in layer, "lora.targets", target, f"no such matrix; known: {', '.join(layer)}, or all")
            least = min(layer[target].rows, layer[target].columns)
            fits = options.rank <= least
            require(fits, "lora.rank", options.rank, f"must be at most {least}, the smaller side of {target}")
        generator = torch.Generator().manual_seed(seed)
        downs: dict[str, nn.Parameter] = {}
        pairs = {}
        for name, matrix in model.matrices().items():
            parent, _, leaf = name.rpartition(".")
            if matrix.role == "layer" and leaf in targets:
                shared = f"{parent} {matrix.reads}"
                if shared not in downs:
                    down_RI = torch.empty(options.rank, matrix.columns)
                    nn.init.kaiming_uniform_(down_RI, math.sqrt(5), generator=generator)  # as the paper's code
                    downs[shared] = nn.Parameter(down_RI)
                pairs[name] = downs[shared], nn.Parameter(torch.zeros(matrix.rows, options.rank))
        return cls(pairs, options.scale, options.dropout)

    def pair(self, name: str) -> tuple[Tensor, Tensor]:
        """down [R, in] and up [out, R] with the scale in it."""
        down_RI, up_OR = self.raw(name)
        return down_RI, up_OR * self.scale

    def raw(self, name: str) -> tuple[Tensor, Tensor]:
        """down [R, in] and up [out, R] as they are trained."""
        number = self.names.index(name)
        return getattr(self, f"down_{number}"), getattr(self, f"up_{number}")

    def attach(self, network: nn.Module) -> None:
        """Let the network's layers add their products from now on."""
        for name in self.names:
            self.hooks.append(network.get_submodule(name).register_forward_hook(partial(self._add, name)))
        network.lora = self

    def detach(self, network: nn.Module) -> None:
        """The network as it was, to the last bit."""
        while self.hooks:
            self.hooks.pop().remove()
        network.lora = None

    def _add(self, name: str, layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        down_RI, up_OR = self.raw(name)
        x = F.dropout(inputs[0], self.dropout, self.training).to(down_RI.dtype)
        return output + (F.linear(F.linear(x, down_RI), up_OR) * self.scale).to(output.dtype)

    def check(self, config: ModelConfig, name: str) -> None:
        """Raises ValueError, naming the adapter, where it belongs to another network."""
        matrices = config.matrices()
        for layer in self.names:
            require(layer in matrices, f"adapter {name}", layer, "no such layer in this model")
            (rank, columns), (rows, also) = (t.shape for t in self.raw(layer))
            matrix = matrices[layer]
            require(
                rank == also and (rows, columns) == (matrix.rows, matrix.columns),
                f"adapter {name}",
                layer,
                f"shapes [{rank}, {columns}] and [{rows}, {also}] do not fit this model's layer; it belongs to "
                "another model",
            )
