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

from openglm.serve.guard import resent
from openglm.serve.page import Page, Run, stop
from openglm.serve.schemas import layers
from openglm.serve.strings import SAMPLE, STARTERS, STRINGS

_ROUTES = re.compile(
    r"/|/config|/theme\.css|/robots\.txt|/favicon\.ico|/(?:static|assets|svelte)/[\w./-]+|/gradio_api/(?:queue/(?:join|data)|heartbeat/\w+|cancel|reset)"
)
_ROOT, _HERE = "http://here.invalid", b'(location.origin + location.pathname.replace(/\\/$/, ""))'
_FOLDER = Path(__file__).parent
_SCRIPT = b"".join([(_FOLDER / name).read_bytes() for name in ("page_sources.js", "page.js")])
_SAVE = """(text) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
  link.download = "chat.json"; link.click(); setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}"""
_OPEN = """(_, run) => new Promise((done) => {
  const input = document.createElement("input");
  input.type = "file"; input.accept = ".json"; input.id = "opened"; input.style.display = "none"; document.body.append(input);
  const end = (text) => { input.remove(); done([text, run]); };
  input.onchange = async () => end(await input.files[0].text());
  input.oncancel = () => end("");
  input.click();
})"""
_LATEX = [
    {"left": left, "right": right, "display": left != "\\("}
    for left, right in (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"))
]

# Seconds between two looks for work, and for progress, of which no handler tells. Left to itself, Gradio looks a
# thousand times a second, and takes Python's lock from the engine each time.
_LOOKS = 0.05, 1.0
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
        blocks.load(page.about, None, model, **_QUIET)
    blocks.queue(default_concurrency_limit=None)
    blocks._queue.sleep_when_free, blocks._queue.progress_update_sleep_when_free = _LOOKS
    return blocks


def _words() -> gr.I18n:
    languages = enumerate(("en", "zh-CN"))
    return gr.I18n(**{name: {key: texts[index] for key, texts in STRINGS.items()} for index, name in languages})


def _box(words: gr.I18n, text: str, name: str, **more: Any) -> gr.Textbox:
    """A box that says in itself what belongs into it."""
    label = words(text)
    return gr.Textbox(label=label, placeholder=label, show_label=False, container=False, elem_id=name, **more)


def _side(page: Page, words: gr.I18n) -> SimpleNamespace:
    """The panel with the list of conversations and the settings."""
    w, usual, half, side = words, page.service.assistant.sampling(), page.context // 2, SimpleNamespace()
    with gr.Sidebar(open=False):
        side.new = gr.Button(w("new"), variant="primary", elem_id="new")
        side.search = _box(w, "search", "search")
        side.picker = gr.Radio(
            [], interactive=True, label=w("chats"), show_label=False, container=False, elem_id="picker"
        )
        with gr.Accordion(w("settings"), open=False):
            side.knobs = [
                gr.Textbox("", label=w("system"), lines=2, elem_id="system"),
                gr.Textbox("", label=w("tools"), lines=2, max_lines=6, elem_id="tools"),
                gr.Slider(0, 2, usual["temperature"], step=0.05, label=w("temperature")),
                gr.Slider(0.05, 1, usual["top_p"], step=0.05, label=w("top_p")),
                gr.Slider(1, max(half, 2), min(256, half), step=1, label=w("tokens")),
            ]
            side.dark = gr.Button(w("dark"), elem_id="dark")
        with gr.Row():
            side.export = gr.Button(w("export"), elem_id="export", min_width=80)
            side.bring = gr.Button(w("import"), elem_id="import", min_width=80)
        side.delete = gr.Button(w("delete"), variant="stop", elem_id="delete")
        side.file = gr.Textbox(visible=False)
        side.relist = gr.Button(visible="hidden", elem_id="relist")
    side.system = side.knobs[0]
    return side


def _middle(page: Page, words: gr.I18n) -> SimpleNamespace:
    """The conversation, the box below it, and what is kept of it."""
    w, rated, middle = words, page.state.feedback is not None, SimpleNamespace()
    with_sources = page.service.assistant.web is not None
    middle.talk = gr.Chatbot(
        elem_id="talk",
        elem_classes=["rated"] * rated + ["sourced"] * with_sources,
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
    middle.note = gr.Markdown("", elem_id="note")
    middle.web = gr.Checkbox(False, label=w("web"), visible=with_sources, container=False, elem_id="web")
    middle.box = _box(w, "ask", "box", submit_btn=True, max_lines=8, autofocus=True, max_length=1 << 18)
    with gr.Accordion(w("feedback"), open=False, visible=rated):
        gr.Markdown(w("feedback_text"))
        middle.reason = _box(w, "reason", "reason")
        middle.kept = gr.JSON([], show_label=False)
        middle.look = gr.Button(w("look"), elem_id="look")
    return middle


_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def _fill(page: Page, words: gr.I18n) -> None:
    """A text with blanks, and what may stand in them."""
    text = gr.Textbox(SAMPLE, label=words("fill_label"), lines=3, elem_id="fill-text", max_length=1 << 16)
    go = gr.Button(words("fill"), variant="primary", elem_id="fill-go")
    gr.Markdown(words("filled"))
    out = gr.HTML("", elem_id="filled")
    shown: dict[str, Any] = {**_QUIET, "show_progress": "minimal", "trigger_mode": "always_last"}
    gr.on([text.submit, go.click], page.fill, text, out, **shown)


def _connect(page: Page, blocks: gr.Blocks, side: SimpleNamespace, middle: SimpleNamespace) -> None:
    """Let every part call its handler."""
    run, talk, box, knobs = gr.State(Run()), middle.talk, middle.box, [*side.knobs, middle.web]
    chat = gr.JSON(visible="hidden", elem_id="store")  # the conversation that is shown
    shown, settings = [talk, chat, middle.note], [chat, run, *knobs]
    # Encrypted by earlier versions of this page, with a secret that was none.
    old = gr.BrowserState(None, storage_key="openglm-chats", secret="openglm")
    blocks.load(page.begin, [old, run], shown, js="(old, run) => [openglm.first(old), run]", **_QUIET)
    chat.change(None, [chat, side.search], side.picker, js="openglm.saved", **_QUIET)
    gr.on([knob.change for knob in knobs], None, knobs, None, js="openglm.set", **_QUIET)
    side.dark.click(None, None, None, js="() => openglm.dark()", **_QUIET)
    box.submit(page.say, [box, *settings], [box, *shown], js="openglm.ask", **_QUIET)
    box.stop(stop, run, None, **_QUIET)
    for happens, handler in ((talk.example_select, page.start), (talk.retry, page.retry), (talk.edit, page.edit)):
        happens(handler, settings, [box, *shown], **_QUIET)
    talk.undo(page.undo, chat, [box, *shown], **_QUIET)
    if page.state.feedback:
        talk.like(page.like, [chat, side.system, middle.reason], [middle.reason, middle.kept], **_QUIET)
        middle.look.click(page.kept, chat, middle.kept, **_QUIET)
    gr.on([talk.clear, side.new.click], page.open, [chat, run], shown, js="(_, run) => [null, run]", **_QUIET)
    gr.on([side.search.change, side.relist.click], None, side.search, side.picker, js="openglm.found", **_QUIET)
    pick = "(_, run) => [openglm.opened(document.querySelector('#picker input:checked').value), run]"
    side.picker.input(page.open, [chat, run], shown, js=pick, trigger_mode="always_last", **_QUIET)
    side.delete.click(page.delete, [chat, run], shown, js="(chat, run) => [openglm.dropped(chat), run]", **_QUIET)
    exported = side.export.click(page.export, [chat, side.system], side.file, **_QUIET)
    exported.then(None, side.file, None, js=_SAVE, **_QUIET)
    side.bring.click(page.bring, [side.file, run], [*shown, side.system], js=_OPEN, **_QUIET)


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
            return await self.app(scope, resent(message, receive), send)
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


def _names_files(body: bytes) -> bool:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return True
    return any(not _FILE_KEYS.isdisjoint(one) for layer in layers(value) for one in layer if isinstance(one, dict))
