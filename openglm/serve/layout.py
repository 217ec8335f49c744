"""Where everything stands on the web page, and which handler of `Page` it calls.

Built with Gradio, of which only the routes that this page needs are reachable: none that reads, stores or fetches a
file.
"""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.responses import PlainTextResponse
from starlette.routing import Match, Mount

from openglm.serve import chats
from openglm.serve.page import Page, Run, stop
from openglm.serve.strings import SAMPLE, STARTERS, STRINGS

_ROUTES = re.compile(
    r"/|/config|/theme\.css|/robots\.txt|/favicon\.ico|/(?:static|assets|svelte)/[\w./-]+|/gradio_api/(?:queue/(?:join|data)|heartbeat/\w+|cancel|reset)"
)
_ROOT, _HERE = "http://here.invalid", b'(location.origin + location.pathname.replace(/\\/$/, ""))'
_FOLDER = Path(__file__).parent
_SCRIPT = (_FOLDER / "page.js").read_bytes()
_SAVE = """(text) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
  link.download = "chat.json"; link.click(); setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}"""
_OPEN = """(text, store, system, run) => new Promise((done) => {
  const input = document.createElement("input");
  input.type = "file"; input.accept = ".json"; input.id = "opened"; input.style.display = "none"; document.body.append(input);
  const end = (text) => { input.remove(); done([text, store, system, run]); };
  input.onchange = async () => end(await input.files[0].text());
  input.oncancel = () => end("");
  input.click();
})"""
_LATEX = [
    {"left": a, "right": b, "display": d}
    for a, b, d in (("$$", "$$", True), ("\\[", "\\]", True), ("\\(", "\\)", False))
]


_FILE_KEYS = frozenset({"path", "url", "meta"})


def layout(page: Page, words: gr.I18n) -> gr.Blocks:
    """The whole page."""
    with gr.Blocks(title="OpenGLM", analytics_enabled=False) as blocks:
        side = _side(page, words)
        model = gr.Markdown(page.model, elem_id="model")
        with gr.Tab(words("chat_tab"), id="chat"):
            middle = _middle(page, words)
        with gr.Tab(words("fill_tab"), id="fill"):
            _fill(page, words)
        _connect(page, blocks, side, middle)
        _keep(blocks, side)
        blocks.load(page.about, None, model, **_QUIET)
    return blocks.queue(default_concurrency_limit=None)


def _words() -> gr.I18n:
    languages = enumerate(("en", "zh-CN"))
    return gr.I18n(**{name: {key: texts[index] for key, texts in STRINGS.items()} for index, name in languages})


def _side(page: Page, words: gr.I18n) -> SimpleNamespace:
    """The panel with the list of conversations and the settings."""
    w, usual, half = words, page.service.assistant.sampling(), page.context // 2
    with gr.Sidebar(open=False):
        new = gr.Button(w("new"), variant="primary", elem_id="new")
        search = gr.Textbox(
            label=w("search"), placeholder=w("search"), show_label=False, container=False, elem_id="search"
        )
        picker = gr.Radio([], interactive=True, label=w("chats"), show_label=False, container=False, elem_id="picker")
        with gr.Accordion(w("settings"), open=False):
            system = gr.Textbox("", label=w("system"), lines=2, elem_id="system")
            tools = gr.Textbox("", label=w("tools"), lines=2, max_lines=6, elem_id="tools")
            temperature = gr.Slider(0, 2, usual["temperature"], step=0.05, label=w("temperature"))
            top_p = gr.Slider(0.05, 1, usual["top_p"], step=0.05, label=w("top_p"))
            tokens = gr.Slider(1, max(half, 2), min(256, half), step=1, label=w("tokens"))
            dark = gr.Button(w("dark"), elem_id="dark")
        with gr.Row():
            export = gr.Button(w("export"), elem_id="export", min_width=80)
            bring = gr.Button(w("import"), elem_id="import", min_width=80)
        delete = gr.Button(w("delete"), variant="stop", elem_id="delete")
        file = gr.Textbox(visible=False)
        relist = gr.Button(visible="hidden", elem_id="relist")
    return SimpleNamespace(
        new=new,
        search=search,
        picker=picker,
        system=system,
        knobs=[system, tools, temperature, top_p, tokens],
        dark=dark,
        export=export,
        bring=bring,
        delete=delete,
        file=file,
        relist=relist,
    )


def _middle(page: Page, words: gr.I18n) -> SimpleNamespace:
    """The conversation, the box below it, and what is kept of it."""
    w, rated = words, page.state.feedback is not None
    talk = gr.Chatbot(
        elem_id="talk",
        elem_classes="rated" if rated else None,
        label=w("talk"),
        show_label=False,
        container=False,
        buttons=["copy"],
        editable="all",
        latex_delimiters=_LATEX,
        allow_tags=False,
        allow_file_downloads=False,
        examples=[{"text": text} for text in STARTERS],
        feedback_options=("Like", "Dislike") if rated else None,
    )
    note = gr.Markdown("", elem_id="note")
    box = gr.Textbox(
        label=w("ask"),
        placeholder=w("ask"),
        show_label=False,
        container=False,
        submit_btn=True,
        max_lines=8,
        autofocus=True,
        elem_id="box",
        max_length=1 << 18,
    )
    with gr.Accordion(w("feedback"), open=False, visible=rated):
        gr.Markdown(w("feedback_text"))
        reason = gr.Textbox(
            label=w("reason"), placeholder=w("reason"), show_label=False, container=False, elem_id="reason"
        )
        kept = gr.JSON([], show_label=False)
        look = gr.Button(w("look"), elem_id="look")
    return SimpleNamespace(talk=talk, note=note, box=box, reason=reason, kept=kept, look=look)


def _fill(page: Page, words: gr.I18n) -> None:
    """A text with blanks, and what may stand in them."""
    text = gr.Textbox(SAMPLE, label=words("fill_label"), lines=3, elem_id="fill-text", max_length=1 << 16)
    go = gr.Button(words("fill"), variant="primary", elem_id="fill-go")
    gr.Markdown(words("filled"))
    out = gr.HTML("", elem_id="filled")
    gr.on([text.submit, go.click], page.fill, text, out, show_progress="minimal", api_visibility="private")


_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def _connect(page: Page, blocks: gr.Blocks, side: SimpleNamespace, middle: SimpleNamespace) -> None:
    """Let every part call its handler."""
    run, talk, box = gr.State(Run()), middle.talk, middle.box
    store = gr.JSON(visible="hidden", elem_id="store")  # the conversation that is shown
    shown = [talk, store, middle.note]
    # Encrypted by earlier versions of this page, with a secret that was none.
    old = gr.BrowserState(None, storage_key="openglm-chats", secret="openglm")
    blocks.load(page.open, [old, run], shown, js="(old, run) => [openglm.first(old), run]", **_QUIET)
    store.change(None, [store, side.search], side.picker, js="openglm.saved", **_QUIET)
    ask = "(text, store, ...rest) => [text, openglm.latest(store), ...rest]"
    box.submit(page.say, [box, store, run, *side.knobs], [box, *shown], js=ask, **_QUIET)
    box.stop(stop, run, None, **_QUIET)
    talk.example_select(page.start, [store, run, *side.knobs], [box, *shown], **_QUIET)
    talk.retry(page.retry, [store, run, *side.knobs], [box, *shown], **_QUIET)
    talk.undo(page.undo, store, [box, *shown], **_QUIET)
    talk.edit(page.edit, [store, run, *side.knobs], [box, *shown], **_QUIET)
    if page.state.feedback:
        talk.like(page.like, [store, side.system, middle.reason], [middle.reason, middle.kept], **_QUIET)
        middle.look.click(page.kept, store, middle.kept, **_QUIET)
    gr.on([talk.clear, side.new.click], page.open, [store, run], shown, js="(_, run) => [null, run]", **_QUIET)
    gr.on([side.search.change, side.relist.click], None, side.search, side.picker, js="openglm.found", **_QUIET)
    pick = "(_, run) => [openglm.opened(document.querySelector('#picker input:checked').value), run]"
    side.picker.input(page.open, [store, run], shown, js=pick, **_QUIET)
    side.delete.click(page.delete, [store, run], shown, js="(store, run) => [openglm.dropped(store), run]", **_QUIET)
    exported = side.export.click(
        lambda held, text: chats.exported(chats.checked(held), text), [store, side.system], side.file, **_QUIET
    )
    exported.then(None, side.file, None, js=_SAVE, **_QUIET)
    side.bring.click(page.bring, [side.file, store, side.system, run], [*shown, side.system], js=_OPEN, **_QUIET)


def _keep(blocks: gr.Blocks, side: SimpleNamespace) -> None:
    """Settings outlive the page."""
    blocks.load(None, side.knobs, side.knobs, js="openglm.settings.load", **_QUIET)
    gr.on([knob.change for knob in side.knobs], None, side.knobs, None, js="openglm.settings.save", **_QUIET)
    side.dark.click(None, None, None, js="() => openglm.dark()", **_QUIET)


def mount(app: FastAPI) -> None:
    """Put the page at `/`, behind all other routes."""
    page = Page(app)
    theme = gr.themes.Default(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )  # none that is fetched
    words = _words()
    gr.mount_gradio_app(
        app,
        layout(page, words),
        path="/",
        theme=theme,
        css=(_FOLDER / "page.css").read_text(encoding="utf-8"),
        i18n=words,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        root_path=_ROOT,
    )
    app.router.routes[-1] = _PageRoute("", app=_OnlyNeeded(app.router.routes[-1].app))


class _PageRoute(Mount):
    """Gradio behind a list of paths: what is not among them is for the other routes to answer, or to refuse."""

    def matches(self, scope: Any) -> Any:
        path, get = scope["path"], scope["method"] == "GET"
        ours = _ROUTES.fullmatch(path) and ".." not in path and "//" not in path
        wanted = get or (scope["method"] == "POST" and path.startswith("/gradio_api/"))
        return super().matches(scope) if ours and wanted else (Match.NONE, {})


class _OnlyNeeded:
    """Gradio without events that describe a file, which it would copy or fetch."""

    def __init__(self, gradio: Any) -> None:
        self.app = gradio

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "POST":
            message = await receive()  # the guard gives the whole body at once
            if _names_files(message["body"]):
                return await PlainTextResponse("this page takes no files", 400)(scope, receive, send)
            pending = [message]
            return await self.app(scope, lambda: _give(pending, receive), send)
        with contextlib.suppress(RuntimeError):  # Gradio's way to end a session that it does not know
            await self.app(scope, receive, _Placed(send) if scope["path"] == "/" else send)


class _Placed:
    """Sends the page on, once it is whole, with its own address in place of Gradio's guess, which a proxy makes wrong,
    and with page.js, which runs before Gradio does."""

    def __init__(self, send: Any) -> None:
        self.send, self.body = send, b""
        self.start: dict[str, Any] = {}

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.start = message
            return
        self.body += message.get("body", b"")
        if not message.get("more_body"):
            body = self.body.replace(_ROOT.encode().join((b'"', b'"')), _HERE)
            body = body.replace(b"</head>", b"<script>%b</script></head>" % _SCRIPT, 1)
            others = [pair for pair in self.start["headers"] if pair[0] != b"content-length"]
            await self.send({**self.start, "headers": [*others, (b"content-length", b"%d" % len(body))]})
            await self.send({"type": "http.response.body", "body": body})


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
