"""The engine in a thread of its own, and answers as asynchronous streams.

The thread takes commands between two steps, so a reader that goes away frees its place within one step. An answer's
beginning and end reach
its reader at once; what lies between is gathered for 40 ms, for no eye sees the difference, and each piece costs both
ends more than its tokens
cost the engine. Another version of the model may stand beside the one that answers, with a share of the requests and an
engine of its own; the thread steps both in turn. It knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import queue
import random
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from openglm.assistant import Assistant, Engine, EngineRequest, Event, Found, Result, Rounds
from openglm.config import require
from openglm.runtime import say
from openglm.serve.config import ServeConfig
from openglm.serve.metrics import Metrics


class Busy(Exception):
    """No room for a request now; `seconds` says when to come back. `ending`: the server itself is going."""

    def __init__(self, message: str, seconds: int, ending: bool = False) -> None:
        super().__init__(message)
        self.seconds, self.ending = seconds, ending


class Broken(Exception):
    """The engine failed; the request was not at fault."""


Batch = list[tuple[int, Event]]
_GATHER = 0.04  # seconds
_LAST_WORDS = 0.3  # seconds for the end of the last answer to reach its reader


def _advance(rounds: Rounds[Found], results: list[Result] | None) -> tuple[Sequence[EngineRequest] | None, Any]:
    """The next round, or None and what was found."""
    try:
        return (next(rounds) if results is None else rounds.send(results)), None
    except StopIteration as end:
        return None, end.value


@dataclass(eq=False)
class Inbox:
    """What came of a group of requests and was not read yet, with the index of each in the group. The engine's thread
    fills it.
    """

    events: deque[tuple[int, Event]] = field(default_factory=deque)
    failed: Exception | None = None
    """what ended the group"""
    full: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self) -> Batch:
        """All that lies ready, once the reader was woken. Raises what ended the group."""
        await self.full.wait()
        self.full.clear()
        if self.failed:
            raise self.failed
        return [self.events.popleft() for _ in range(len(self.events))]


@dataclass(eq=False)
class Version:
    """A model that answers."""

    assistant: Assistant
    name: str
    share: float = 1.0
    """of the requests that it gets"""
    requests: int = 0
    """that it got"""
    adapter: str | None = None
    """of its engine's, which it answers with"""

    @cached_property
    def fingerprint(self) -> str:
        return self.assistant.fingerprint_with(self.adapter)


@dataclass(eq=False)
class Ticket:
    """One request in the engine."""

    index: int
    request: EngineRequest
    inbox: Inbox
    engine: Engine
    adapter: str | None
    number: int = -1
    """in the engine, once it took the request"""
    began: float = field(default_factory=time.perf_counter)
    first: float = 0.0
    """time of the first token"""
    begun: bool = False


class Service:
    """`async for batch in service.answer([(prompt, params)])`; every method but `_run` and those it calls belongs to
    the event loop's thread.
    """

    def __init__(self, assistant: Assistant, config: ServeConfig, name: str = "") -> None:
        self.versions = [Version(assistant, name)]
        self.adapters = {each: Version(assistant, each, adapter=each) for each in assistant.adapters}
        """by name: each stays with the weights that it was made for, whatever becomes of the versions"""
        self.config, self.metrics = config, Metrics(assistant.engine)
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._by_number: dict[tuple[Engine, int], Ticket] = {}
        self._open: set[Ticket] = set()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._ringing, self._rang = False, 0.0
        self.draining, self.ended = False, asyncio.Event()
        """ended: asked to end, and all answers are given"""

    @property
    def assistant(self) -> Assistant:
        """That of the version that answers; what it says of prompts holds for one on trial too."""
        return self.versions[0].assistant

    def pick(self, name: str | None = None) -> Version:
        """The version that the next request for this model goes to."""
        if name in self.adapters:
            return self.adapters[name]
        trial = self.versions[-1]
        return trial if random.random() < trial.share else self.versions[0]

    def try_out(self, version: Version) -> None:
        """Let another version have its share of the requests; one that was on trial goes. Raises ValueError where it
        does not read prompts as the present one does."""
        ours, theirs = self.assistant, version.assistant
        same = ours.tokenizer.fingerprint == theirs.tokenizer.fingerprint and ours.context <= theirs.context
        require(same, "model", version.name, "has another tokenizer or a shorter context than the model that answers")
        self.versions = [self.versions[0], version]

    def keep(self, trial: bool) -> None:
        """End the trial, with its version or with the one before; running answers are not disturbed."""
        version = self.versions[-1 if trial else 0]
        version.share = 1.0
        self.versions = [version]
        self.metrics.engine = version.assistant.engine

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the thread once its step is done."""
        self._commands.put(None)
        self._thread.join(timeout=10)

    @property
    def healthy(self) -> bool:
        return self._thread.is_alive() and not self.draining

    def drain(self) -> None:
        """Take no more requests; answers that are not done in `grace` seconds end where they are."""
        self.draining = True
        self._loop.call_soon_threadsafe(
            self._loop.call_later, self.config.grace, lambda: self._cut_all(list(self._open))
        )
        self._loop.call_soon_threadsafe(self._look_for_the_end)

    def _look_for_the_end(self) -> None:
        if self.draining and not self._open:
            self._loop.call_later(_LAST_WORDS, self.ended.set)

    async def answer(
        self, requests: Sequence[EngineRequest], version: Version | None = None
    ) -> AsyncGenerator[Batch, None]:
        """Events of a group of requests, each with its request's index in the group; what is ready comes in one list.
        Each request's last
        event has its result. Raises ValueError for a wrong request, Busy, Broken. Whoever stops reading, or is
        cancelled, frees all places."""
        self._admit(len(requests))
        inbox = Inbox()
        version = version or self.pick()
        version.requests += len(requests)
        engine = version.assistant.engine
        tickets = [Ticket(index, request, inbox, engine, version.adapter) for index, request in enumerate(requests)]
        self._open.update(tickets)
        for ticket in tickets:
            self._commands.put(partial(self._add, ticket))
        timer = self._loop.call_later(self.config.deadline, self._cut_all, tickets)
        try:
            left = len(tickets)
            while left:
                batch = await inbox.take()
                for result in [event.result for _, event in batch if event.result]:
                    self._check(result)
                    left -= 1
                if batch:
                    yield batch
        finally:
            timer.cancel()
            self._open.difference_update(tickets)
            self._look_for_the_end()
            for ticket in tickets:
                self._commands.put(partial(self._drop, ticket))

    async def settle(self, rounds: Rounds[Found], version: Version | None = None) -> Found:
        """Answer rounds of requests, as a blank with candidates takes them; errors as for `answer`."""
        results: list[Result] | None = None
        while True:
            # In a thread, for it cuts text into tokens, and others' answers go on meanwhile.
            requests, found = await asyncio.to_thread(_advance, rounds, results)
            if requests is None:
                return found
            by_index: dict[int, Result] = {}
            async for batch in self.answer(requests, version):
                by_index |= {index: event.result for index, event in batch if event.result is not None}
            if any(result.finish_reason == "cancelled" for result in by_index.values()):
                raise Busy("this was not done in time", 10, ending=True)
            results = [by_index[index] for index in range(len(requests))]

    def _admit(self, count: int) -> None:
        if self.draining:
            raise Busy("the server is shutting down", 10, ending=True)
        most = self.config.queue + self.assistant.engine.config.max_sequences
        if len(self._open) + count > most:
            self.metrics.rejected.inc()
            raise Busy(
                f"{len(self._open)} requests are being answered or wait already; come back in a moment",
                1 + len(self._open) // 16,
            )

    @staticmethod
    def _check(result: Result) -> None:
        """Raises what went wrong."""
        if result.error:
            raise ValueError(result.error)
        if result.finish_reason == "cancelled" and not result.ids:
            raise Busy("no answer began in time", 10, ending=True)

    def _cut_all(self, tickets: Iterable[Ticket]) -> None:
        for ticket in tickets:
            self._commands.put(partial(self._cut, ticket))

    def _wake(self, urgent: list[Inbox]) -> None:
        """Let readers look: those of `urgent` now, the others together when the last time is long enough ago."""
        for inbox in urgent:
            inbox.full.set()
        if not self._ringing:
            self._ringing = True
            self._loop.call_at(self._rang + _GATHER, self._ring)

    def _ring(self) -> None:
        self._ringing, self._rang = False, self._loop.time()  # before it looks: what comes later rings again
        for ticket in self._open:
            if ticket.inbox.events:
                ticket.inbox.full.set()

    # What follows runs in the engine's thread.

    def _run(self) -> None:
        while self._take_commands(wait=not self._by_number):
            for engine in {engine for engine, _ in self._by_number}:
                try:
                    start = time.perf_counter()
                    events = engine.step()
                    self.metrics.step.observe(time.perf_counter() - start)
                    self.metrics.step_tokens.inc(len(events))
                    self._deliver(engine, events)
                except Exception as error:  # a defect must not leave readers waiting for ever
                    say(f"glm serve: the engine failed: {type(error).__name__}: {error}")
                    self._fail_all(engine, error)

    def _take_commands(self, wait: bool) -> bool:
        """Do what the event loop asked for; False where it asked to end."""
        try:
            while True:
                command = self._commands.get(block=wait)
                if command is None:
                    return False
                command()
                wait = False
        except queue.Empty:
            return True

    def _add(self, ticket: Ticket) -> None:
        if ticket not in self._open:  # its reader left before it began
            return
        try:
            ticket.number = ticket.engine.add_request(*ticket.request, ticket.adapter)
            self._by_number[ticket.engine, ticket.number] = ticket
            self.metrics.asked_length.observe(ticket.request[1].max_tokens)
        except ValueError as error:
            self._post([(ticket, error)])
        except RecursionError:
            self._post([(ticket, ValueError("schema: nested too deeply; simplify it"))])
        except Exception as error:
            say(f"glm serve: a request failed: {type(error).__name__}: {error}")
            self._post([(ticket, Broken(f"the engine failed ({type(error).__name__})"))])

    def _drop(self, ticket: Ticket) -> None:
        if self._by_number.pop((ticket.engine, ticket.number), None):
            ticket.engine.cancel(ticket.number)
            self.metrics.finished.labels("cancelled").inc()

    def _cut(self, ticket: Ticket) -> None:
        """End an answer where it is, for the deadline or the end of the server."""
        if self._by_number.get((ticket.engine, ticket.number)) is ticket:
            result = ticket.engine.cancel(ticket.number)
            self._deliver(ticket.engine, [Event(ticket.number, result=result)])

    def _fail_all(self, engine: Engine, error: Exception) -> None:
        failed = [ticket for ticket in self._by_number.values() if ticket.engine is engine]
        for ticket in failed:
            try:
                engine.cancel(ticket.number)
            except Exception as trouble:
                say(f"glm serve: request {ticket.number} could not be taken back: {trouble}")
            del self._by_number[engine, ticket.number]
        self._post(
            [
                (ticket, Broken(f"the engine failed ({type(error).__name__}); the request can be repeated"))
                for ticket in failed
            ]
        )

    def _deliver(self, engine: Engine, events: list[Event]) -> None:
        post: list[tuple[Ticket, Event | Exception]] = []
        now = time.perf_counter()
        for event in events:
            ticket = self._by_number.get((engine, event.id))
            if ticket is None:
                continue
            if not ticket.first and event.token is not None:
                ticket.first = now
                self.metrics.first_token.observe(now - ticket.began)
            if event.result is not None:
                del self._by_number[engine, event.id]
                self.metrics.result(event.result, now - ticket.began, now - ticket.first)
            post.append((ticket, event))
        self._post(post)

    def _post(self, post: list[tuple[Ticket, Event | Exception]]) -> None:
        urgent = []
        for ticket, event in post:
            if isinstance(event, Exception):
                ticket.inbox.failed = event
            else:
                ticket.inbox.events.append((ticket.index, event))
            if isinstance(event, Exception) or event.result or not ticket.begun:
                urgent.append(ticket.inbox)
            ticket.begun = True
        if post and (urgent or not self._ringing):
            self._loop.call_soon_threadsafe(self._wake, urgent)
