"""How the next token is sampled from one row of logits. Everything here belongs to one request, so that no other can
change its answer.

Shapes: V vocabulary.
"""

import math
import random

import numpy as np
import torch
from torch import Tensor

from openglm.config import require
from openglm.engine.constrain import Constraint, Opening
from openglm.engine.params import SamplingParams, TokenLogprob

_COLDEST = 1e-7  # below it nothing changes any more, until the quotient 0 / 0 of float32 is no number


class Sampler:
    """The state of one request's choices: its random numbers, the tokens that penalties count, its constraint and
    what it must open with."""

    def __init__(
        self,
        params: SamplingParams,
        prompt: list[int],
        vocab_size: int,
        constraint: Constraint | None,
        opening: Opening | None = None,
    ) -> None:
        self.params, self.constraint, self.opening = params, constraint, opening
        self.accepted = 0
        self.random = random.Random(params.seed)
        bias = params.logit_bias
        self.bias = (np.array(list(bias)), torch.tensor(list(bias.values())).numpy()) if bias else None
        self.seen = self.counts = None
        if params.repetition_penalty != 1:
            self.seen = torch.zeros(vocab_size, dtype=torch.bool)
            self.seen[prompt] = True
        if params.frequency_penalty or params.presence_penalty:
            self.counts = torch.zeros(vocab_size)

    @property
    def changes_logits(self) -> bool:
        return not (self.bias is self.seen is self.counts is self.constraint is self.opening is None)

    def _may_move(self, likeliest: int) -> bool:
        """Whether changed logits may be highest elsewhere. A bias that only lowers others, such as that against calls
        of tools, moves nothing, and the row need not be read again."""
        bias = self.params.logit_bias
        if self.seen is self.counts is self.constraint is self.opening is None:
            return likeliest in bias or any(value > 0 for value in bias.values())
        return True

    def sample(self, logits_V: Tensor, likeliest: int, highest: float) -> int:
        """The next token. `likeliest` is where the logits have their `highest`. Raises ValueError where there is
        nothing to choose from.
        """
        require(
            math.isfinite(highest),
            "logits",
            highest,
            "the network's output is not a number; load the model in float32 or check its weights",
        )
        if self.params.forced:
            return self.params.forced[self.accepted]
        if self.params.temperature == 0 and not self._may_move(likeliest):
            return likeliest
        logits_V = logits_V.cpu()
        if self.changes_logits:
            logits_V = self._changed(logits_V.clone())
        token = (
            int(logits_V.argmax())
            if self.params.temperature == 0
            else draw(logits_V.numpy(), self.params, self.random.random())
        )
        return self.constraint.settle(token, self.params.max_tokens - self.accepted) if self.constraint else token

    def accept(self, token: int) -> None:
        """Count a token that the answer now has."""
        self.accepted += 1
        if self.seen is not None:
            self.seen[token] = True
        if self.counts is not None:
            self.counts[token] += 1
        if self.constraint is not None:
            self.constraint.accept(token)
        if self.opening is not None:
            self.opening.accept(token)
            self.opening = None if self.opening.over else self.opening

    def _changed(self, logits_V: Tensor) -> Tensor:
        p = self.params
        if self.bias is not None:
            logits_V.numpy()[self.bias[0]] += self.bias[1]  # a tenth of torch's time, for every token of a server
        if self.seen is not None:
            less = torch.where(logits_V > 0, logits_V / p.repetition_penalty, logits_V * p.repetition_penalty)
            logits_V = torch.where(self.seen, less, logits_V)
        if self.counts is not None:
            logits_V -= p.frequency_penalty * self.counts + p.presence_penalty * (self.counts > 0)
        if self.constraint is not None:
            logits_V = self.constraint.allow(logits_V)
        return logits_V if self.opening is None else self.opening.allow(logits_V)


def peaks(logits_RV: Tensor) -> tuple[list[int], list[float]]:
    """Where each row is highest, and how high; NaN counts as the highest."""
    if logits_RV.device.type != "cpu":
        return tuple(t.tolist() for t in logits_RV.max(-1)[::-1])
    rows = logits_RV.numpy()  # numpy finds the index in a twentieth of torch's time
    indices = rows.argmax(-1)
    return indices.tolist(), rows[np.arange(len(rows)), indices].tolist()


def draw(logits_V: np.ndarray, params: SamplingParams, uniform: float) -> int:
    """The token at which the cumulated probability reaches a number from [0, 1), after temperature, min-p, top-k and
    top-p in this order.

    In numpy, for torch would share even small vectors among threads of its own, which then stand in the way of the
    kernels' for longer than they help.
    """
    order = None
    if 0 < params.top_k < len(logits_V):
        order = np.argpartition(logits_V, -params.top_k)[-params.top_k :]
        logits_V = logits_V[order]
    weights = np.exp((logits_V - logits_V.max()) / np.float32(max(params.temperature, _COLDEST)))  # the likeliest has 1
    if params.min_p:
        weights[weights < params.min_p] = 0.0
    if params.top_p < 1:
        weights, indices = _nucleus(weights, params.top_p)
        order = indices if order is None else order[indices]
    cumulated = weights.cumsum(dtype=np.float64)
    # From (0, total], so that no token of probability zero is ever reached.
    index = int(np.searchsorted(cumulated, (1 - uniform) * cumulated[-1]))
    return index if order is None else int(order[index])


def _nucleus(weights: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """The heaviest that together have `share` of all weight, largest first, and their indices. Only those near the
    heaviest, which has 1, are sorted.
    """
    total = weights.sum(dtype=np.float64)
    for lightest in (1e-2, 1e-4, 0.0):
        indices = np.flatnonzero(weights > lightest)
        near = weights[indices]
        if lightest == 0 or near.sum(dtype=np.float64) >= share * total:
            break
    order = np.argsort(near)[::-1]
    near = near[order]
    kept = near.cumsum(dtype=np.float64) - near < share * total
    return near[kept], indices[order[kept]]


def logprob(logits_V: Tensor, token: int, count: int) -> TokenLogprob:
    """Log-probabilities of a token and of the likeliest `count`."""
    logs = torch.log_softmax(logits_V, -1)
    values, ids = logs.topk(min(count, len(logs)))
    return TokenLogprob(token, float(logs[token]), dict(zip(ids.tolist(), values.tolist(), strict=True)))
