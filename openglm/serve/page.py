"""The web page: conversations over the same service as the API, kept in the browser alone; judgements go to the
feedback store.

Built with Gradio, of which only the routes that this page needs are reachable: none that reads, stores or fetches a
file. The display is never an input: what comes from a browser is plain text and numbers, checked in chats.py.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple

import gradio as gr
from fastapi import FastAPI
from starlette.responses import PlainTextResponse

from openglm.assistant import SamplingParams
from openglm.config import require
from openglm.serve import chats
from openglm.serve.display import original, talk
from openglm.serve.replies import ReplyStream
from openglm.serve.service import Broken, Busy, Service, Version
from openglm.serve.strings import NOTES, STRINGS

_ROUTES = re.compile(
    r"/|/config|/theme\.css|/robots\.txt|/favicon\.ico|/(?:static|assets|svelte)/[\w./-]+|/gradio_api/(?:queue/(?:join|data)|heartbeat/\w+|cancel|reset)"
)
_STYLE = """
.gradio-container {max-width: 60rem !important; width: 100% !important; margin: 0 auto !important}
.gradio-container > main {padding: 0.5rem !important}
#talk {height: calc(100dvh - 13rem) !important; min-height: 14rem}
footer {display: none !important}
"""
_SAVE = """(text) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
  link.download = "chat.json"; link.click(); setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}"""
_OPEN = """(text, store, system) => new Promise((done) => {
  const input = document.createElement("input");
  input.type = "file"; input.accept = ".json"; input.id = "opened"; input.style.display = "none"; document.body.append(input);
  const end = (text) => { input.remove(); done([text, store, system]); };
  input.onchange = async () => end(await input.files[0].text());
  input.oncancel = () => end("");
  input.click();
})"""
_LATEX = [
    {"left": a, "right": b, "display": d}
    for a, b, d in (("$$", "$$", True), ("\\[", "\\]", True), ("\\(", "\\)", False), ("$", "$", False))
]


_FILE_KEYS = frozenset({"path", "url", "meta"})


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
        return [gr.update(value=text), *self._shown(chats.with_current(store, asked))]

    async def edit(self, change: gr.EditData, store: Any, run: Run, *knobs: Any) -> AsyncIterator[list[Any]]:
        """An edited question is asked anew; an edited answer is kept, and the conversation goes on from it. Steps and
        sources are what they are."""
        store, knobs = chats.checked(store), Knobs(*knobs)
        messages, index = chats.current(store), _index(change, chats.current(store))
        old = messages[index] if messages else None
        if old is None or old["role"] == "tool" or old.keys() & {"call", "sources"}:
            yield [gr.skip(), *self._shown(store)]
            return
        new = {**old, "content": original(str(change.value))}
        if new["role"] == "user":
            async for update in self._answer(chats.with_current(store, [*messages[:index], new]), run, knobs):
                yield update
            return
        await self._keep(store, "edit", messages[:index], old, knobs.system, better=new["content"])
        yield [gr.skip(), *self._shown(chats.with_current(store, [*messages[:index], new, *messages[index + 1 :]]))]

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
        return self._shown(chats.without(store, store["now"]))

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
            ids, dropped = await asyncio.to_thread(
                self.service.assistant.chat_prompt, _with_system(knobs.system, asked), tools, cut=True
            )
            note = NOTES["cut"].format(dropped) if dropped else ""
            sampling = {
                **self.service.assistant.sampling(temperature=float(knobs.temperature), top_p=float(knobs.top_p)),
                "max_tokens": max(1, min(int(knobs.tokens), self.context - len(ids))),
            }
            version = self.service.pick()
            names = [tool.get("function", tool)["name"] for tool in tools]
            reply = ReplyStream(self.service.assistant, names, self.service.assistant.reader(tools))
            async for message in self._grow(ids, SamplingParams(**sampling), reply, run.stop, version):
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
        yield [gr.update(submit_btn=True, stop_btn=False), *self._shown(chats.with_current(store, done))[:-1], note]

    async def _grow(
        self, ids: list[int], params: SamplingParams, reply: ReplyStream, stop: asyncio.Event, version: Version
    ) -> AsyncIterator[dict[str, Any]]:
        """The answer's message so far, again and again, until it ends or is stopped; its thoughts, quoted, while there
        is nothing else."""
        text, stopped = "", asyncio.ensure_future(stop.wait())
        async with aclosing(self.service.answer([(ids, params)], version)) as batches:
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
                    text += "".join([reply.feed(one.token, one.text) for _, one in events])
                    result = events[-1][1].result
                    rest, calls = reply.end(result.ids) if result else ("", [])
                    text += rest
                    thoughts = "".join(reply.thoughts).replace("\n", "\n> ")
                    quoted = f"> {thoughts}" if thoughts and not calls else ""
                    others = [json.dumps(call["function"], ensure_ascii=False) for call in calls[1:]]  # one is answered
                    yield {"content": "\n\n".join([text or quoted, *others]).strip(), "tool_calls": calls}
            finally:
                stopped.cancel()

    def _shown(self, store: chats.Store) -> list[Any]:
        """Display, store, list of conversations and note for a store."""
        choices = chats.found(store, "")
        now = store["now"] if chats.current(store) else None
        return [talk(chats.current(store)), store, gr.update(choices=choices, value=now), ""]

    def open(self, name: str | None, store: Any) -> list[Any]:
        store = chats.checked(store)
        return self._shown({**store, "now": name} if name in store["all"] else store)

    def new(self, store: Any) -> list[Any]:
        return self._shown(chats.started(chats.checked(store)))

    def bring(self, text: str, store: Any, system: str) -> list[Any]:
        """A conversation from a file becomes one of the page's."""
        store, (messages, found) = chats.checked(store), chats.imported(text)
        if not messages:
            return [*self._shown(store)[:-1], NOTES["no_chat"] if text else "", system]
        return [*self._shown(chats.with_current(chats.started(store), messages)), found]

    def search(self, words: str, store: Any) -> Any:
        return gr.update(choices=chats.found(chats.checked(store), words))

    def layout(self) -> gr.Blocks:
        w = gr.I18n(
            **{
                language: {name: texts[index] for name, texts in STRINGS.items()}
                for index, language in enumerate(("en", "zh-CN"))
            }
        )
        self.i18n = w
        with gr.Blocks(title="OpenGLM", analytics_enabled=False) as blocks:
            store = gr.BrowserState(
                None, storage_key="openglm-chats", secret="openglm"
            )  # in the user's own browser: a form, not a secret
            run = gr.State(Run())
            with gr.Sidebar(open=False):
                fresh = gr.Button(w("new"), variant="primary", elem_id="new")
                words = gr.Textbox(placeholder=w("search"), show_label=False, container=False, elem_id="search")
                picker = gr.Radio([], show_label=False, container=False, elem_id="picker")
                with gr.Accordion(w("settings"), open=False):
                    system = gr.Textbox("", label=w("system"), lines=2, elem_id="system")
                    tools = gr.Textbox("", label=w("tools"), lines=2, max_lines=6, elem_id="tools")
                    usual = self.service.assistant.sampling()
                    temperature = gr.Slider(0, 2, usual["temperature"], step=0.05, label=w("temperature"))
                    top_p = gr.Slider(0.05, 1, usual["top_p"], step=0.05, label=w("top_p"))
                    tokens = gr.Slider(
                        1, max(self.context // 2, 2), min(256, self.context // 2), step=1, label=w("tokens")
                    )
                with gr.Row():
                    export, bring = (
                        gr.Button(w("export"), elem_id="export", min_width=80),
                        gr.Button(w("import"), elem_id="import", min_width=80),
                    )
                delete, file = gr.Button(w("delete"), variant="stop", elem_id="delete"), gr.Textbox(visible=False)
            display = gr.Chatbot(
                elem_id="talk", show_label=False, container=False, buttons=["copy"], editable="all", latex_delimiters=_LATEX, allow_tags=False, allow_file_downloads=False,
                placeholder=f"**{self.state.model}**", feedback_options=("Like", "Dislike") if self.state.feedback else None,
            )  # fmt: skip
            note = gr.Markdown("", elem_id="note")
            box = gr.Textbox(
                placeholder=w("ask"),
                show_label=False,
                container=False,
                submit_btn=True,
                max_lines=8,
                autofocus=True,
                elem_id="box",
                max_length=1 << 18,
            )
            with gr.Accordion(w("feedback"), open=False, visible=self.state.feedback is not None):
                gr.Markdown(w("feedback_text"))
                reason = gr.Textbox(placeholder=w("reason"), show_label=False, container=False, elem_id="reason")
                kept, look = gr.JSON([], show_label=False), gr.Button(w("look"), elem_id="look")
            knobs, shown = [system, tools, temperature, top_p, tokens], [display, store, picker, note]
            quiet = {"show_progress": "hidden", "api_visibility": "private"}
            blocks.load(lambda held: self._shown(chats.checked(held)), store, shown, **quiet)
            box.submit(self.say, [box, store, run, *knobs], [box, *shown], **quiet)
            box.stop(_stop, run, None, **quiet)
            display.retry(self.retry, [store, run, *knobs], [box, *shown], **quiet)
            display.undo(self.undo, store, [box, *shown], **quiet)
            display.edit(self.edit, [store, run, *knobs], [box, *shown], **quiet)
            if self.state.feedback:
                display.like(self.like, [store, system, reason], [reason, kept], **quiet)
                look.click(self.kept, store, kept, **quiet)
            fresh.click(self.new, store, shown, **quiet)
            words.change(self.search, [words, store], picker, **quiet)
            display.clear(self.new, store, shown, **quiet)
            picker.input(self.open, [picker, store], shown, **quiet)
            delete.click(self.delete, store, shown, **quiet)
            export.click(
                lambda held, text: chats.exported(chats.checked(held), text), [store, system], file, **quiet
            ).then(None, file, None, js=_SAVE, **quiet)
            bring.click(self.bring, [file, store, system], [*shown, system], js=_OPEN, **quiet)
        return blocks.queue(default_concurrency_limit=None)


async def _stop(run: Run) -> None:  # in the event loop, as `asyncio.Event` asks
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
    return min(max(index, 0), max(len(messages) - 1, 0)) if isinstance(index, int) else max(len(messages) - 1, 0)


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


def mount(app: FastAPI) -> None:
    """Put the page at `/`, behind all other routes."""
    page = Page(app)
    theme = gr.themes.Default(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )  # none that is fetched
    layout = page.layout()
    gr.mount_gradio_app(
        app,
        layout,
        path="/",
        theme=theme,
        css=_STYLE,
        i18n=page.i18n,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
    )
    app.routes[-1].app = _OnlyNeeded(app.routes[-1].app)


class _OnlyNeeded:
    """Gradio behind a list of routes, and without events that describe a file: it would copy or fetch what they
    name."""

    def __init__(self, gradio: Any) -> None:
        self.app = gradio

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if not _ROUTES.fullmatch(path) or ".." in path or "//" in path:
            return await PlainTextResponse("no such path", 404)(scope, receive, send)
        if scope["method"] == "POST":
            message = await receive()  # the guard gives the whole body at once
            if _names_files(message["body"]):
                return await PlainTextResponse("this page takes no files", 400)(scope, receive, send)
            pending = [message]
            return await self.app(scope, lambda: _give(pending, receive), send)
        await self.app(scope, receive, send)


async def _give(pending: list[Any], receive: Any) -> Any:
    return pending.pop() if pending else await receive()


def _names_files(body: bytes) -> bool:
    try:
        layer = [json.loads(body)]
    except (ValueError, RecursionError):
        return True
    while layer:
        if any(isinstance(one, dict) and not _FILE_KEYS.isdisjoint(one) for one in layer):
            return True
        layer = [
            below
            for one in layer
            if isinstance(one, (dict, list))
            for below in (one.values() if isinstance(one, dict) else one)
        ]
    return False
