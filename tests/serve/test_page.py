"""The page as a user has it, in real Chromium; and what a browser that lies can do: nothing."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from helpers.live import Held, slowed, talkative
from helpers.processes import until
from hypothesis import given
from hypothesis import strategies as st

from openglm.serve import chats
from openglm.serve.display import original, shown, talk
from openglm.serve.feedback import Feedback
from openglm.tools import turn

LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAME = "0" * 32
ROLES, TEXTS = st.sampled_from(["user", "assistant", "tool"]), st.text(max_size=8)
CALLS = st.tuples(st.sampled_from(["f", "get.time"]), st.sampled_from(["{}", '{"a": [1, "x"]}', "[]", "{"])).map(list)
EXTRAS = {
    "call": JSON | CALLS,
    "sources": JSON | st.lists(st.fixed_dictionaries({"index": st.integers(0, 3), "title": TEXTS | JSON})),
    "problems": JSON | st.lists(TEXTS),
    "sampling": JSON | st.fixed_dictionaries({"top_p": LEAVES | st.floats()}),
}
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLES | JSON, "content": TEXTS | JSON}, optional=EXTRAS))


@given(JSON | st.fixed_dictionaries({"id": st.just(NAME) | JSON, "messages": JSON | MESSAGES}))
def test_any_chat_becomes_a_sound_one(chat):
    sound = chats.checked(chat)
    assert chats.checked(sound) == sound
    messages = sound["messages"]
    assert all(
        m.keys() <= {"role", "content", *EXTRAS}
        and m["role"] in ("user", "assistant", "tool")
        and isinstance(m["content"], str)
        for m in messages
    )
    json.dumps(talk(sound), allow_nan=False)
    for message in chats.for_model(messages):
        call = message.get("tool_calls", [{"function": {"name": "f", "arguments": {}}}])[0]["function"]
        assert isinstance(call["arguments"], dict) and isinstance(call["name"], str)


SOURCES = st.lists(
    st.fixed_dictionaries({"index": st.integers(1, 9), "title": TEXTS, "address": TEXTS, "quote": TEXTS}), max_size=3
)


@given(
    st.lists(st.fixed_dictionaries({"role": ROLES, "content": TEXTS}, optional={"call": CALLS, "sources": SOURCES})),
    TEXTS,
)
def test_an_exported_chat_comes_back_whole(messages, system):
    chat = chats.checked({"id": NAME, "messages": messages})
    assert chats.imported(chats.exported(chat, system)) == (chat["messages"], system)


@given(
    JSON.map(json.dumps)
    | st.fixed_dictionaries({"messages": JSON | st.lists(JSON), "system": JSON}).map(json.dumps)
    | st.text()
)
def test_any_file_gives_sound_messages_or_none(text):
    messages, system = chats.imported(text)
    assert chats.checked({"id": NAME, "messages": messages})["messages"] == messages and isinstance(system, str)


def test_long_lines_of_marks_are_read_in_linear_time():
    """These would take hours where a mark is tried at every length."""
    for text in (
        "`" * 200_000,
        "~" * 200_000,
        "```\n" * 50_000,
        "`a" * 100_000,
        "](https://x" * 50_000,
        "$a" * 100_000,
        "__a" * 70_000,
    ):
        assert original(shown(text)) == text


@given(st.text(alphabet="<>![]():`~$|\\ \na/*_&#5", max_size=60))
def test_a_shown_text_can_be_turned_back(text):
    assert original(shown(text)) == text


def test_markup_is_broken_and_code_and_web_links_are_not():
    for kept in (
        "`a<b>`",
        "```html\n<img src=x>\n```",
        "[x](https://a.test/b?c=d#e)",
        "**bold** *it* ~~gone~~ $$ab$$",
    ):
        assert shown(kept) == kept
    images = ("<img>", "![x](http://a)", "``` `\n<b>")
    for text in (
        *images,
        "[x](javascript:a)",
        "[x](&#106;avascript:a)",
        "[x]: javascript:a",
        "[x][y]",
        "| `a | <b>` |",
        "[x](http://a onerror)",
        "\\`<b>`",
        "~~~\n~~~\n<b>",
    ):
        assert shown(text) != text


@pytest.fixture(scope="module")
def canary():
    """A server that nobody should ever ask."""
    hits = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", hits
    server.shutdown()


@pytest.fixture(scope="module")
def paged(another, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "f.db"
    server = another(page=True, feedback=True, feedback_url=f"sqlite:///{file}")
    server.file = file
    talkative(server)
    return server


def test_only_the_routes_that_the_page_needs_are_there(paged):
    gone = ("component_server", "deep_link")
    for path in (
        *gone,
        "file=/etc/passwd",
        "file/etc/passwd",
        "proxy=http://127.0.0.1:1/",
        "upload",
        "upload_progress",
        "stream/x/y/z",
        "info",
        "call/say",
    ):
        for method in ("GET", "POST"):
            assert paged.client.request(
                method, f"/gradio_api/{path}", headers={"Content-Type": "application/json"}
            ).status_code in (404, 405), path
    for path in (
        "/login",
        "/monitoring",
        "/monitoring/summary",
        "/static/../../../../etc/passwd",
        "/assets/..%2f..%2f..%2fetc%2fpasswd",
        "/static//etc/passwd",
    ):
        assert paged.client.get(path).status_code in (404, 405), path


def test_files_and_addresses_in_events_are_neither_read_nor_fetched(paged, canary, tmp_path):
    """Every event of the page, every input a file's description: it is refused, no copy appears, and nobody is asked."""
    from gradio.utils import get_upload_folder

    address, hits = canary
    secret = tmp_path / "secret-of-the-page.txt"
    secret.write_text("the-secret-text", encoding="utf-8")
    config = paged.client.get("/config").json()
    for number, event in enumerate(config["dependencies"]):
        for lure in (
            {"path": str(secret), "meta": {"_type": "gradio.FileData"}},
            {"path": f"{address}/x", "url": f"{address}/y", "meta": {"_type": "gradio.FileData"}},
        ):
            body = {
                "data": [lure for _ in event["inputs"]],
                "fn_index": event["id"],
                "session_hash": f"s{number}",
                "event_data": {"index": 0, "value": lure, "liked": True},
            }
            assert paged.client.post("/gradio_api/queue/join", json=body).status_code == 400
    assert not hits and paged.client.get("/health").status_code == 200
    assert not list(Path(get_upload_folder()).rglob("secret-of-the-page*"))


def test_a_page_that_nobody_uses_lets_the_engine_work(paged):
    """Each time that the event loop wakes up takes Python's lock from the engine; 50 are more than enough."""
    status = Path(f"/proc/self/task/{paged.thread.native_id}/status")
    if not status.exists():
        pytest.skip("no /proc here")
    waits = lambda: int(status.read_text().partition("voluntary_ctxt_switches:")[2].split()[0])  # noqa: E731
    before = waits()
    time.sleep(1)
    assert waits() - before < 50


def opened(browser, server, **options):
    page = browser.new_context(**{"viewport": {"width": 1000, "height": 720}, "locale": "en-US", **options}).new_page()
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(server.url)
    page.wait_for_selector("#box textarea")
    page.wait_for_timeout(500)
    return page


def ask(page, text):
    page.fill("#box textarea", text)
    page.keyboard.press("Enter")


def bots(page):
    return page.locator("#talk .bot.message")


def test_a_user_chats_stops_retries_rates_and_finds_it_all_again(browser, paged):
    page, engine = opened(browser, paged), paged.service.assistant.engine
    step = engine.step
    slowed(paged, 0.15)
    ask(page, "床前明月光")
    seen = set()
    bots(page).first.wait_for()
    until(lambda: seen.add(bots(page).first.inner_text()) or len(seen) > 2, 40)

    page.click("#box .stop-button, #box button[aria-label*=top]")
    until(lambda: not engine.busy, 40)
    engine.step = step
    page.wait_for_selector("#box .submit-button")
    stopped = bots(page).first.inner_text()
    page.click("#talk button[aria-label='Retry'], #talk button[title='Retry']")
    store = Feedback(f"sqlite:///{paged.file}")
    until(lambda: [row["kind"] for row in store] == ["retry"], 40)
    page.click("#talk button[aria-label='Like'], #talk button[title='Like'], #talk button[aria-label='like']")
    until(lambda: [row["kind"] for row in store] == ["retry", "up"], 40)
    first, second = store
    assert first["answer"].split() == stopped.split() and first["messages"] == second["messages"] == [
        {"role": "user", "content": "床前明月光"}
    ]
    assert second["answer"] == first["better"]
    page.reload()
    bots(page).first.wait_for()
    page.click(".sidebar .toggle-button")
    page.fill("#search textarea, #search input", "明月")
    page.wait_for_selector("#picker label:has-text('床前明月光')")
    page.fill("#search textarea, #search input", "nothing like it")
    page.wait_for_selector("#picker label", state="detached")
    page.click("#delete")
    until(lambda: not list(store), 40)
    assert all(url.startswith((paged.url, "data:", "blob:")) for url in page.asked), page.asked


def test_markup_in_a_text_is_text_and_asks_nobody(browser, paged, canary):
    address, hits = canary
    page = opened(browser, paged)
    page.on("dialog", lambda dialog: hits.append("dialog"))
    ask(
        page,
        f"<img src={address}/a onerror=alert(1)><script>alert(2)</script> ![x]({address}/b) <svg onload=alert(3)> [y](javascript:alert(4)) <iframe src={address}/c></iframe>",
    )
    page.locator("#talk .user.message").first.wait_for()
    page.wait_for_selector("#box .submit-button")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")  # all is drawn
    assert not any(url.startswith(address) for url in page.asked), page.asked
    assert not hits and "onerror=alert(1)" in page.inner_text("#talk .user.message")
    assert (
        page.locator("#talk script, #talk iframe, #talk [onerror], #talk [onload], #talk a[href^='javascript']").count()
        == 0
    )


def test_the_interface_is_described_on_a_page_of_its_own(browser, paged):
    page = browser.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{paged.url}/docs")
    page.click("summary:has-text('POST /v1/chat/completions')")
    row = page.locator("details[open] tr:has-text('temperature')").first
    assert (
        "≥ 0" in row.inner_text()
        and "≤ 2" in row.inner_text()
        and page.locator("details[open] tr:has-text('messages *')").count() == 1
    )
    assert all(url.startswith(paged.url) for url in asked) and page.evaluate(
        "document.documentElement.scrollWidth <= innerWidth"
    )


def test_a_phone_has_all_of_it_on_its_screen(browser, paged):
    page = opened(
        browser, paged, viewport={"width": 360, "height": 640}, locale="zh-CN", has_touch=True, is_mobile=True
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.wait_for_selector("#model:has-text('tokens/s')", timeout=60_000)
    for part in (page.locator("#box textarea"), page.locator(".label-wrap:has-text('反馈')")):
        box = part.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360 and box["y"] + box["height"] <= 640
    assert page.get_attribute("#box textarea", "placeholder") == "说点什么"


def test_a_closed_page_frees_its_place(browser, paged):
    engine = paged.service.assistant.engine
    step = engine.step
    slowed(paged, 0.3)
    page = opened(browser, paged)
    ask(page, "The cat sat on the mat")
    until(lambda: engine.busy, 40)
    page.context.close()
    until(lambda: not engine.busy, 40)
    engine.step = step


TIME = {
    "type": "function",
    "function": {"name": "get_time", "description": "the time", "parameters": {"type": "object"}},
}


def test_a_call_is_a_step_whose_result_the_user_writes(browser, paged, monkeypatch):
    page, assistant = opened(browser, paged), paged.service.assistant
    call = {
        "type": "function",
        "function": {"name": "get_time", "arguments": {"path": "<img src=x onerror=alert(1)>", "url": "x"}},
    }
    answers, parsed = iter([[call], []]), turn.parse_reply
    monkeypatch.setattr(turn, "parse_reply", lambda *of: {**parsed(*of), "tool_calls": next(answers)})
    whole, seen = assistant.chat_prompt, []

    def short(messages, tools, **more):  # the tools do not fit this model
        seen.append((list(messages), tools))
        return whole([{"role": "user", "content": "hi"}], **more)

    monkeypatch.setattr(assistant, "chat_prompt", short)
    page.click(".sidebar .toggle-button")
    page.click(".sidebar .label-wrap")
    page.fill("#tools textarea", json.dumps([TIME]))
    page.fill("#system textarea", "short")
    page.keyboard.press("Tab")
    page.click(".sidebar .toggle-button")
    ask(page, "你好")
    page.wait_for_selector("#talk:has-text('↪ get_time')")
    page.wait_for_selector("#note:has-text('tool')")
    assert "<img src=x onerror=alert(1)>" in page.inner_text("#talk") and not page.locator("#talk [onerror]").count()
    ask(page, "12:00")
    page.wait_for_selector("#talk:has-text('↩ get_time')")
    until(lambda: not paged.service.assistant.engine.busy and page.locator("#box .submit-button").count(), 40)
    page.locator(
        "#talk button[aria-label='Like'], #talk button[title='Like'], #talk button[aria-label='like']"
    ).last.click()
    store = Feedback(f"sqlite:///{paged.file}")
    until(lambda: list(store), 40)
    (row,) = store
    assert seen[1] == (row["messages"], [TIME])
    assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant", "tool"] and row["messages"][2][
        "tool_calls"
    ] == [call]
    assert row["messages"][3]["content"] == "12:00" and row["sampling"]["temperature"] == 0.5
    store.forget(row["conversation"])


def test_a_saved_chat_is_imported_with_its_sources_and_goes_on(browser, paged, tmp_path, canary):
    address, hits = canary
    page, file = opened(browser, paged), tmp_path / "chat.json"
    bad = {"index": 2, "title": "bad", "url": f"javascript:fetch('{address}')", "quote": ""}
    cited = [
        {"index": 1, "title": "月亮 ](javascript:alert(1))", "url": "https://moon.test/a", "quote": "<b>bright</b>"},
        bad,
    ]
    messages = [{"role": "user", "content": "月亮"}, {"role": "assistant", "content": "明月 [1]", "citations": cited}]
    file.write_text(json.dumps({"system": "short", "messages": messages}), encoding="utf-8")
    page.click(".sidebar .toggle-button")
    with page.expect_file_chooser() as chooser:
        page.click("#import")
    chooser.value.set_files(file)
    page.wait_for_selector("#talk a[href='https://moon.test/a']")
    assert (
        "<b>bright</b>" in original(page.inner_text("#talk"))
        and not page.locator("#talk a[href^='javascript']").count()
    )
    with page.expect_download() as saved:
        page.click("#export")
    assert json.loads(Path(saved.value.path()).read_text(encoding="utf-8")) == {"system": "short", "messages": messages}
    file.write_text("nonsense", encoding="utf-8")
    with page.expect_file_chooser() as chooser:
        page.click("#import")
    chooser.value.set_files(file)
    page.wait_for_selector("#note:has-text('no chat')")
    assert not hits and all(url.startswith((paged.url, "data:", "blob:")) for url in page.asked), page.asked


def test_what_one_session_sends_changes_nothing_in_anothers(browser, paged, monkeypatch):
    monkeypatch.setattr("openglm.engine.engine._AHEAD", 1)  # a token a step, so that the answer lasts
    page, engine = opened(browser, paged), paged.service.assistant.engine
    held, made = Held(paged), []
    step = held.step
    held.step = lambda: (step(), made.append(1))[0]
    ask(page, "The dog ran")
    held.allow()
    until(lambda: len(engine.scheduler.running) == 1, 40)
    [answered] = engine.scheduler.running
    for event in paged.client.get("/config").json()["dependencies"]:
        body = {
            "data": [None for _ in event["inputs"]],
            "fn_index": event["id"],
            "session_hash": "another",
            "event_data": {"index": 0},
        }
        paged.client.post("/gradio_api/queue/join", json=body)
    paged.client.post("/gradio_api/cancel", json={"session_hash": "another", "fn_index": 1, "event_id": "x"})
    held.allow(6)
    until(lambda: len(made) > 5, 40)  # steps that nobody's word kept from being made
    assert answered in engine.scheduler.running
    held.let_go()
    page.context.close()
    until(lambda: not engine.busy, 40)
    engine.step = step


def test_the_page_behind_a_proxy_that_changes_the_name(browser, paged):
    """As nginx does by default: the server sees another Host than the browser; without any option the page still answers."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            head = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection", "accept-encoding")}  # fmt: skip
            with httpx.stream(self.command, paged.url + self.path, headers=head, content=body, timeout=60) as answer:
                self.send_response(answer.status_code)
                for name, value in answer.headers.items():
                    if name not in ("transfer-encoding", "content-length", "content-encoding"):
                        self.send_header(name, value)
                self.end_headers()
                for piece in answer.iter_bytes():
                    self.wfile.write(piece)
                    self.wfile.flush()

        do_POST = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        page = opened(browser, SimpleNamespace(url=f"http://127.0.0.1:{proxy.server_address[1]}/"))
        ask(page, "你好")
        bots(page).first.wait_for(timeout=20_000)
        page.close()
        proxy.shutdown()
