"""Many requests over one model: continuous batching, shared prefixes, chunked prompts, preemption, speculation.

One thread drives an engine; a server calls `add_request`, `step` and `cancel` from one place. A wrong request is an error of its own
and touches no other.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openglm.config import EngineConfig, require
from openglm.engine.blocks import BlockPool
from openglm.engine.constrain import Constraint, Vocabulary
from openglm.engine.params import Event, Result, SamplingParams
from openglm.engine.runner import Runner, Step, TorchRunner
from openglm.engine.sampling import Chooser, logprob
from openglm.engine.scheduler import Scheduler
from openglm.engine.sequence import Sequence as Request
from openglm.engine.speculate import Lookup
from openglm.engine.text import TextStream
from openglm.model.transformer import Transformer

_LARGEST_CACHE = 1 << 30  # bytes, where the user names no size


class Engine:
    """`Engine(model).generate([[2, 4]], SamplingParams(max_tokens=8))[0].ids`

    tokenizer: only for stop strings, constrained answers and text in results; needs `decode_bytes(ids)`, `encode(text)` and `vocab_size`.
    """

    def __init__(self, model: Transformer, config: EngineConfig | None = None, *, tokenizer: Any = None) -> None:
        self.model, self.config, self.tokenizer = model, config or EngineConfig(), tokenizer
        blocks = -(-(self.config.kv_tokens or room(model, self.config)) // self.config.block_size)
        self.pool = BlockPool(blocks, self.config.block_size)
        self.scheduler = Scheduler(self.pool, self.config)
        self.runner: Runner = TorchRunner(model, self.config, blocks)
        self._requests: dict[int, Request] = {}
        self._next_id = 0
        self._vocabularies: dict[tuple[int, ...], Vocabulary] = {}
        self._inboxes: dict[int, deque[Event]] = {}

    def generate(self, prompts: Iterable[Iterable[int]], params: SamplingParams | Sequence[SamplingParams] | None = None, adapter: str | None = None) -> list[Result]:
        """Answers to all prompts, in their order. A request that cannot be served has an `error` in its result."""
        prompts = list(prompts)
        wishes = list(params) if isinstance(params, Sequence) else [params or SamplingParams()] * len(prompts)
        require(len(wishes) == len(prompts), "params", f"{len(wishes)} of them", f"give one, or one for each of the {len(prompts)} prompts")
        opened = [self._open(prompt, wish, adapter) for prompt, wish in zip(prompts, wishes, strict=True)]
        try:
            return [one if isinstance(one, Result) else self._result(one) for one in opened]
        finally:
            for number in opened:
                self._close(number)

    def stream(self, prompt: Iterable[int], params: SamplingParams | None = None, adapter: str | None = None) -> Iterator[Event]:
        """Events of one request as they come. Raises ValueError for a wrong request; whoever stops reading cancels it."""
        number = self.add_request(prompt, params or SamplingParams(), adapter)
        self._inboxes[number] = deque()
        try:
            while (event := self._next_event(number)).result is None:
                yield event
            yield event
        finally:
            self._close(number)

    def add_request(self, prompt: Iterable[int], params: SamplingParams, adapter: str | None = None) -> int:
        """Put a request in line; returns its id. Raises ValueError of one line where it can never be served."""
        ids = self._checked(prompt, params, adapter)
        request = Request(self._next_id, ids, params, self.model.config)
        constraint = Constraint(self._vocabulary(tuple(sorted(request.stop_ids))), params) if params.schema is not None or params.regex is not None else None
        request.chooser = Chooser(params, ids, self.model.config.vocab_size, constraint)
        request.text = TextStream(self.tokenizer.decode_bytes, params.stop) if self.tokenizer else None
        request.lookup = Lookup(ids, self.config.draft_tokens) if self.config.draft_tokens else None
        self._requests[self._next_id] = request
        self._next_id += 1
        self.scheduler.waiting.append(request)
        return request.id

    def cancel(self, number: int) -> Result | None:
        """End a request at once and free its blocks; returns what there is of its answer, None where it is over already."""
        request = self._requests.get(number)
        return self._finish(request, "cancelled") if request else None

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._requests)

    def step(self) -> list[Event]:
        """One pass of the network for as many requests as fit; returns the tokens it brought and the requests it ended."""
        self._guess()
        plan = self.scheduler.plan()
        assert bool(plan) == self.busy, (len(plan), self.busy)
        if not plan:
            return []
        step = self._lay_out(plan)
        logits = self.runner.run(step)
        highest, likeliest = (t.tolist() for t in logits.max(-1)) if len(step.wanted) else ([], [])
        events: list[Event] = []
        row = 0
        for request, count in plan:
            rows = _rows(request, count)
            if rows:
                span = slice(row, row + rows)
                self._answer(request, logits[span], likeliest[span], highest[span], events)
                row += rows
            else:
                self.scheduler.commit(request, request.cached + count)
        return events

    def _guess(self) -> None:
        for request in self.scheduler.running if self.config.draft_tokens else ():
            if request.left == 1:
                most = request.params.max_tokens - (len(request.ids) - request.prompt_length) - 1
                request.draft = request.lookup.propose(request.ids, most, request.sop)

    def _lay_out(self, plan: list[tuple[Request, int]]) -> Step:
        """The plan as arrays. Work is in proportion to the new tokens, not to the length of the sequences."""
        ids, text, block, wanted, tables = [], [], [], [], []
        for request, count in plan:
            start, end = request.cached, request.cached + count
            request.places.upto(end)
            ids += request.ids[start:end] + request.draft
            text += request.places.text[start:end]
            block += request.places.block[start:end]
            wanted += range(len(ids) - _rows(request, count), len(ids))
            tables.append(request.table)
        table = np.zeros((len(plan), max(map(len, tables))), np.int32)
        for row, blocks in zip(table, tables, strict=True):
            row[: len(blocks)] = blocks
        columns = [(count, r.cached, r.visible, r.adapter) for r, count in plan]
        new, cached, visible, adapters = (np.array(column, np.int32) for column in zip(*columns, strict=True))
        return Step(np.array(ids, np.int32), np.array([text, block], np.int32), new, cached, visible, table, np.array(wanted, np.int32), adapters)

    def _answer(self, request: Request, logits: Tensor, likeliest: list[int], highest: list[float], events: list[Event]) -> None:
        """Choose tokens row by row, for as long as the guesses were what is chosen anyway: the answer is the one without guesses."""
        known, draft, reason = len(request.ids), request.draft, None
        for row in range(len(likeliest)):
            try:
                token = request.chooser.choose(logits[row], likeliest[row], highest[row])
            except ValueError as error:
                events.append(Event(request.id, result=self._finish(request, "error", error=str(error))))
                return
            reason, piece = self._accept(request, token, logits[row])
            events.append(Event(request.id, token, piece, request.logprobs[-1] if request.logprobs else None))
            if reason or row == len(draft) or token != draft[row]:
                break
        if draft:
            request.lookup.learn(row)
        request.draft = []
        self.scheduler.commit(request, known + row)
        if reason:
            events[-1].result = self._finish(request, reason)

    def _accept(self, request: Request, token: int, logits_V: Tensor) -> tuple[str | None, str]:
        """Add a token to an answer; returns why the answer ends here, if it does, and the text that is now certain."""
        if request.params.logprobs is not None:
            request.logprobs.append(logprob(logits_V, token, request.params.logprobs))
        request.append(token)
        request.chooser.took(token)
        if token in request.stop_ids:
            return "stop", request.text.end() if request.text else ""
        piece, stopped = request.text.feed(token) if request.text else ("", False)
        constraint = request.chooser.constraint
        if stopped or (constraint is not None and constraint.finished):
            return "stop", piece
        if len(request.ids) - request.prompt_length < request.params.max_tokens:
            return None, piece
        return "length", piece + (request.text.end() if request.text else "")

    def _finish(self, request: Request, reason: str, error: str = "") -> Result:
        """Free what a request holds, in the same step in which it ends."""
        del self._requests[request.id]
        self.scheduler.remove(request)
        text = "".join([*request.text.pieces, request.text.end()]) if request.text else ""
        return Result(request.answer, reason, text, error, request.logprobs, request.prompt_length, request.hits or 0)

    def _open(self, prompt: Iterable[int], params: SamplingParams, adapter: str | None) -> int | Result:
        try:
            number = self.add_request(prompt, params, adapter)
        except ValueError as error:
            return Result([], "error", error=str(error))
        self._inboxes[number] = deque()
        return number

    def _close(self, number: int | Result) -> None:
        """Nobody waits for this request any more, finished or not."""
        if isinstance(number, int) and self._inboxes.pop(number, None) is not None:
            self.cancel(number)

    def _result(self, number: int) -> Result:
        while (event := self._next_event(number)).result is None:
            pass
        return event.result

    def _next_event(self, number: int) -> Event:
        """The next event of one request; those of other open ones wait in their inboxes."""
        while not self._inboxes[number]:
            for event in self.step():
                if event.id in self._inboxes:
                    self._inboxes[event.id].append(event)
        return self._inboxes[number].popleft()

    def _checked(self, prompt: Iterable[int], params: SamplingParams, adapter: str | None) -> list[int]:
        """The prompt's ids, once all is known to fit: a request that could never be served must not wait for ever."""
        try:
            ids = [operator.index(token) for token in prompt]
        except TypeError:
            raise ValueError("prompt: must be a list of token ids") from None
        shape = self.model.config
        require(len(ids) > 0, "prompt", ids, "must have at least one token")
        for option, tokens in (("prompt", ids), ("stop_ids", params.stop_ids), ("logit_bias", params.logit_bias)):
            wrong = next((t for t in tokens if not isinstance(t, int) or not 0 <= t < shape.vocab_size), None)
            require(wrong is None, option, wrong, f"outside the vocabulary of {shape.vocab_size} tokens")
        total = len(ids) + params.max_tokens
        require(total <= shape.max_positions, "max_tokens", params.max_tokens, f"with a prompt of {len(ids)} tokens exceeds the model's context of {shape.max_positions}")
        places = self.pool.blocks * self.pool.block_size
        require(total <= places, "max_tokens", params.max_tokens, f"with a prompt of {len(ids)} tokens exceeds the cache of {places} tokens; raise engine.kv_tokens")
        require(adapter is None, "adapter", adapter, "unknown; this engine has none")
        for option in ("stop", "schema", "regex"):
            require(self.tokenizer is not None or not getattr(params, option), option, getattr(params, option), "needs the text of tokens; give the engine a tokenizer")
        return ids

    def _vocabulary(self, stop_ids: tuple[int, ...]) -> Vocabulary:
        if stop_ids not in self._vocabularies:
            self._vocabularies[stop_ids] = Vocabulary(self.tokenizer, stop_ids)
        return self._vocabularies[stop_ids]


def _rows(request: Request, count: int) -> int:
    """Rows of logits that a request wants of its next `count` tokens: none before its last known token, then one, and one for each guess."""
    return len(request.draft) + 1 if request.cached + count == len(request.ids) + len(request.draft) else 0


def room(model: Transformer, config: EngineConfig) -> int:
    """Tokens of cache where the user names no number: for all sequences at once if 1 GiB holds them, but for one long one in any case."""
    shape, stored = model.config, model.dtype if config.kv_dtype == "auto" else getattr(torch, config.kv_dtype)
    token_bytes = 2 * shape.layers * shape.kv_heads * (shape.head_dim * stored.itemsize + (4 if stored == torch.int8 else 0))
    return max(min(config.max_sequences * shape.max_positions, _LARGEST_CACHE // token_bytes), min(shape.max_positions, 8192))
