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
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from functools import cached_property, partial
from typing import Any, NamedTuple

import gradio as gr
from fastapi import FastAPI

from openglm.assistant import CANDIDATES, SamplingParams
from openglm.config import require
from openglm.serve import chats
from openglm.serve.choices import TurnChoice
from openglm.serve.display import BLANK, filled, original, shown, talk
from openglm.serve.feedback import keep_row
from openglm.serve.schemas import Json
from openglm.serve.service import Batch, Broken, Busy, Service, Version
from openglm.serve.sse import in_thread
from openglm.serve.strings import NOTES

_KEEP = 2.0  # seconds between two states of a growing answer that the browser keeps
_LAST_WORDS = 5.0  # seconds for an answer to end that was told to
_TRIED = 17  # tokens from which the model's speed is told
_SAME = gr.skip()
_ASKING = gr.update(submit_btn=True, stop_btn=False)
Update = list[Any]
"""of the box, the display, the conversation and the note below it"""


class Run:
    """The answer that a page is waiting for."""

    stop: asyncio.Event | None = None
    used = False
    """the page's user did something"""
    over: asyncio.Event
    tokens: int
    began: float

    def __init__(self) -> None:
        self.gone: set[str] = set()
        """conversations that this page deleted"""

    async def end(self) -> None:
        """Stop it, and wait until the page has what there is of it."""
        self.used = True
        if self.stop:
            self.stop.set()
            with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
                await asyncio.wait_for(self.over.wait(), _LAST_WORDS)

    async def unless_stopped(self, work: Awaitable[Any]) -> Any:
        """What the work brings; None, and its end, where the user stops the answer first."""
        assert self.stop is not None, "an answer is under way"
        tasks = asyncio.ensure_future(work), asyncio.ensure_future(self.stop.wait())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return tasks[0].result() if tasks[0].done() else None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class Knobs(NamedTuple):
    """What the side panel says, as a browser sends it."""

    system: str
    tools: str
    temperature: float
    top_p: float
    tokens: float
    web: bool


class Page:
    """The handlers of one server's page. A `chat` comes from a browser, as JSON."""

    def __init__(self, app: FastAPI) -> None:
        self.state = app.state
        self.service: Service = app.state.service
        self.context = self.service.assistant.context
        self.speed = 0.0

    async def say(self, text: str, chat: Any, run: Run, *knobs: Any) -> AsyncIterator[Update]:
        """A question, or what a tool returned that the model has called."""
        await run.end()
        chat = chats.checked(chat)
        if text and text.strip():
            before = chat["messages"]
            role = "tool" if before and before[-1].get("call") else "user"
            asked = [*before, {"role": role, "content": text.strip("\n")}]
            async for update in self._answer({**chat, "messages": asked}, run, Knobs(*knobs)):
                yield update

    async def start(self, chosen: gr.SelectData, chat: Any, run: Run, *knobs: Any) -> AsyncIterator[Update]:
        """One of the questions that the page offers."""
        text = chosen.value.get("text") if isinstance(chosen.value, dict) else None
        async for update in self.say(text if isinstance(text, str) else "", chat, run, *knobs):
            yield update

    async def retry(self, which: gr.RetryData, chat: Any, run: Run, *knobs: Any) -> AsyncIterator[Update]:
        """A new answer to the question at `which`; the old one is kept as feedback, as what was not wanted."""
        chat = chats.checked(chat)
        messages, asked = chat["messages"], _asked(which, chat["messages"])
        if asked:
            async for update in self._answer({**chat, "messages": asked}, run, Knobs(*knobs)):
                yield update
            replaced = len(messages) > len(asked) and messages[len(asked)]["content"]
            if replaced and chat["id"] not in run.gone:
                better = update[2]["messages"][-1]["content"]
                await self._keep(chat, "retry", len(asked), Knobs(*knobs).system, better=better)

    async def undo(self, chat: Any, which: gr.UndoData) -> Update:
        """Take the last question back into the box."""
        chat = chats.checked(chat)
        asked = _asked(which, chat["messages"])
        text = asked.pop()["content"] if asked else ""
        return [gr.update(value=text), *seen({**chat, "messages": asked})]

    async def edit(self, change: gr.EditData, chat: Any, run: Run, *knobs: Any) -> AsyncIterator[Update]:
        """An edited question is asked anew; an edited answer is kept, and the conversation goes on from it. Steps and
        sources are what they are."""
        chat = chats.checked(chat)
        messages = chat["messages"]
        index = _index(change, messages)
        old: Json = messages[index] if messages else {"role": "tool"}
        if old["role"] == "tool" or old.keys() & {"call", "sources", "problems", "steps"}:
            yield [_SAME, *seen(chat)]
            return
        new = {**old, "content": original(str(change.value))}
        if new["role"] == "user":
            async for update in self._answer({**chat, "messages": [*messages[:index], new]}, run, Knobs(*knobs)):
                yield update
            return
        await self._keep(chat, "edit", index, Knobs(*knobs).system, better=new["content"])
        yield [_SAME, *seen({**chat, "messages": [*messages[:index], new, *messages[index + 1 :]]})]

    async def like(self, vote: gr.LikeData, chat: Any, system: str, reason: str | None) -> tuple[Any, Any]:
        chat = chats.checked(chat)
        messages = chat["messages"]
        index = _end(_index(vote, messages), messages)
        if messages and messages[index]["role"] == "assistant" and vote.liked is not None:
            kind = "up" if vote.liked in (True, "Like") else "down"
            await self._keep(chat, kind, index, system, reason=(reason or "").strip()[:4096] or None)
        return "", await self.kept(chat)

    async def kept(self, chat: Any) -> list[Json]:
        """What the data base holds of this conversation."""
        chat = chats.checked(chat)
        return await asyncio.to_thread(self.state.feedback.of, chat["id"]) if self.state.feedback else []

    async def delete(self, chat: Any, run: Run) -> Update:
        gone = chats.checked(chat)["id"]
        run.gone.add(gone)
        await run.end()
        if self.state.feedback:
            await asyncio.to_thread(self.state.feedback.forget, gone)
        return seen(chats.started())

    async def _keep(self, chat: Json, kind: str, index: int, system: str, **more: str | None) -> None:
        """A judgement of the answer at `index`."""
        before, answer = chat["messages"][:index], chat["messages"][index]
        if self.state.feedback:
            await keep_row(
                self.state,
                answer.get("version"),
                conversation=chat["id"],
                kind=kind,
                messages=_with_system(system, before),
                answer=answer["content"],
                sampling=answer.get("sampling", {}),
                **more,
            )

    async def _answer(self, chat: Json, run: Run, knobs: Knobs) -> AsyncIterator[Update]:
        """Show an answer to the conversation while it grows. The browser keeps the question at once, and what there is
        of the answer now and then. What comes after its deletion is not shown: a question may have waited."""
        unseen = [_ASKING, _SAME, _SAME, _SAME]
        if chat["id"] in run.gone:
            yield unseen
            return
        run.stop, run.over, run.tokens, run.began = asyncio.Event(), asyncio.Event(), 0, time.monotonic()
        try:
            yield [gr.update(submit_btn=False, stop_btn=True), *seen(chat)]
            async for update in self._told(chat, run, knobs):
                yield unseen if chat["id"] in run.gone else update
        finally:
            run.stop = None
            run.over.set()

    async def _told(self, chat: Json, run: Run, knobs: Knobs) -> AsyncIterator[Update]:
        asked = done = chat["messages"]
        note, kept = "", time.monotonic()
        try:
            tools = _tools(knobs.tools)
            assistant, version = self.service.assistant, self.service.pick()
            sampling = assistant.sampling(temperature=float(knobs.temperature), top_p=float(knobs.top_p))
            sampling["max_tokens"] = max(1, min(int(knobs.tokens), self.context))
            messages, web = _with_system(knobs.system, asked), bool(knobs.web) and assistant.web is not None
            if web:
                yield [_SAME, _SAME, _SAME, NOTES["searching"]]
            prepare = partial(assistant.turn, messages, SamplingParams(**sampling), tools or None, web=web)
            turn = await run.unless_stopped(in_thread(lambda stop: prepare(stop=stop)))
            if turn is None:
                yield [_ASKING, *seen(chat)]
                return
            run.began = time.monotonic()
            note = NOTES["cut"].format(turn.dropped) if turn.dropped else ""
            async for message in self._grow(TurnChoice(assistant, turn), run, version):
                done = [*asked, chats.answer(message, sampling, version.assistant.fingerprint)]
                late = time.monotonic() - kept > _KEEP
                kept = time.monotonic() if late else kept
                now = {**chat, "messages": done}
                yield [_SAME, talk(now), now if late else _SAME, NOTES["checking"] if web else note]
            if run.tokens and not note:
                note = NOTES["speed"].format(run.tokens, run.tokens / (time.monotonic() - run.began))
        except (ValueError, Busy, Broken) as error:
            note = f"{NOTES['failed']} {error}"
        if done[-1].get("call"):
            note = NOTES["called"]
        elif not done[-1]["content"]:
            done = asked
        yield [_ASKING, *seen({**chat, "messages": done}, note)]

    async def _grow(self, choice: TurnChoice, run: Run, version: Version) -> AsyncIterator[Json]:
        """The answer's message so far, again and again, until it ends or is stopped; its thoughts, quoted, while there
        is nothing else."""
        turn, events = choice.turn, Batch()
        steps = [_search(turn.found)] if turn.found else []
        async with aclosing(choice.batches(self.service, version)) as batches:
            while events is not None:
                run.tokens += len(events)
                choice.feed([event for _, event in events])
                message, calls = choice.message(), turn.tool_calls
                thoughts = message.get("reasoning_content", "").replace("\n", "\n> ")
                quoted = f"> {thoughts}" if thoughts and not calls else ""
                others = [json.dumps(call["function"], ensure_ascii=False) for call in calls[1:]]  # one is answered
                content = "\n\n".join([message["content"] or quoted, *others]).strip()
                if events or steps:
                    run_here = [*steps, *message.get("steps", ())]
                    yield {**message, "content": content, "tool_calls": calls, "steps": run_here}
                events = await run.unless_stopped(anext(batches, None))

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
                hello = [{"role": "user", "content": "你好"}]
                ids, _ = await asyncio.to_thread(self.service.assistant.chat_prompt, hello)
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

    async def begin(self, chat: Any, run: Run) -> Update:
        """The conversation that a page begins with, unless its user was faster."""
        return [_SAME, _SAME, _SAME] if run.used else seen(chats.checked(chat))

    async def open(self, chat: Any, run: Run) -> Update:
        await run.end()
        return seen(chats.checked(chat))

    async def export(self, chat: Any, system: str) -> str:
        return chats.exported(chats.checked(chat), system)

    async def bring(self, text: str, run: Run) -> Update:
        """A conversation from a file becomes one of the page's."""
        messages, found = chats.imported(text)
        if not messages:
            return [_SAME, _SAME, NOTES["no_chat"] if text else _SAME, _SAME]
        await run.end()
        return [*seen({**chats.started(), "messages": messages}), found]


def seen(chat: Json, note: str = "") -> Update:
    """Display, conversation and note."""
    return [talk(chat), chat, note]


async def stop(run: Run) -> None:  # in the event loop, as `asyncio.Event` asks
    if run.stop:
        run.stop.set()


def _with_system(system: str | None, messages: chats.Messages) -> chats.Messages:
    """A conversation as the model reads it."""
    return [*([{"role": "system", "content": system}] if system and system.strip() else []), *chats.for_model(messages)]


def _search(found: Any) -> Json:
    """The search that an answer from sources begins with, as a step."""
    listed = [f"[{number}] {one.title} {one.url}" for number, one in enumerate(found.sources, start=1)]
    return {"name": NOTES["search"], "arguments": found.question, "result": "\n".join(listed)}


def _tools(text: str | None) -> list[Json]:
    """Tools as a user typed them. Raises ValueError."""
    try:
        tools: Any = json.loads(text) if text and text.strip() else []
    except (ValueError, RecursionError):
        tools = None
    sound = isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)
    require(sound, "tools", (text or "")[:20], "must be a list in OpenAI's JSON form")
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
