"""Many requests over one model: continuous batching, shared prefixes, chunked prompts, preemption, speculation.

One thread drives an engine; a server calls `add_request`, `step` and `cancel` from one place. A wrong request is an
error of its own
and touches no other.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openglm.config import EngineConfig, require
from openglm.engine.blocks import BlockPool
from openglm.engine.constrain import Constraint, Opening, Vocabulary
from openglm.engine.native import NativeRunner, unsupported_reason
from openglm.engine.params import Event, Result, SamplingParams, check_request
from openglm.engine.request import Request
from openglm.engine.runner import Runner, TorchRunner
from openglm.engine.sampling import Sampler, logprob, peaks
from openglm.engine.scheduler import Scheduler
from openglm.engine.speculate import PromptLookup
from openglm.engine.step import Step
from openglm.engine.text import TextStream
from openglm.model.adapters import Lora, Prefix
from openglm.model.transformer import Transformer
from openglm.runtime import free_memory

_FORCED = 32  # tokens of a forced answer in one step: their logits take memory
_AHEAD, _AHEAD_SECONDS = 8, 0.04  # steps at most before anybody looks, and how long readers and new requests may wait
_LARGEST_CACHE = 1 << 30  # bytes, where the user names no size


class Engine:
    """`Engine(model).generate([[2, 4]], SamplingParams(max_tokens=8))[0].ids`

    tokenizer: only for stop strings, constrained answers and text in results; one of openglm/text/.
    adapters: LoRAs and prefixes by the names by which requests choose one; without one, a request gets the model as it
    is.
    """

    def __init__(
        self,
        model: Transformer,
        config: EngineConfig | None = None,
        *,
        tokenizer: Any = None,
        adapters: Mapping[str, Prefix | Lora] | None = None,
    ) -> None:
        self.model, self.config, self.tokenizer = model, config or EngineConfig(), tokenizer
        blocks = -(-(self.config.kv_tokens or room(model, self.config)) // self.config.block_size)
        self.pool = BlockPool(blocks, self.config.block_size)
        self.scheduler = Scheduler(self.pool, self.config)
        self.adapters: dict[str | None, Prefix | Lora | None] = {None: model.prefix}
        for name, adapter in (adapters or {}).items():
            adapter.check(model.config, name)
            self.adapters[name] = adapter
        self.runner: Runner = choose_runner(model, self.config, blocks, list(self.adapters.values()))
        self._requests: dict[int, Request] = {}
        self._next_id = 0
        self._inboxes: dict[int, deque[Event]] = {}
        self._pace = _AHEAD_SECONDS
        """seconds that a step took the last time"""

    @property
    def context(self) -> int:
        """Longest prompt and answer together, in tokens: what the model reads, and the cache holds behind the longest
        prefix."""
        prefixes = [a.length for a in (self.model.prefix, *self.adapters.values()) if isinstance(a, Prefix)]
        held = self.pool.blocks * self.pool.block_size - max(prefixes, default=0)
        return min(self.model.config.max_positions, held)

    def generate(
        self,
        prompts: Iterable[Iterable[int]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        adapter: str | None = None,
    ) -> list[Result]:
        """Answers to all prompts, in their order. A request that cannot be served has an `error` in its result."""
        prompts = list(prompts)
        each = list(params) if isinstance(params, Sequence) else [params or SamplingParams()] * len(prompts)
        require(
            len(each) == len(prompts),
            "params",
            f"{len(each)} of them",
            f"give one, or one for each of the {len(prompts)} prompts",
        )
        opened = [self._open(prompt, one, adapter) for prompt, one in zip(prompts, each, strict=True)]
        try:
            return [one if isinstance(one, Result) else self._result(one) for one in opened]
        finally:
            for number in opened:
                self._close(number)

    def stream(
        self, prompt: Iterable[int], params: SamplingParams | None = None, adapter: str | None = None
    ) -> Iterator[Event]:
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
        require(
            adapter in self.adapters,
            "adapter",
            adapter,
            f"unknown; this engine has {', '.join(filter(None, self.adapters)) or 'none'}",
        )
        chosen, shape = self.adapters[adapter], self.model.config
        prefix = chosen if isinstance(chosen, Prefix) else self.model.prefix
        ids = check_request(
            prompt,
            params,
            shape,
            self.pool.blocks * self.pool.block_size - (prefix.length if prefix else 0),
            self.tokenizer is not None,
        )
        request = Request(self._next_id, ids, params, shape, list(self.adapters).index(adapter), prefix)
        constraint = None if params.schema is params.regex is None else Constraint(self._vocabulary, params)
        opening = Opening(self.tokenizer, params) if params.continues or params.branch else None
        ends = request.stop_ids if request.sop is None else request.stop_ids | {request.sop}
        request.sampler = Sampler(params, ids, shape.vocab_size, constraint, opening, ends)
        request.text = TextStream(self.tokenizer, params.stop, params.continues) if self.tokenizer else None
        drafts = self.config.draft_tokens and not params.forced
        request.lookup = PromptLookup(request.ids, self.config.draft_tokens) if drafts else None
        self._requests[self._next_id] = request
        self._next_id += 1
        self.scheduler.waiting.append(request)
        return request.id

    def cancel(self, number: int) -> Result | None:
        """End a request at once and free its blocks; returns what there is of its answer, None where it is over
        already.
        """
        request = self._requests.get(number)
        if request is None:
            return None
        result = self._finish(request, "cancelled")
        if number in self._inboxes:  # whoever reads the stream learns of its end
            self._inboxes[number].append(Event(number, result=result))
        return result

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._requests)

    def step(self) -> list[Event]:
        """One pass of the network for as many requests as fit; returns the tokens it brought and the requests it ended."""
        self._draft()
        plan = self.scheduler.plan()
        assert bool(plan) == self.busy, (len(plan), self.busy)
        if not plan:
            return []
        steps = self._ahead(plan)
        step = self._lay_out(plan)
        if steps and (events := self._go_on(plan, step, steps)):
            return events
        logits = self.runner.run(step)
        likeliest, highest = peaks(logits) if len(step.wanted) else ([], [])
        events = []
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

    def _ahead(self, plan: list[tuple[Request, int]]) -> int:
        """Steps that may follow each other before anybody looks, for which there are blocks; 0: each is looked at."""
        if not all(request.left == 1 and not request.draft and request.sampler.free for request, _ in plan):
            return 0
        least = min(request.params.max_tokens - request.answered for request, _ in plan)
        most = 1 if any(request.lookup for request, _ in plan) else _AHEAD  # a draft is worth more
        return self.scheduler.reserve_ahead(min(most, least, max(1, int(_AHEAD_SECONDS / self._pace))))

    def _go_on(self, plan: list[tuple[Request, int]], step: Step, steps: int) -> list[Event]:
        """Let the runner choose the next tokens of all answers, several of each; no event where it cannot."""
        samplers, began = [request.sampler for request, _ in plan], time.perf_counter()
        uniforms = np.array([s.uniforms(steps) for s in samplers])
        positions = np.array([r.positions(r.cached, r.cached + steps) for r, _ in plan], np.int32)
        chosen = self.runner.go_on(step, [s.choice for s in samplers], uniforms.T.copy(), positions.T.copy())
        events: list[Event] = []
        for (request, _), tokens in zip(plan, chosen.T.tolist(), strict=True):
            reason = None
            for token in tokens:
                reason, piece = self._accept(request, token, None)
                events.append(Event(request.id, token, piece))
                if reason:
                    break
            self.scheduler.commit(request, len(request.ids) - 1)
            if reason:
                events[-1].result = self._finish(request, reason)
        if len(chosen):
            self._pace = (time.perf_counter() - began) / len(chosen)
        return events

    def _draft(self) -> None:
        for request in self.scheduler.running:
            if request.left != 1:
                continue
            most = request.params.max_tokens - request.answered - 1
            if request.params.forced:
                done = request.answered
                request.draft = list(request.params.forced[done : done + min(most, _FORCED)])
            elif request.lookup:
                request.draft = request.lookup.draft(request.ids, most, request.sop)

    def _lay_out(self, plan: list[tuple[Request, int]]) -> Step:
        """The plan as arrays. Work is in proportion to the new tokens, not to the length of the sequences."""
        ids: list[int] = []
        text: list[int] = []
        block: list[int] = []
        wanted: list[int] = []
        tables = []
        for request, count in plan:
            if request.prefix is not None and request.stored < request.virtual:
                self.runner.store(request.prefix, request.table, request.stored)
                request.stored = request.virtual
            start, end = request.cached, request.cached + count
            ids += request.ids[start:end] + request.draft
            positions = request.positions(start, end)
            text += positions[0]
            block += positions[1]
            wanted += range(len(ids) - _rows(request, count), len(ids))
            tables.append(request.table)
        table = np.zeros((len(plan), max(map(len, tables))), np.int32)
        for row, blocks in zip(table, tables, strict=True):
            row[: len(blocks)] = blocks
        columns = [(count, r.cached, r.visible, r.adapter) for r, count in plan]
        new, cached, visible, adapters = (np.array(column, np.int32) for column in zip(*columns, strict=True))
        return Step(
            np.array(ids, np.int32),
            np.array([text, block], np.int32),
            new,
            cached,
            visible,
            table,
            np.array(wanted, np.int32),
            adapters,
        )

    def _answer(
        self, request: Request, logits: Tensor, likeliest: list[int], highest: list[float], events: list[Event]
    ) -> None:
        """Sample tokens row by row, for as long as the draft is what is sampled anyway: the answer is the one without
        drafts.
        """
        known, draft, reason = len(request.ids), request.draft, None
        for row in range(len(likeliest)):
            try:
                token = request.sampler.sample(logits[row], likeliest[row], highest[row])
            except ValueError as error:
                events.append(Event(request.id, result=self._finish(request, "error", error=str(error))))
                return
            reason, piece = self._accept(request, token, logits[row])
            events.append(Event(request.id, token, piece, request.logprobs[-1] if request.logprobs else None))
            if reason or row == len(draft) or token != draft[row]:
                break
        if draft and request.lookup:
            request.lookup.learn(row)
        request.draft = []
        self.scheduler.commit(request, known + row)
        if reason:
            events[-1].result = self._finish(request, reason)

    def _accept(self, request: Request, token: int, logits_V: Tensor | None) -> tuple[str | None, str]:
        """Add a token to an answer; returns why the answer ends here, if it does, and the text that is now certain."""
        if logits_V is not None and request.params.logprobs is not None:
            heat = request.params.temperature if request.params.logprobs_as_drawn else 1.0
            request.logprobs.append(logprob(logits_V / heat, token, request.params.logprobs))
        request.append(token)
        request.sampler.accept(token)
        if token in request.stop_ids:
            return "stop", request.text.end() if request.text else ""
        piece, stopped = request.text.feed(token) if request.text else ("", False)
        constraint = request.sampler.constraint
        if stopped or (constraint is not None and constraint.finished):
            return "stop", piece
        if request.answered < request.params.max_tokens:
            return None, piece
        return "length", piece + (request.text.end() if request.text else "")

    def _finish(self, request: Request, reason: str, error: str = "") -> Result:
        """Free what a request holds, in the same step in which it ends."""
        del self._requests[request.id]
        self.scheduler.remove(request)
        text = "".join([*request.text.pieces, request.text.end()]) if request.text else ""
        hits = max(0, (request.hits or 0) - request.virtual)
        repeated = request.text.repeated if request.text else 0
        prompt_tokens = request.start - request.virtual
        return Result(request.answer, reason, text, error, request.logprobs, prompt_tokens, hits, repeated)

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

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self.tokenizer, self.model.config.tokens.stop)


def _rows(request: Request, count: int) -> int:
    """Rows of logits that a request wants of its next `count` tokens: none before its last known token, then one, and
    one for each drafted token.
    """
    return len(request.draft) + 1 if request.cached + count == len(request.ids) + len(request.draft) else 0


def choose_runner(
    model: Transformer, config: EngineConfig, blocks: int, adapters: list[Prefix | Lora | None]
) -> Runner:
    """The kernels where they can run this model and are not declined, else torch."""
    why = unsupported_reason(model, config, adapters) if config.runner != "torch" else "torch was asked for"
    require(why is None or config.runner != "native", "engine.runner", "native", f"{why}; choose auto or torch")
    return (
        TorchRunner(model, config, blocks, adapters)
        if why
        else NativeRunner(model, config, blocks, config.keep_weights, adapters)
    )


def room(model: Transformer, config: EngineConfig) -> int:
    """Tokens of cache where the user names no number: for all sequences at once if 1 GiB holds them; for one whole
    context if half of the free memory does; for 8192 in any case.
    """
    shape, stored = model.config, model.dtype if config.kv_dtype == "auto" else getattr(torch, config.kv_dtype)
    token_bytes = (
        2 * shape.layers * shape.kv_heads * (shape.head_dim * stored.itemsize + (4 if stored == torch.int8 else 0))
    )
    prefix = model.prefix.length if model.prefix else 0
    one = shape.max_positions + prefix
    return max(
        min(config.max_sequences * one, _LARGEST_CACHE // token_bytes),
        min(one, max(8192 + prefix, free_memory(model.device) // 2 // token_bytes)),
    )
