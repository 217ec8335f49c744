"""Distillation: a model learns the probabilities that a larger one gives to each next token of its conversations.

Rows carry the teacher's likeliest tokens; all other tokens count as one. So a teacher is run once for each row, no
second vocabulary of logits is kept, and the divergence is that of slightly coarser distributions: never more than the
whole one, and equal to it where `teacher_tokens` is the vocabulary.
Shapes: T tokens of a row, N positions, K kept tokens, V vocabulary, H hidden.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openglm.align.losses import distillation_loss
from openglm.checkpoints.load import load_model
from openglm.checkpoints.native import resolve
from openglm.config import SFTConfig, require
from openglm.data.mixture import Row, Rows, stacked
from openglm.model.transformer import Transformer
from openglm.runtime import choose_dtype
from openglm.text.load import load_tokenizer
from openglm.train.forward_backward import hidden_states
from openglm.train.loop import train
from openglm.train.objective import Batch, Head
from openglm.train.run import OnStep, Result
from openglm.train.sft import sft_run

_LEAST = -60.0  # log-probability that the tokens which are not kept have together, at least: where all are kept


def distill(config: SFTConfig, on_step: OnStep | None = None) -> Result:
    """`sft` with `config.teacher`'s probabilities as what is learned. Raises ValueError in one line, also where the
    teacher's vocabulary is another."""
    teacher, student = resolve(config.teacher), resolve(config.init_from)
    same = load_tokenizer(teacher).fingerprint == load_tokenizer(student).fingerprint
    require(same, "teacher", config.teacher, "has another tokenizer than the model that learns from it")
    run = sft_run(config, on_step)
    model = load_model(teacher, device=config.train.device)
    kept = min(config.teacher_tokens, model.config.vocab_size - 1)  # some must be left to stand for the others
    dtype = choose_dtype(config.train.dtype, model.device)
    taught = {name: TaughtRows(rows, model, kept, dtype) for name, rows in {"": run.rows, **run.heldout}.items()}
    objective = Distillation(reverse=config.teacher_loss == "reverse", share=config.teacher_share)
    return train(replace(run, rows=taught.pop(""), heldout=taught, objective=objective, workers=0))


@dataclass(frozen=True, kw_only=True)
class TaughtRow(Row):
    """What the teacher expects where a target is trained; elsewhere zeros."""

    teacher_ids: NDArray[np.int64]
    """[T, K] its likeliest tokens"""
    teacher_logp: NDArray[np.float32]
    """[T, K + 1] their log-probabilities, and that of all others together"""


class TaughtRows:
    """Rows, each read by the teacher when it is asked for."""

    def __init__(self, rows: Rows, teacher: Transformer, kept: int, dtype: torch.dtype) -> None:
        self.rows, self.head, self.kept = rows, Head(teacher, dtype), kept
        self.fingerprint = hashlib.sha256(f"{rows.fingerprint} taught {kept}".encode()).hexdigest()

    @torch.no_grad()
    def row(self, index: int) -> TaughtRow:
        row = self.rows.row(index)
        assert isinstance(row, Row)
        model = self.head.model
        hidden_TH = hidden_states(model, stacked([row]), model.device, self.head.dtype)[0]
        trained = np.flatnonzero(row.loss_mask)
        logp_NV = self.head.logits(hidden_TH[torch.from_numpy(trained).to(hidden_TH.device)]).log_softmax(-1)
        ids_NK = logp_NV.topk(self.kept).indices
        found = {"teacher_ids": ids_NK, "teacher_logp": _with_rest(logp_NV, ids_NK)}
        placed = {}
        for name, values in found.items():
            array = values.cpu().numpy()
            placed[name] = np.zeros((len(row.tokens), array.shape[1]), array.dtype)
            placed[name][trained] = array
        return TaughtRow(**vars(row), **placed)


@dataclass(frozen=True)
class Distillation:
    """The divergence between teacher and student at every trained token, weighted by the loss mask."""

    reverse: bool = False
    """KL(student || teacher) in place of KL(teacher || student)"""
    share: float = 1.0
    """of the divergence; the rest is the cross entropy of the target"""
    fields = ("targets", "loss_mask", "teacher_ids", "teacher_logp")
    where = "loss_mask"
    by_position = True
    metrics = ("divergence", "cross_entropy")

    def count(self, batch: Batch) -> float:
        return float(batch["loss_mask"].sum(dtype=np.float64))

    def loss(self, head: Head, hidden_NH: Tensor, fields: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        student_NV = head.logits(hidden_NH).log_softmax(-1)
        student_NK1 = _with_rest(student_NV, fields["teacher_ids"])
        divergence_N = distillation_loss(student_NK1, fields["teacher_logp"], self.reverse)
        entropy_N = -student_NV.gather(-1, fields["targets"][:, None])[:, 0]
        loss_N = self.share * divergence_N + (1 - self.share) * entropy_N
        found = {"divergence": divergence_N, "cross_entropy": entropy_N}
        mask_N = fields["loss_mask"]
        return (loss_N * mask_N).sum(), {name: (values_N * mask_N).sum() for name, values_N in found.items()}


def _with_rest(logp_NV: Tensor, ids_NK: Tensor) -> Tensor:
    """[N, K + 1] the log-probabilities of these tokens, and that of all others together."""
    others_NV = logp_NV.scatter(-1, ids_NK, float("-inf"))
    rest_N1 = others_NV.logsumexp(-1, keepdim=True).clamp(min=_LEAST)
    return torch.cat([logp_NV.gather(-1, ids_NK), rest_N1], -1)
