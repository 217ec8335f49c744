"""One request on its way through the engine: its tokens, their positions, its blocks, and how its next token is
sampled.
"""

from collections.abc import Hashable

import numpy as np
import torch

from openglm.config import ModelConfig, require
from openglm.engine.params import SamplingParams, TokenLogprob
from openglm.engine.sampling import Sampler
from openglm.engine.speculate import PromptLookup
from openglm.engine.text import TextStream
from openglm.model.adapters import Prefix
from openglm.model.positions import positions_of

_ORDINARY = -2  # stands for any token that the rule of positions treats like all others


class PositionTracker:
    """Positions of a growing sequence, in constant time per token.

    Between two <sop> positions go on in a straight line, whatever the family. Two tokens put behind the known ones show
    where the line
    starts and how steep it is; at a new <sop> the rule is asked again.
    """

    def __init__(self, ids: list[int], config: ModelConfig) -> None:
        self.config = config
        self.text: list[int] = []
        self.block: list[int] = []
        self.restart(ids)

    def restart(self, ids: list[int]) -> None:
        """Derive all positions afresh. Raises ValueError where the rule needs a [MASK] or [gMASK] that is not there."""
        probe = torch.tensor([[*ids, _ORDINARY, _ORDINARY]])
        text, block = positions_of(probe, torch.ones_like(probe, dtype=torch.bool), self.config)[0].tolist()
        self.step = text[-1] - text[-2], block[-1] - block[-2]
        self.text, self.block = text[:-1], block[:-1]

    def extend_to(self, length: int) -> None:
        """Lengthen the line until `length` tokens have their positions."""
        while len(self.text) < length:
            self.text.append(self.text[-1] + self.step[0])
            self.block.append(self.block[-1] + self.step[1])


class Request:
    """`ids` holds virtual tokens (-1), prompt and answer; `cached` of them have their keys and values in `blocks`."""

    def __init__(
        self,
        number: int,
        prompt: list[int],
        params: SamplingParams,
        config: ModelConfig,
        adapter: int = 0,
        prefix: Prefix | None = None,
    ) -> None:
        self.id, self.params, self.adapter, self.prefix = number, params, adapter, prefix
        self.virtual = prefix.length if prefix else 0
        self.ids, self.start = [-1] * self.virtual + prompt, self.virtual + len(prompt)
        self.stop_ids = frozenset(params.stop_ids + (() if params.ignore_eos else config.tokens.stop))
        both_ways = config.mask == "prefix"
        # The token that opens a span: positions are asked for anew where one comes.
        self.sop = config.tokens.sop if both_ways or config.span_positions == "gapped" else None
        require(
            not both_ways or self.sop in prompt,
            "prompt",
            "no <sop>",
            "this model reads its prompt both ways: end it with [gMASK] <sop>",
        )
        # Part A, whose tokens see each other both ways.
        context = prompt[: prompt.index(self.sop)] if both_ways and self.sop is not None else []
        self.visible = self.virtual + len(context) if context else 0
        self.tracker = PositionTracker(prompt, config)
        # What a beginning may be shared for: where tokens see what follows, only for the same whole part A.
        self.root: Hashable = (adapter, tuple(context))
        self.logprobs: list[TokenLogprob] = []
        self.sampler: Sampler
        self.text: TextStream | None = None
        self.lookup: PromptLookup | None = None
        self.hits: int | None = None
        self.forget()

    def forget(self) -> None:
        """Nothing is computed: at the start, and after its blocks were given up."""
        self.blocks: list[int] = []
        self._table = np.zeros(0, np.int32)
        self._filled = 0
        self.cached, self.shared, self.stored = 0, 0, 0
        self.node: Hashable = self.root
        self.draft: list[int] = []

    @property
    def table(self) -> np.ndarray:
        """The blocks as an array; only those added since the last time are converted."""
        count = len(self.blocks)
        if count > len(self._table):
            self._table = np.concatenate([self._table, np.zeros(max(count, 8), np.int32)])
        self._table[self._filled : count] = self.blocks[self._filled :]
        self._filled = count
        return self._table[:count]

    @property
    def answer(self) -> list[int]:
        return self.ids[self.start :]

    @property
    def answered(self) -> int:
        """Tokens of the answer, but for those that only repeat the prompt."""
        return len(self.ids) - self.start - (self.text.repeated if self.text else 0)

    @property
    def left(self) -> int:
        """Tokens that are known but not computed: 1 while the answer grows, more while the prompt is read."""
        return len(self.ids) - self.cached

    def append(self, token: int) -> None:
        self.ids.append(token)
        if token == self.sop:
            self.tracker.restart(self.ids[self.virtual :])

    def positions(self, start: int, end: int) -> tuple[list[int], list[int]]:
        """Text and block positions of the tokens with these indices, known or drafted."""
        start, end = start - self.virtual, end - self.virtual
        self.tracker.extend_to(end)
        return self.tracker.text[start:end], self.tracker.block[start:end]
