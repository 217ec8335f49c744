"""What the web page does: conversations over the same service as the API, kept in the browser alone; judgements go to
the feedback store. Where it stands on the screen: layout.py.

The display is never an input: what comes from a browser is plain text and numbers, checked in chats.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple

import gradio as gr
from fastapi import FastAPI

from openglm.assistant import SamplingParams
from openglm.config import require
from openglm.serve import chats
from openglm.serve.choices import TurnChoice
from openglm.serve.display import original, talk
from openglm.serve.service import Broken, Busy, Service, Version
from openglm.serve.strings import NOTES


class Run:
    """The answer that a page is waiting for."""

    stop: asyncio.Event | None = None


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

    async def say(self, text: str, store: Any, run: Run, *knobs: Any) -> AsyncIterator[list[Any]]:
        """A question, or what a tool returned that the model has called."""
        store = chats.checked(store)
        if text and text.strip():
            before = chats.current(store)
            role = "tool" if before and before[-1].get("call") else "user"
            store = chats.with_current(store, [*before, {"role": role, "content": text.strip()}])
            async for update in self._answer(store, run, Knobs(*knobs)):
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

    async def delete(self, store: Any) -> list[Any]:
        store = chats.checked(store)
        if self.state.feedback:
            await asyncio.to_thread(self.state.feedback.forget, store["now"])
        return self.shown(chats.without(store, store["now"]))

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
        """Show an answer to the current conversation while it grows; the browser stores it once it has ended."""
        asked, done, note = chats.current(store), chats.current(store), ""
        run.stop = asyncio.Event()
        yield [gr.update(value="", submit_btn=False, stop_btn=True), talk(asked), gr.skip(), gr.skip(), ""]
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
            async for message in self._grow(TurnChoice(assistant, turn), run.stop, version):
                done = [*asked, chats.answer(message, sampling, version.assistant.fingerprint)]
                yield [gr.skip(), talk(done), gr.skip(), gr.skip(), note]
        except (ValueError, Busy, Broken) as error:
            note = f"{NOTES['failed']} {error}"
        last = done[-1]
        done, note = (
            (asked, note)
            if not last["content"] and not last.get("call")
            else (done, NOTES["called"] if last.get("call") else note)
        )
        yield [gr.update(submit_btn=True, stop_btn=False), *self.shown(chats.with_current(store, done))[:-1], note]

    async def _grow(self, choice: TurnChoice, stop: asyncio.Event, version: Version) -> AsyncIterator[dict[str, Any]]:
        """The answer's message so far, again and again, until it ends or is stopped; its thoughts, quoted, while there
        is nothing else."""
        stopped = asyncio.ensure_future(stop.wait())
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
                    choice.feed([event for _, event in events])
                    message, calls = choice.message(), choice.turn.tool_calls
                    thoughts = message.get("reasoning_content", "").replace("\n", "\n> ")
                    quoted = f"> {thoughts}" if thoughts and not calls else ""
                    others = [json.dumps(call["function"], ensure_ascii=False) for call in calls[1:]]  # one is answered
                    content = "\n\n".join([message["content"] or quoted, *others]).strip()
                    yield {"content": content, "tool_calls": calls, "steps": choice.steps}
            finally:
                stopped.cancel()

    def shown(self, store: chats.Store) -> list[Any]:
        """Display, store, list of conversations and note for a store."""
        choices = chats.found(store, "")
        now = store["now"] if chats.current(store) else None
        return [talk(chats.current(store)), store, gr.update(choices=choices, value=now), ""]

    def open(self, name: str | None, store: Any) -> list[Any]:
        store = chats.checked(store)
        return self.shown({**store, "now": name} if name in store["all"] else store)

    def new(self, store: Any) -> list[Any]:
        return self.shown(chats.started(chats.checked(store)))

    def bring(self, text: str, store: Any, system: str) -> list[Any]:
        """A conversation from a file becomes one of the page's."""
        store, (messages, found) = chats.checked(store), chats.imported(text)
        if not messages:
            return [*self.shown(store)[:-1], NOTES["no_chat"] if text else "", system]
        return [*self.shown(chats.with_current(chats.started(store), messages)), found]

    def search(self, words: str, store: Any) -> Any:
        return gr.update(choices=chats.found(chats.checked(store), words))


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
