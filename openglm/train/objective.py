"""What a step optimizes. Pre-training and tuning predict tokens; anything else brings an `Objective` of its own.

An objective gets hidden states and named fields of the rows, at the positions that it asks for, and returns a sum of
losses. It knows nothing of micro-batches, processes or optimizers: the passes divide the sum, run backward, and add up
what other processes found.

Shapes: B rows, T tokens, N positions, H hidden, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from openglm.model.transformer import Transformer
from openglm.parallel.processes import local_part
from openglm.train.loss import positions_at_once

Batch = dict[str, np.ndarray]
Array = TypeVar("Array", np.ndarray, Tensor)
ROW = "row"


@dataclass(frozen=True)
class Head:
    """The output side of the network, as far as this process has it."""

    model: Transformer
    dtype: torch.dtype
    """compute type of products"""

    def logits(self, hidden_NH: Tensor) -> Tensor:
        """[N, V] in fp32; under tensor parallelism a DTensor that is cut over the vocabulary."""
        with torch.autocast(hidden_NH.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits_NV = self.model.project(hidden_NH)
        return logits_NV.float()

    def cross_entropy(self, hidden_NH: Tensor, targets_N: Tensor) -> Tensor:
        """-log p of each target, in nats [N]; the softmax is in fp32."""
        return local_part(F.cross_entropy(self.logits(hidden_NH), targets_N, reduction="none"))

    def log_probability(self, hidden_NH: Tensor, targets_N: Tensor) -> Tensor:
        """log p of each target [N], for objectives that need whole answers: logits are made piece by piece, again in
        the backward pass, so that those of all positions never exist at once."""
        size = positions_at_once(self.model.config.vocab_size, hidden_NH.device)
        pieces = zip(hidden_NH.split(size), targets_N.split(size), strict=True)
        return -torch.cat([checkpoint(self.cross_entropy, *piece, use_reentrant=False) for piece in pieces])

    def scores(self, hidden_NH: Tensor) -> Tensor:
        """What the layer for scores makes of hidden states [N], in fp32."""
        assert self.model.score is not None, "the network has no layer for scores"
        with torch.autocast(hidden_NH.device.type, enabled=False):
            return self.model.score(hidden_NH.float()).squeeze(-1)


class Objective(Protocol):
    """A loss that is a sum over positions, or over rows.

    DPO reads targets, segments and a reference's log-probabilities, and takes rows whole. PPO and GRPO read advantages
    and old log-probabilities, and distillation the teacher's best logits, position by position.
    """

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the arrays that `loss` reads. Of [rows, seq_len, ...] it gets the values at its positions, of [rows]
        the value of each position's row. "row", which rows need not carry, is the row's number in the micro-batch."""

    @property
    def where(self) -> str:
        """The array [rows, seq_len] that is not 0 at the positions that `loss` gets; no other reaches the head."""

    @property
    def by_position(self) -> bool:
        """Whether the loss is a sum over positions. They then come in pieces: logits of all never exist at once;
        otherwise those of a micro-batch come together, its rows whole."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what `loss` measures beside the loss."""

    def count(self, batch: Batch) -> float:
        """How many trained tokens, pairs or answers these rows hold: what losses and metrics are divided by."""

    def loss(self, head: Head, hidden_NH: Tensor, fields: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The sum of losses (without positions: a zero that still has a gradient), and the sum of each metric."""


@dataclass(frozen=True)
class NextToken:
    """Cross entropy of the targets, weighted by the loss mask: pre-training, and tuning on conversations."""

    fields = ("targets", "loss_mask")
    where = "loss_mask"
    by_position = True
    metrics = ()

    def count(self, batch: Batch) -> float:
        return float(batch["loss_mask"].sum(dtype=np.float64))

    def loss(self, head: Head, hidden_NH: Tensor, fields: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        return (head.cross_entropy(hidden_NH, fields["targets"]) * fields["loss_mask"]).sum(), {}


def carried(objective: Objective) -> tuple[str, ...]:
    """The arrays that rows must carry for an objective, beside what the network reads."""
    return tuple(dict.fromkeys(name for name in (objective.where, *objective.fields) if name != ROW))


def at_positions(arrays: Mapping[str, Array], chosen_N: Array, length: int) -> dict[str, Array]:
    """Values of arrays [B, T, ...] or [B] at positions of the flattened rows of `length` tokens, and "row"."""
    rows_N = chosen_N // length
    found = {
        name: array[rows_N, chosen_N % length] if array.ndim > 1 else array[rows_N] for name, array in arrays.items()
    }
    return {**found, ROW: rows_N}
