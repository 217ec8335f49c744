"""Forward and backward passes of a step: one micro-batch after another, or through the stages of a pipeline.

Shapes: B rows, T tokens, N positions that the objective asks for, H hidden.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from openglm.config import ParallelConfig
from openglm.model.positions import training_mask
from openglm.model.transformer import Transformer
from openglm.parallel.apply import gather_gradients, vocabulary_loss
from openglm.parallel.pipeline import Pipeline
from openglm.parallel.processes import Processes
from openglm.train.loss import positions_at_once
from openglm.train.objective import Batch, Head, NextToken, Objective, at_positions, carried


@dataclass(frozen=True)
class Sums:
    """What was lost and measured in some rows, not divided by anything."""

    loss: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)


class ForwardBackward(Protocol):
    """Forward and backward passes over this process's rows of a step."""

    def gradient(self, batch: Batch, total: float) -> Sums:
        """Add the gradient of (sum of losses) / total to the parameters.

        `total` is what the objective counts in the whole step and all processes, so a step does not depend on how it is
        divided. Returns the sums, or zeros in a process that does not know them.
        """

    def evaluate(self, batch: Batch) -> Sums:
        """The sums alone."""


@dataclass(frozen=True)
class WholeForwardBackward:
    """Each process has all layers: one micro-batch after another."""

    model: Transformer
    group: Processes
    dtype: torch.dtype
    micro_rows: int
    zero: int = 1
    objective: Objective = field(default_factory=NextToken)

    def gradient(self, batch: Batch, total: float) -> Sums:
        sums, rows = self._zeros(), len(batch["tokens"])
        for at in range(0, rows, self.micro_rows):
            gather_gradients(self.model, at + self.micro_rows >= rows, self.zero)
            sums += self._accumulate(_part(batch, at, self.micro_rows), total)
        return _named(self.objective, sums)

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Sums:
        sums = self._zeros()
        for at in range(0, len(batch["tokens"]), self.micro_rows):
            selected_NH, fields = self._selected(_part(batch, at, self.micro_rows))
            with vocabulary_loss(self.group):
                for hidden, piece in self._pieces(selected_NH, fields):
                    sums += _stacked(self.objective, *self.objective.loss(self._head, hidden, piece))
        return _named(self.objective, sums)

    def _accumulate(self, batch: Batch, total: float) -> Tensor:
        """The objective runs forward and backward piece by piece, before the rest of the network runs backward."""
        selected_NH, fields = self._selected(batch)
        sums = self._zeros()
        gradients: list[Tensor] = []
        for hidden, piece in self._pieces(selected_NH, fields):
            leaf = hidden.detach().requires_grad_()
            with vocabulary_loss(self.group):
                loss, metrics = self.objective.loss(self._head, leaf, piece)
                (loss / total).backward()
            assert leaf.grad is not None, "the objective's loss does not depend on the hidden states"
            gradients.append(leaf.grad)
            sums += _stacked(self.objective, loss, metrics)
        selected_NH.backward(torch.cat(gradients))  # without a position too, for others may have some
        return sums

    def _selected(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Hidden states [N, H] and the objective's fields [N, ...] at the positions it asks for."""
        device = self.group.device
        hidden = hidden_states(self.model, batch, device, self.dtype)
        chosen = batch[self.objective.where].reshape(-1).nonzero()[0]  # found on the host: no wait for the device
        selected_NH = hidden.flatten(0, 1).index_select(0, torch.from_numpy(chosen).to(device))
        arrays = {name: batch[name] for name in carried(self.objective)}
        found = at_positions(arrays, chosen, hidden.shape[1])
        return selected_NH, {name: torch.from_numpy(found[name]).to(device) for name in self.objective.fields}

    def _pieces(self, selected_NH: Tensor, fields: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        size = (
            positions_at_once(self.model.config.vocab_size, self.group.device)
            if self.objective.by_position
            else len(selected_NH)
        )
        for at in range(0, max(len(selected_NH), 1), max(size, 1)):
            piece = slice(at, at + size)
            yield selected_NH[piece], {name: values[piece] for name, values in fields.items()}

    @property
    def _head(self) -> Head:
        return Head(self.model, self.dtype)

    def _zeros(self) -> Tensor:
        return torch.zeros(1 + len(self.objective.metrics), device=self.group.device)


class PipelinedForwardBackward:
    """Each process has some of the layers: micro-batches go through the stages."""

    def __init__(
        self,
        pieces: list[Transformer],
        config: ParallelConfig,
        group: Processes,
        dtype: torch.dtype,
        micro_rows: int,
        objective: Objective,
    ) -> None:
        self.head, self.group, self.dtype, self.objective = Head(pieces[-1], dtype), group, dtype, objective
        self.pipeline = Pipeline(pieces, config, group, micro_rows, self._loss)
        self.total = 1.0
        self.layout: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        self.measured: dict[int, tuple[Tensor, Tensor]] = {}  # a loss and its metrics, by the id of the loss

    def gradient(self, batch: Batch, total: float) -> Sums:
        return self._run(batch, total, backward=True)

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Sums:
        return self._run(batch, 1.0, backward=False)

    def _run(self, batch: Batch, total: float, backward: bool) -> Sums:
        self.total, self.measured, device = total, {}, self.group.device
        tokens, positions_B2T, segment = to_device(batch, device)
        packed_BF = torch.from_numpy(self._pack(batch)).to(device)
        with vocabulary_loss(self.group), torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            losses = self.pipeline.run(tokens, packed_BF, positions_B2T, segment, backward)
        loss = sum(float(loss.detach()) for loss in losses) * total
        # Only those of losses that came back: a schedule first tries the loss to learn shapes.
        measured = [self.measured[id(loss)][1] for loss in losses]
        self.measured = {}
        metrics = torch.stack(measured).sum(0).tolist() if measured else [0.0] * len(self.objective.metrics)
        return Sums(loss, dict(zip(self.objective.metrics, metrics, strict=True)))

    def _pack(self, batch: Batch) -> np.ndarray:
        """The objective's fields in one array [B, numbers], as schedules want it; fp64 holds ids and fp32 exactly."""
        arrays = {name: batch[name] for name in carried(self.objective)}
        self.layout = {name: (torch.from_numpy(array).dtype, array.shape[1:]) for name, array in arrays.items()}
        return np.concatenate([array.reshape(len(array), -1) for array in arrays.values()], axis=1, dtype=np.float64)

    def _unpack(self, packed_BF: Tensor) -> dict[str, Tensor]:
        sizes = [int(np.prod(shape)) for _, shape in self.layout.values()]
        parts = packed_BF.split(sizes, dim=1)
        return {
            name: part.reshape(len(part), *shape).to(dtype)
            for part, (name, (dtype, shape)) in zip(parts, self.layout.items(), strict=True)
        }

    def _loss(self, hidden_BTH: Tensor, packed_BF: Tensor) -> Tensor:
        arrays = self._unpack(packed_BF)
        chosen = arrays[self.objective.where].flatten().nonzero()[:, 0]
        selected_NH = hidden_BTH.flatten(0, 1).index_select(0, chosen)
        fields = at_positions(arrays, chosen, hidden_BTH.shape[1])
        with torch.autocast(
            hidden_BTH.device.type, enabled=False
        ):  # as elsewhere: the head alone computes in a smaller type
            loss, metrics = self.objective.loss(self.head, selected_NH, fields)
        loss_share = loss / self.total
        self.measured[id(loss_share)] = loss_share, _stacked(self.objective, loss, metrics)[1:]
        return loss_share


def hidden_states(model: Transformer, batch: Batch, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[B, T, H] of packed rows. dtype: compute type of products."""
    tokens, positions_B2T, segment = to_device(batch, device)
    # A row that is one text read forward needs no mask, and the kernel then skips the half that nobody sees.
    kind = model.config.mask
    forward = kind == "causal" or bool(batch["block_position"][:, 1:].all())
    alone = not batch["segment"].any()
    mask = None if forward and alone else training_mask(segment, positions_B2T[:, 1], kind)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        return model(tokens, positions_B2T, mask)


def to_device(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens [B, T], positions [B, 2, T] and segments [B, T] on the device."""
    tokens, position, block, segment = (
        torch.from_numpy(batch[name]).to(device, non_blocking=True)
        for name in ("tokens", "position", "block_position", "segment")
    )
    return tokens, torch.stack([position, block], dim=1), segment


def _part(batch: Batch, at: int, rows: int) -> Batch:
    return {name: array[at : at + rows] for name, array in batch.items()}


def _stacked(objective: Objective, loss: Tensor, metrics: Mapping[str, Tensor]) -> Tensor:
    """The loss and the metrics in their order, without a gradient."""
    return torch.stack([loss.detach(), *(metrics[name].detach().to(loss.dtype) for name in objective.metrics)])


def _named(objective: Objective, sums: Tensor) -> Sums:
    loss, *metrics = sums.tolist()
    return Sums(loss, dict(zip(objective.metrics, metrics, strict=True)))
