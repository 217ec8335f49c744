"""Pipeline parallelism: the pieces of the network as stages of PyTorch's schedules."""

from __future__ import annotations

from collections.abc import Callable

import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B, ScheduleInterleavedZeroBubble

from openglm.config import ParallelConfig
from openglm.model.positions import training_mask
from openglm.model.transformer import Transformer
from openglm.parallel.processes import Processes, local_part

_SCHEDULES = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B, "interleaved": ScheduleInterleaved1F1B, "zero-bubble": ScheduleInterleavedZeroBubble}


class Pipeline:
    """Forward and backward passes of all micro-batches of a step, over the stages of one data-parallel group."""

    def __init__(self, pieces: list[Transformer], config: ParallelConfig, group: Processes, micro_batches: int, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        """loss(hidden states [b, T, H] of a micro-batch, its targets) -> what the gradient is of; it runs in the last stage."""
        self.last, count = group.rank("pipeline") == config.pipeline - 1, config.pipeline * config.chunks
        along = group.mesh["pipeline"].get_group()
        stages = []
        for number, piece in enumerate(pieces):
            piece.register_forward_pre_hook(_with_mask, with_kwargs=True)
            stages.append(PipelineStage(piece, group.rank("pipeline") + number * config.pipeline, count, group.device, group=along))
        kind = _SCHEDULES[config.schedule]
        single = config.schedule in ("gpipe", "1f1b")
        self.schedule = kind(stages[0] if single else stages, micro_batches, loss_fn=loss, scale_grads=False)
        self.first = group.rank("pipeline") == 0
        self.tables = self._tied(pieces, group)

    def run(self, ids_BT: Tensor, targets: Tensor, positions_B2T: Tensor, segment_BT: Tensor, backward: bool) -> list[Tensor]:
        """Losses of the micro-batches, in the last stage; elsewhere none. With `backward`, gradients are added to the parameters."""
        losses: list[Tensor] = []
        run = self.schedule.step if backward else self.schedule.eval
        told = {"target": targets, "losses": losses} if self.last else {}
        run(*([ids_BT] if self.first else []), **told, positions_B2T=positions_B2T, segment_BT=segment_BT, return_outputs=False)
        if backward and self.tables:
            table, both = self.tables
            dist.all_reduce(local_part(table.grad), group=both)
        return losses

    @staticmethod
    def _tied(pieces: list[Transformer], group: Processes) -> tuple[Tensor, dist.ProcessGroup] | None:
        """The table of a tied network in its first and last stage, and the two processes that share it: each has one half of its gradient."""
        if not pieces[0].config.tied:
            return None
        mine = None
        ranks = group.mesh.mesh  # [pipeline, data, tensor]
        for data in range(ranks.shape[1]):
            for tensor in range(ranks.shape[2]):
                both = dist.new_group([int(ranks[0, data, tensor]), int(ranks[-1, data, tensor])])
                if (data, tensor) == (group.rank("data"), group.rank("tensor")):
                    mine = both
        ends = group.rank("pipeline") in (0, group.size("pipeline") - 1)
        piece = pieces[0] if group.rank("pipeline") == 0 else pieces[-1]
        return (piece.embedding.weight, mine) if ends else None


def _with_mask(_: Transformer, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Each stage makes the mask of a micro-batch itself: it is larger than all else that would be sent."""
    kwargs = dict(kwargs)
    segment_BT = kwargs.pop("segment_BT")
    return args, {**kwargs, "mask": training_mask(segment_BT, kwargs["positions_B2T"][:, 1])}
