"""How the next token is chosen from one row of logits. Everything here belongs to one request, so that no other can change its answer.

Shapes: V vocabulary.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from openglm.config import require
from openglm.engine.constrain import Constraint
from openglm.engine.params import SamplingParams, TokenLogprob


class Chooser:
    """The state of one request's choices: its random numbers, the tokens that penalties count, and its constraint."""

    def __init__(self, params: SamplingParams, prompt: list[int], vocab_size: int, constraint: Constraint | None) -> None:
        self.params, self.constraint = params, constraint
        self.random = random.Random(params.seed)
        self.bias = (torch.tensor(list(params.logit_bias)), torch.tensor(list(params.logit_bias.values()))) if params.logit_bias else None
        self.seen = self.counts = None
        if params.repetition_penalty != 1:
            self.seen = torch.zeros(vocab_size, dtype=torch.bool)
            self.seen[prompt] = True
        if params.frequency_penalty or params.presence_penalty:
            self.counts = torch.zeros(vocab_size)
        self.changes_logits = not (self.bias is self.seen is self.counts is constraint is None)

    def choose(self, logits_V: Tensor, likeliest: int, highest: float) -> int:
        """The next token. `likeliest` is where the logits have their `highest`. Raises ValueError where there is nothing to choose from."""
        require(math.isfinite(highest), "logits", highest, "the network's output is not a number; load the model in float32 or check its weights")
        if self.params.temperature == 0 and not self.changes_logits:
            return likeliest
        logits_V = logits_V.cpu()
        if self.changes_logits:
            logits_V = self._changed(logits_V.clone())
        return int(logits_V.argmax()) if self.params.temperature == 0 else draw(logits_V, self.params, self.random.random())

    def took(self, token: int) -> None:
        """Count a token that was chosen."""
        if self.seen is not None:
            self.seen[token] = True
        if self.counts is not None:
            self.counts[token] += 1
        if self.constraint is not None:
            self.constraint.took(token)

    def _changed(self, logits_V: Tensor) -> Tensor:
        p = self.params
        if self.bias is not None:
            logits_V[self.bias[0]] += self.bias[1]
        if self.seen is not None:
            less = torch.where(logits_V > 0, logits_V / p.repetition_penalty, logits_V * p.repetition_penalty)
            logits_V = torch.where(self.seen, less, logits_V)
        if self.counts is not None:
            logits_V -= p.frequency_penalty * self.counts + p.presence_penalty * (self.counts > 0)
        return logits_V if self.constraint is None else self.constraint.allow(logits_V)


def draw(logits_V: Tensor, params: SamplingParams, uniform: float) -> int:
    """The token at which the cumulated probability reaches a number from [0, 1), after temperature, min-p, top-k and top-p in this order."""
    scaled = (logits_V - logits_V.max()) / params.temperature
    if params.min_p:
        scaled = scaled.masked_fill(scaled < math.log(params.min_p), -math.inf)
    order = None
    if 0 < params.top_k < len(scaled):
        scaled, order = scaled.topk(params.top_k)
    probabilities = torch.softmax(scaled.double(), -1)
    if params.top_p < 1:
        probabilities, places = _nucleus(probabilities, params.top_p)
        order = places if order is None else order[places]
    cumulated = probabilities.cumsum(-1)
    # From (0, total], so that no token of probability zero is ever reached.
    index = int(torch.searchsorted(cumulated, (1 - uniform) * cumulated[-1]))
    return index if order is None else int(order[index])


def _nucleus(probabilities: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The likeliest tokens that together reach `share`, largest first, and their places. Sorting whole vocabularies is what this avoids."""
    count = 256
    while True:
        top, places = probabilities.topk(min(count, len(probabilities)))
        before = top.cumsum(-1) - top
        if len(top) == len(probabilities) or before[-1] + top[-1] >= share:
            return top[before < share], places[before < share]
        count *= 8


def logprob(logits_V: Tensor, token: int, count: int) -> TokenLogprob:
    """Log-probabilities of a token and of the likeliest `count`."""
    logs = torch.log_softmax(logits_V, -1)
    values, ids = logs.topk(min(count, len(logs)))
    return TokenLogprob(token, float(logs[token]), dict(zip(ids.tolist(), values.tolist(), strict=True)))
