"""Forward and backward passes of a step: over whole networks one micro-batch after another, or over the stages of a pipeline.

Shapes: B rows, T tokens, N trained positions, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from openglm.train.loss import cross_entropy, positions_at_once

Batch = dict[str, np.ndarray]


class Passes(Protocol):
    """Forward and backward passes over this process's rows of a step."""

    def gradient(self, batch: Batch, total: float) -> float:
        """Add the gradient of (sum of losses) / total to the parameters; returns the sum of losses, or 0 in a process that does not know it.

        `total` is the number of trained tokens of the whole step in all processes, so a step does not depend on how it is divided.
        """

    def evaluate(self, batch: Batch) -> float:
        """The sum of losses alone."""


@dataclass(frozen=True)
class WholePasses:
    """Each process has all layers: one micro-batch after another."""

    model: Transformer
    group: Processes
    dtype: torch.dtype
    micro_rows: int
    zero: int = 1

    def gradient(self, batch: Batch, total: float) -> float:
        loss, rows = torch.zeros((), device=self.group.device), len(batch["tokens"])
        for at in range(0, rows, self.micro_rows):
            gather_gradients(self.model, at + self.micro_rows >= rows, self.zero)
            loss += self._accumulate(_part(batch, at, self.micro_rows), total)
        return float(loss)

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> float:
        loss = torch.zeros((), device=self.group.device)
        for at in range(0, len(batch["tokens"]), self.micro_rows):
            selected_NH, targets, weights = self._selected(_part(batch, at, self.micro_rows))
            size = positions_at_once(self.model, self.group.device)
            with vocabulary_loss(self.group):
                for hidden, target, weight in zip(
                    selected_NH.split(size), targets.split(size), weights.split(size), strict=True
                ):
                    loss += cross_entropy(self.model, hidden, target, weight, self.dtype)
        return float(loss)

    def _accumulate(self, batch: Batch, total: float) -> Tensor:
        """The output layer runs forward and backward piece by piece: logits of all positions never exist at once."""
        selected_NH, targets, weights = self._selected(batch)
        size = positions_at_once(self.model, self.group.device)
        loss, gradients = torch.zeros((), device=self.group.device), []
        for hidden, target, weight in zip(
            selected_NH.split(size), targets.split(size), weights.split(size), strict=True
        ):
            leaf = hidden.detach().requires_grad_()
            with vocabulary_loss(self.group):
                piece = cross_entropy(self.model, leaf, target, weight, self.dtype)
                (piece / total).backward()
            gradients.append(leaf.grad)
            loss += piece.detach()
        selected_NH.backward(torch.cat(gradients))  # without a trained token too, for others may have some
        return loss

    def _selected(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(hidden states [N, H], targets [N], weights [N]) of the positions that carry loss; the others never reach the output layer."""
        device = self.group.device
        tokens, positions_B2T, segment = place(batch, device)
        # A row that is one text read forward needs no mask, and the kernel then skips the half that nobody sees.
        causal = not batch["segment"].any() and bool(batch["block_position"][:, 1:].all())
        mask = None if causal else training_mask(segment, positions_B2T[:, 1])
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            hidden = self.model(tokens, positions_B2T, mask)
        weights = batch["loss_mask"].reshape(-1)
        trained = weights.nonzero()[0]  # found on the host: no wait for the device
        chosen = hidden.flatten(0, 1).index_select(0, torch.from_numpy(trained).to(device))
        return (
            chosen,
            torch.from_numpy(batch["targets"].reshape(-1)[trained]).to(device),
            torch.from_numpy(weights[trained]).to(device),
        )


class PipelinedPasses:
    """Each process has some of the layers: micro-batches go through the stages."""

    def __init__(
        self, pieces: list[Transformer], config: ParallelConfig, group: Processes, dtype: torch.dtype, micro_rows: int
    ) -> None:
        self.head, self.group, self.dtype, self.total = pieces[-1], group, dtype, 1.0
        self.pipeline = Pipeline(pieces, config, group, micro_rows, self._loss)

    def gradient(self, batch: Batch, total: float) -> float:
        return self._run(batch, total, backward=True)

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> float:
        return self._run(batch, 1.0, backward=False)

    def _run(self, batch: Batch, total: float, backward: bool) -> float:
        self.total, device = total, self.group.device
        tokens, positions_B2T, segment = place(batch, device)
        targets = torch.from_numpy(np.stack([batch["targets"], batch["loss_mask"]], axis=1, dtype=np.float64)).to(
            device
        )  # one tensor, as schedules want it
        with vocabulary_loss(self.group), torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            losses = self.pipeline.run(tokens, targets, positions_B2T, segment, backward)
        return sum(float(loss.detach()) for loss in losses) * total

    def _loss(self, hidden_BTH: Tensor, targets_B2T: Tensor) -> Tensor:
        weights = targets_B2T[:, 1].flatten()
        trained = weights.nonzero()[:, 0]
        targets = targets_B2T[:, 0].flatten()[trained].long()
        return (
            cross_entropy(
                self.head,
                hidden_BTH.flatten(0, 1).index_select(0, trained),
                targets,
                weights[trained].float(),
                self.dtype,
            )
            / self.total
        )


def place(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens [B, T], positions [B, 2, T] and segments [B, T] on the device."""
    tokens, position, block, segment = (
        torch.from_numpy(batch[name]).to(device, non_blocking=True)
        for name in ("tokens", "position", "block_position", "segment")
    )
    return tokens, torch.stack([position, block], dim=1), segment


def _part(batch: Batch, at: int, rows: int) -> Batch:
    return {name: array[at : at + rows] for name, array in batch.items()}
