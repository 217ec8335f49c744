"""What the web page does: conversations over the same service as the API, kept in the browser alone (page.js);
judgements go to the feedback store. Where it stands on the screen: layout.py.

The display is never an input: what comes from a browser is plain text and numbers, checked in chats.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from functools import cached_property
from typing import Any, NamedTuple

import gradio as gr
from fastapi import FastAPI

from openglm.assistant import CANDIDATES, SamplingParams
from openglm.config import require
from openglm.serve import chats
from openglm.serve.choices import TurnChoice
from openglm.serve.display import BLANK, filled, original, shown, talk
from openglm.serve.service import Broken, Busy, Service, Version
from openglm.serve.strings import NOTES

_KEEP = 2.0  # seconds between two states of a growing answer that the browser keeps
_LAST_WORDS = 5.0  # seconds for an answer to end that was told to
_TRIED = 17  # tokens from which the model's speed is told


class Run:
    """The answer that a page is waiting for."""

    stop: asyncio.Event | None = None
    over: asyncio.Event
    tokens: int
    began: float

    def __init__(self) -> None:
        self.gone: set[str] = set()
        """conversations that this page deleted"""

    async def end(self) -> None:
        """Stop it, and wait until the page has what there is of it."""
        if self.stop:
            self.stop.set()
            with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
                await asyncio.wait_for(self.over.wait(), _LAST_WORDS)


class Knobs(NamedTuple):
    """What the side panel says, as a browser sends it."""

    system: str
    tools: str
    temperature: float
    top_p: float
    tokens: float


class Page:
    """The handlers of one server's page, and its layout."""

    def __init__(self, app: FastAPI) -> None:
        self.state = app.state
        self.service: Service = app.state.service
        self.context = self.service.assistant.context
        self.speed = 0.0

    async def say(self, text: str, store: Any, run: Run, *knobs: Any) -> AsyncIterator[list[Any]]:
        """A question, or what a tool returned that the model has called."""
        await run.end()
        store = chats.checked(store)
        if text and text.strip():
            before = chats.current(store)
            role = "tool" if before and before[-1].get("call") else "user"
            store = chats.with_current(store, [*before, {"role": role, "content": text.strip("\n")}])
            async for update in self._answer(store, run, Knobs(*knobs)):
                yield update

    async def start(self, chosen: gr.SelectData, store: Any, run: Run, *knobs: Any) -> AsyncIterator[list[Any]]:
        """One of the questions that the page offers."""
        text = chosen.value.get("text") if isinstance(chosen.value, dict) else None
        async for update in self.say(text if isinstance(text, str) else "", store, run, *knobs):
            yield update

    async def retry(self, which: gr.RetryData, store: Any, run: Run, *knobs: Any) -> AsyncIterator[list[Any]]:
        """A new answer to the question at `which`; the old one is kept as feedback, as what was not wanted."""
        store = chats.checked(store)
        messages = chats.current(store)
        asked = _asked(which, messages)
        if asked:
            old = messages[len(asked)] if len(messages) > len(asked) else None
            async for update in self._answer(chats.with_current(store, asked), run, Knobs(*knobs)):
                yield update
            if old and old["content"]:
                await self._keep(
                    update[2], "retry", asked, old, Knobs(*knobs).system, better=chats.current(update[2])[-1]["content"]
                )

    async def undo(self, store: Any, which: gr.UndoData) -> list[Any]:
        """Take the last question back into the box."""
        store = chats.checked(store)
        messages = chats.current(store)
        asked = _asked(which, messages)
        text = asked.pop()["content"] if asked else ""
        return [gr.update(value=text), *self.shown(chats.with_current(store, asked))]

    async def edit(self, change: gr.EditData, store: Any, run: Run, *knobs: Any) -> AsyncIterator[list[Any]]:
        """An edited question is asked anew; an edited answer is kept, and the conversation goes on from it. Steps and
        sources are what they are."""
        store, knobs = chats.checked(store), Knobs(*knobs)
        messages, index = chats.current(store), _index(change, chats.current(store))
        old = messages[index] if messages else None
        if old is None or old["role"] == "tool" or old.keys() & {"call", "sources", "steps"}:
            yield [gr.skip(), *self.shown(store)]
            return
        new = {**old, "content": original(str(change.value))}
        if new["role"] == "user":
            async for update in self._answer(chats.with_current(store, [*messages[:index], new]), run, knobs):
                yield update
            return
        await self._keep(store, "edit", messages[:index], old, knobs.system, better=new["content"])
        yield [gr.skip(), *self.shown(chats.with_current(store, [*messages[:index], new, *messages[index + 1 :]]))]

    async def like(self, vote: gr.LikeData, store: Any, system: str, reason: str | None) -> tuple[Any, Any]:
        store = chats.checked(store)
        messages, index = chats.current(store), _end(_index(vote, chats.current(store)), chats.current(store))
        if messages and messages[index]["role"] == "assistant" and vote.liked is not None:
            kind = "up" if vote.liked is True or vote.liked == "Like" else "down"
            await self._keep(
                store, kind, messages[:index], messages[index], system, reason=(reason or "").strip()[:4096] or None
            )
        return "", await self.kept(store)

    async def kept(self, store: Any) -> list[dict[str, Any]]:
        """What the data base holds of this conversation."""
        store = chats.checked(store)
        return await asyncio.to_thread(self.state.feedback.of, store["now"]) if self.state.feedback else []

    async def delete(self, store: Any, run: Run) -> list[Any]:
        now = chats.checked(store)["now"]
        run.gone.add(now)
        await run.end()
        if self.state.feedback:
            await asyncio.to_thread(self.state.feedback.forget, now)
        return self.shown(chats.started())

    async def _keep(
        self, store: chats.Store, kind: str, before: chats.Messages, answer: Mapping[str, Any], system: str, better: str | None = None, reason: str | None = None,
    ) -> None:  # fmt: skip
        if self.state.feedback:
            row = {
                "conversation": store["now"],
                "kind": kind,
                "messages": _with_system(system, before),
                "answer": answer["content"],
                "better": better,
                "reason": reason,
            }
            weights = answer.get("version") or self.service.assistant.fingerprint
            await asyncio.to_thread(
                self.state.feedback.add,
                **row,
                sampling=answer.get("sampling", {}),
                model=self.state.model,
                weights=weights,
            )
            self.service.metrics.feedback.inc()

    async def _answer(self, store: chats.Store, run: Run, knobs: Knobs) -> AsyncIterator[list[Any]]:
        """Show an answer to the current conversation while it grows. The browser keeps the question at once, and what
        there is of the answer now and then. What comes after its deletion is not shown: a question may have waited."""
        unseen = [gr.update(submit_btn=True, stop_btn=False), gr.skip(), gr.skip(), gr.skip()]
        if store["now"] in run.gone:
            yield unseen
            return
        run.stop, run.over, run.tokens, run.began = asyncio.Event(), asyncio.Event(), 0, time.monotonic()
        try:
            yield [gr.update(value="", submit_btn=False, stop_btn=True), talk(chats.current(store)), store, ""]
            async for update in self._told(store, run, knobs):
                yield unseen if store["now"] in run.gone else update
        finally:
            run.stop = None
            run.over.set()

    async def _told(self, store: chats.Store, run: Run, knobs: Knobs) -> AsyncIterator[list[Any]]:
        asked, done, note, kept = chats.current(store), chats.current(store), "", time.monotonic()
        try:
            tools = _tools(knobs.tools)
            assistant, version = self.service.assistant, self.service.pick()
            sampling = {
                **assistant.sampling(temperature=float(knobs.temperature), top_p=float(knobs.top_p)),
                "max_tokens": max(1, min(int(knobs.tokens), self.context)),
            }
            messages = _with_system(knobs.system, asked)
            turn = await asyncio.to_thread(assistant.turn, messages, SamplingParams(**sampling), tools or None)
            note = NOTES["cut"].format(turn.dropped) if turn.dropped else ""
            async for message in self._grow(TurnChoice(assistant, turn), run, version):
                done = [*asked, chats.answer(message, sampling, version.assistant.fingerprint)]
                late = time.monotonic() - kept > _KEEP
                kept = time.monotonic() if late else kept
                yield [gr.skip(), talk(done), chats.with_current(store, done) if late else gr.skip(), note]
            note = note or NOTES["speed"].format(run.tokens, run.tokens / (time.monotonic() - run.began))
        except (ValueError, Busy, Broken) as error:
            note = f"{NOTES['failed']} {error}"
        last = done[-1]
        if last.get("call"):
            note = NOTES["called"]
        elif not last["content"]:
            done = asked
        yield [gr.update(submit_btn=True, stop_btn=False), *self.shown(chats.with_current(store, done))[:-1], note]

    async def _grow(self, choice: TurnChoice, run: Run, version: Version) -> AsyncIterator[dict[str, Any]]:
        """The answer's message so far, again and again, until it ends or is stopped; its thoughts, quoted, while there
        is nothing else."""
        assert run.stop is not None, "an answer is under way"
        stopped = asyncio.ensure_future(run.stop.wait())
        async with aclosing(choice.batches(self.service, version)) as batches:
            try:
                while True:
                    batch = asyncio.ensure_future(anext(batches, None))
                    await asyncio.wait({batch, stopped}, return_when=asyncio.FIRST_COMPLETED)
                    if not batch.done():
                        batch.cancel()
                        await asyncio.gather(batch, return_exceptions=True)
                        return
                    if (events := batch.result()) is None:
                        return
                    run.tokens += len(events)
                    choice.feed([event for _, event in events])
                    message, calls = choice.message(), choice.turn.tool_calls
                    thoughts = message.get("reasoning_content", "").replace("\n", "\n> ")
                    quoted = f"> {thoughts}" if thoughts and not calls else ""
                    others = [json.dumps(call["function"], ensure_ascii=False) for call in calls[1:]]  # one is answered
                    content = "\n\n".join([message["content"] or quoted, *others]).strip()
                    yield {"content": content, "tool_calls": calls, "steps": message.get("steps", ())}
            finally:
                stopped.cancel()

    @cached_property
    def model(self) -> str:
        """Name and size, for Markdown."""
        size = self.service.assistant.model.config.parameters / 1e6
        digits = f"{size / 1000:.1f} B" if size >= 1000 else f"{size:.1f} M"
        return NOTES["model"].format(shown(self.state.model), digits, self.context)

    async def about(self) -> str:
        """Name, size and speed of the model: that of a short answer, which is measured once."""
        if not self.speed:
            with contextlib.suppress(ValueError, Busy, Broken):
                ids, _ = await asyncio.to_thread(
                    self.service.assistant.chat_prompt, [{"role": "user", "content": "你好"}]
                )
                params = SamplingParams(max_tokens=_TRIED, ignore_eos=True)
                times = [time.monotonic() async for _ in self.service.answer([(ids, params)])]
                self.speed = (_TRIED - 1) / max(times[-1] - times[0], 1e-3)
        return self.model + (NOTES["pace"].format(self.speed) if self.speed else "")

    async def fill(self, text: str) -> str:
        """The text with its blanks filled, and how likely other words were, as HTML."""
        pieces = BLANK.split(text or "")
        try:
            require(len(pieces) > 1, "text", text, "has no blank; write ___ where words are missing")
            params = SamplingParams(max_tokens=32, temperature=0.0)
            [found] = await self.service.settle(self.service.assistant.best_of([pieces], CANDIDATES, params))
        except (ValueError, Busy, Broken) as error:
            return f"<p>{html.escape(str(error))}</p>"
        return filled(pieces, found)

    def shown(self, store: chats.Store) -> list[Any]:
        """Display, store and note for a store."""
        return [talk(chats.current(store)), store, ""]

    async def open(self, store: Any, run: Run) -> list[Any]:
        await run.end()
        return self.shown(chats.checked(store))

    async def bring(self, text: str, store: Any, system: str, run: Run) -> list[Any]:
        """A conversation from a file becomes one of the page's."""
        await run.end()
        messages, found = chats.imported(text)
        if not messages:
            return [*self.shown(chats.checked(store))[:-1], NOTES["no_chat"] if text else "", system]
        return [*self.shown(chats.with_current(chats.started(), messages)), found]


async def stop(run: Run) -> None:  # in the event loop, as `asyncio.Event` asks
    if run.stop:
        run.stop.set()


def _with_system(system: str | None, messages: chats.Messages) -> list[dict[str, Any]]:
    """A conversation as the model reads it."""
    return [*([{"role": "system", "content": system}] if system and system.strip() else []), *chats.for_model(messages)]


def _tools(text: str | None) -> list[dict[str, Any]]:
    """Tools as a user typed them. Raises ValueError."""
    try:
        tools: Any = json.loads(text) if text and text.strip() else []
    except (ValueError, RecursionError):
        tools = None
    require(
        isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools),
        "tools",
        (text or "")[:20],
        "must be a list in OpenAI's JSON form",
    )
    return tools


def _index(event: Any, messages: chats.Messages) -> int:
    """Which message an event of the display is about; a browser may say anything."""
    index = event.index[0] if isinstance(event.index, (list, tuple)) and event.index else event.index
    if isinstance(index, int):
        for number, message in enumerate(messages):
            index -= 1 + len(message.get("steps", ()))  # each stands in a place of its own
            if index < 0:
                return number
    return max(len(messages) - 1, 0)


def _end(index: int, messages: chats.Messages) -> int:
    """The last message of the answer that one belongs to: the display makes one of its calls, their results and its
    text."""
    while index + 1 < len(messages) and messages[index]["role"] != "user" and messages[index + 1]["role"] != "user":
        index += 1
    return index


def _asked(event: Any, messages: chats.Messages) -> chats.Messages:
    """The conversation up to the question, or a tool's result, that an event is about, or that its answer belongs
    to."""
    asked = messages[: _end(_index(event, messages), messages) + 1]
    while asked and asked[-1]["role"] == "assistant":
        asked.pop()
    return asked
