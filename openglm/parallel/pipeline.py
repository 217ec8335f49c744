"""Pipeline parallelism: the pieces of the network as stages of PyTorch's schedules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
)

from openglm.config import ParallelConfig
from openglm.model.positions import training_mask
from openglm.model.transformer import Transformer
from openglm.parallel.processes import Processes, align_gradient, local_part

_SCHEDULES = {
    "gpipe": ScheduleGPipe,
    "1f1b": Schedule1F1B,
    "interleaved": ScheduleInterleaved1F1B,
    "zero-bubble": ScheduleInterleavedZeroBubble,
}


class Pipeline:
    """Forward and backward passes of all micro-batches of a step, over the stages of one data-parallel group."""

    def __init__(
        self,
        pieces: list[Transformer],
        config: ParallelConfig,
        group: Processes,
        micro_rows: int,
        loss: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        """micro_rows: rows that pass through at once. loss(hidden states [b, T, H], their targets) -> what the gradient
        is of; it runs in the last stage."""
        self.pieces, self.config, self.group, self.micro_rows, self.loss = pieces, config, group, micro_rows, loss
        self.first, self.last = group.rank("pipeline") == 0, group.rank("pipeline") == config.pipeline - 1
        self.count, self.schedule = 0, None
        self.tables = self._tied(pieces, group)
        for piece in pieces:
            piece.register_forward_pre_hook(_with_mask, with_kwargs=True)

    def run(
        self, ids_BT: Tensor, targets: Tensor, positions_B2T: Tensor, segment_BT: Tensor, backward: bool
    ) -> list[Tensor]:
        """Losses of the micro-batches, in the last stage; elsewhere none. With `backward`, gradients are added to the
        parameters."""
        losses: list[Tensor] = []
        schedule = self._scheduled(len(ids_BT) // self.micro_rows)
        told = {"target": targets, "losses": losses} if self.last else {}
        run = schedule.step if backward else schedule.eval
        run(
            *([ids_BT] if self.first else []),
            **told,
            positions_B2T=positions_B2T,
            segment_BT=segment_BT,
            return_outputs=False,
        )
        if backward and self.tables:
            table, both = self.tables
            align_gradient(table)
            dist.all_reduce(local_part(table.grad), group=both)
        return losses

    def _scheduled(self, count: int) -> Any:
        """PyTorch's schedule of so many micro-batches; a batch that grows needs a new one."""
        if count != self.count:
            config, group = self.config, self.group
            assert group.mesh is not None
            indices = [group.rank("pipeline") + number * config.pipeline for number in range(len(self.pieces))]
            along, stages = group.mesh["pipeline"].get_group(), config.pipeline * config.chunks
            made = [
                PipelineStage(piece, index, stages, group.device, group=along)
                for piece, index in zip(self.pieces, indices, strict=True)
            ]
            alone = config.schedule in ("gpipe", "1f1b")
            self.count, self.schedule = (
                count,
                _SCHEDULES[config.schedule](made[0] if alone else made, count, loss_fn=self.loss, scale_grads=False),
            )
        return self.schedule

    @staticmethod
    def _tied(pieces: list[Transformer], group: Processes) -> tuple[Tensor, dist.ProcessGroup] | None:
        """The table of a tied network in its first and last stage, and the two processes that share it: each has one
        half of its gradient."""
        if not pieces[0].config.tied:
            return None
        mine = None
        assert group.mesh is not None
        ranks = group.mesh.mesh  # [pipeline, data, tensor]
        for data in range(ranks.shape[1]):
            for tensor in range(ranks.shape[2]):
                both = dist.new_group([int(ranks[0, data, tensor]), int(ranks[-1, data, tensor])])
                if (data, tensor) == (group.rank("data"), group.rank("tensor")):
                    mine = both
        ends = group.rank("pipeline") in (0, group.size("pipeline") - 1)
        piece = pieces[0] if group.rank("pipeline") == 0 else pieces[-1]
        return (piece.embedding.weight, mine) if ends else None


def _with_mask(piece: Transformer, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Each stage makes the mask of a micro-batch itself: it is larger than all else that would be sent."""
    kwargs = dict(kwargs)
    segment_BT = kwargs.pop("segment_BT")
    block_position_BT = kwargs["positions_B2T"][:, 1]
    return args, {**kwargs, "mask": training_mask(segment_BT, block_position_BT, piece.config.mask)}
