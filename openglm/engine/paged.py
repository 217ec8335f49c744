"""Keys and values of many sequences in blocks of a fixed number of tokens, and attention over them in plain torch.

Which block belongs to whom is decided elsewhere (blocks.py); this file reads and writes where a `Step` says.
Shapes: N new tokens of the step, M key/value heads, D head width, S tokens seen, b sequences of a group, t new tokens
of each.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openglm.config import ModelConfig
from openglm.engine.step import Step
from openglm.model.attention import attend


@dataclass
class Group:
    """Sequences with equally many new tokens, which attend in one call without padding their queries."""

    rows_bt: Tensor
    tables_bL: Tensor
    length: int
    mask: Tensor | None
    """bool [b, 1, t, S]; None where each token sees all there is, or its past in a sequence that starts here"""
    beyond: Tensor | None
    """bool [b, 1, S, 1]: places past a sequence's end"""


class PagedCache:
    """Fulfils the interface of model/cache.py for the sequences of one `Step` at a time."""

    def __init__(
        self,
        config: ModelConfig,
        blocks: int,
        block_size: int,
        device: torch.device,
        dtype: torch.dtype,
        stored: torch.dtype,
    ) -> None:
        shape = (config.layers, blocks, block_size, config.kv_heads, config.head_dim)
        self.block_size, self.dtype = block_size, dtype
        self.keys = torch.empty(shape, device=device, dtype=stored)
        self.values = torch.empty_like(self.keys)
        int8 = stored == torch.int8  # one scale for each token and head, as large values come in single tokens
        self.key_scales = torch.empty((*shape[:-1], 1), device=device, dtype=torch.float32) if int8 else None
        self.value_scales = torch.empty_like(self.key_scales) if int8 else None
        self.groups: list[Group] = []

    def prepare(self, step: Step) -> None:
        """Work out, once for all layers, where the new tokens go and who sees what."""
        first, size, device = np.cumsum(step.new) - step.new, self.block_size, self.keys.device
        owner = np.repeat(np.arange(len(step.new)), step.new)
        index = np.arange(len(step.ids)) - (first - step.cached)[owner]
        self.slots = torch.from_numpy(step.tables[owner, index // size].astype(np.int64) * size + index % size).to(
            device
        )
        self.groups = [self._group(step, np.flatnonzero(step.new == t), first, device) for t in np.unique(step.new)]

    def _group(self, step: Step, members: np.ndarray, first: np.ndarray, device: torch.device) -> Group:
        count = int(step.new[members[0]])
        ends = step.cached[members] + count
        length = int(ends.max())
        rows = torch.from_numpy(first[members][:, None] + np.arange(count)).to(device)
        tables = torch.from_numpy(step.tables[members, : -(-length // self.block_size)]).to(device)
        column, reach = (
            np.arange(length),
            np.maximum(step.visible[members][:, None], step.cached[members][:, None] + np.arange(count) + 1),
        )
        fresh = count > 1 and not step.cached[members].any() and not step.visible[members].any()
        plain = fresh or (count == 1 and bool((ends == length).all()))
        mask = (
            None
            if plain
            else torch.from_numpy(column < np.minimum(reach, ends[:, None])[..., None])[:, None].to(device)
        )
        beyond = (
            None if (ends == length).all() else torch.from_numpy(column >= ends[:, None])[:, None, :, None].to(device)
        )
        return Group(rows, tables, length, mask, beyond)

    def attend(
        self, layer: int, query_1NTD: Tensor, key_1MTD: Tensor, value_1MTD: Tensor, mask: Tensor | None, scale: float
    ) -> Tensor:
        """Store the new keys and values, and let every sequence's queries look at its own."""
        self._write(self.keys, self.key_scales, layer, self.slots, key_1MTD[0])
        self._write(self.values, self.value_scales, layer, self.slots, value_1MTD[0])
        out = torch.empty_like(query_1NTD)
        for group in self.groups:
            key, value = (
                self._read(self.keys, self.key_scales, layer, group),
                self._read(self.values, self.value_scales, layer, group),
            )
            seen = attend(query_1NTD[0][:, group.rows_bt].transpose(0, 1), key, value, group.mask, scale)
            out[0][:, group.rows_bt] = seen.transpose(0, 1)
        return out

    def advance(self, tokens: int) -> None:
        """The lengths are the scheduler's."""

    def store(self, keys_LMPD: Tensor, values_LMPD: Tensor, table: np.ndarray, start: int) -> None:
        """Keep the keys and values of P virtual tokens as those of a sequence from its place `start` on."""
        index = np.arange(start, start + keys_LMPD.shape[2])
        slots = torch.from_numpy(
            table[index // self.block_size].astype(np.int64) * self.block_size + index % self.block_size
        ).to(self.keys.device)
        for layer in range(len(keys_LMPD)):
            self._write(self.keys, self.key_scales, layer, slots, keys_LMPD[layer])
            self._write(self.values, self.value_scales, layer, slots, values_LMPD[layer])

    @staticmethod
    def _write(store: Tensor, scales: Tensor | None, layer: int, slots: Tensor, new_MTD: Tensor) -> None:
        rows = new_MTD.transpose(0, 1)
        if scales is not None:
            scale = rows.abs().amax(-1, keepdim=True).float().clamp_min(1e-8) / 127
            scales[layer].flatten(0, 1)[slots] = scale
            rows = (rows / scale).round().to(torch.int8)
        store[layer].flatten(0, 1)[slots] = rows.to(store.dtype)

    def _read(self, store: Tensor, scales: Tensor | None, layer: int, group: Group) -> Tensor:
        """[b, M, S, D] of a group."""
        found = store[layer][group.tables_bL].flatten(1, 2)[:, : group.length].transpose(1, 2)
        if scales is not None:
            found = found * scales[layer][group.tables_bL].flatten(1, 2)[:, : group.length].transpose(1, 2)
        found = found.to(self.dtype)
        # A weight of zero times a NaN is a NaN: what other requests left in a block must not be read, not even to be
        # ignored.
        return found if group.beyond is None else found.masked_fill(group.beyond, 0.0)
