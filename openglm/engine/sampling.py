"""How the next token is sampled from one row of logits. Everything here belongs to one request, so that no other can
change its answer.

Shapes: V vocabulary.
"""

import math
import random
from collections.abc import Iterable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from openglm.config import require
from openglm.engine.constrain import Constraint, Opening
from openglm.engine.params import SamplingParams, TokenLogprob
from openglm.kernels.library import Choice, load

_COLDEST = 1e-7  # below it nothing changes any more, until the quotient 0 / 0 of float32 is no number
_FINITE = -1e38, 1e38  # a bias beyond it would make logits infinite


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
        ends: Iterable[int] = (),
    ) -> None:
        """ends: tokens behind which the kernels, where they choose several, leave off."""
        self.params, self.constraint, self.opening = params, constraint, opening
        self.accepted = 0
        self.random = random.Random(params.seed)
        self._uniforms: list[float] = []  # drawn, not used yet
        bias = params.logit_bias
        self.bias = (
            (np.array(list(bias), np.int32), np.clip(list(bias.values()), *_FINITE).astype(np.float32))
            if bias
            else None
        )
        self.ends = np.array(list(ends), np.int32)
        self.seen = self.counts = None
        if params.repetition_penalty != 1:
            self.seen = torch.zeros(vocab_size, dtype=torch.bool)
            self.seen[prompt] = True
        if params.frequency_penalty or params.presence_penalty:
            self.counts = torch.zeros(vocab_size)

    @property
    def changes_logits(self) -> bool:
        return not (self.bias is self.seen is self.counts is self.constraint is self.opening is None)

    @property
    def free(self) -> bool:
        """Whether the kernels may choose several tokens before anybody looks: nothing depends on the answer so far."""
        plain = self.seen is self.counts is self.constraint is self.opening is self.params.logprobs is None
        return plain and not self.params.forced

    @cached_property
    def choice(self) -> Choice:
        """All this as the kernels read it."""
        p, (ids, values) = self.params, self.bias or (self.ends, self.ends)
        return Choice(
            *(p.temperature, p.top_p, p.min_p),
            *(array.ctypes.data for array in (ids, values, self.ends)),
            *(min(p.top_k, 1 << 30), len(p.logit_bias), len(self.ends)),
        )

    def uniforms(self, count: int) -> list[float]:
        """The next random numbers, one for each token; `accept` uses them up."""
        self._uniforms += [self.random.random() for _ in range(count - len(self._uniforms))]
        return self._uniforms[:count]

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
        if self.params.temperature == 0 and not self.changes_logits:
            return likeliest
        logits_V = logits_V.cpu()
        if self.changes_logits:
            logits_V = self._changed(logits_V.clone())
        if self.params.temperature == 0:
            token = int(logits_V.argmax())
        elif (kernels := load()) is None:
            token = draw(logits_V.numpy(), self.params, self.uniforms(1)[0])
        else:
            token = kernels.glm_choose(logits_V.data_ptr(), len(logits_V), self.choice, self.uniforms(1)[0])
        return self.constraint.settle(token, self.params.max_tokens - self.accepted) if self.constraint else token

    def accept(self, token: int) -> None:
        """Count a token that the answer now has."""
        self.accepted += 1
        del self._uniforms[:1]
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
    top-p in this order. The definition of what the kernels do (csrc/choose.cpp), for where they are not there.
    """
    weights = np.exp((logits_V - logits_V.max()) / np.float32(max(params.temperature, _COLDEST)))  # the likeliest has 1
    weights[weights < params.min_p] = 0.0
    if 0 < params.top_k < len(weights) or params.top_p < 1:
        order = np.argsort(-weights)
        weights[order[params.top_k or len(order) :]] = 0.0
        heaviest = weights[order].cumsum(dtype=np.float64)
        weights[order[heaviest - weights[order] >= params.top_p * heaviest[-1]]] = 0.0
    cumulated = weights.cumsum(dtype=np.float64)
    # From (0, total], so that no token of probability zero is ever reached.
    return int(np.searchsorted(cumulated, (1 - uniform) * cumulated[-1]))


def logprob(logits_V: Tensor, token: int, count: int) -> TokenLogprob:
    """Log-probabilities of a token and of the likeliest `count`."""
    logs = torch.log_softmax(logits_V, -1)
    values, ids = logs.topk(min(count, len(logs)))
    return TokenLogprob(token, float(logs[token]), dict(zip(ids.tolist(), values.tolist(), strict=True)))
