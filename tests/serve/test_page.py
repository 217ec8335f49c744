"""The page as a user has it, in real Chromium; and what a browser that lies can do: nothing."""

import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_life import slowed, until

from openglm.serve import chats
from openglm.serve.display import original, shown
from openglm.serve.feedback import Feedback

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=8)
NAME = "0" * 32
CHATS = st.dictionaries(st.just(NAME) | st.text(max_size=40), JSON | st.lists(st.fixed_dictionaries({"role": JSON, "content": JSON})))


@given(JSON | st.fixed_dictionaries({"now": JSON, "all": JSON | CHATS}))
def test_any_store_becomes_a_sound_one(store):
    sound = chats.checked(store)
    assert chats.checked(sound) == sound and isinstance(chats.current(sound), list)
    for messages in sound["all"].values():
        assert all(m.keys() == {"role", "content"} and m["role"] in ("user", "assistant") and isinstance(m["content"], str) for m in messages)


def test_conversations_are_kept_searched_and_deleted():
    store = chats.with_current(chats.checked(None), [{"role": "user", "content": "明月 moon\n" + "x" * 50}])
    first = store["now"]
    store = chats.with_current(chats.started(store), [{"role": "user", "content": "Moon landing"}])
    assert [name for _, name in chats.found(store, "")] == [store["now"], first] and [name for _, name in chats.found(store, "moon 明")] == [first]
    assert chats.title(store["all"][first]) == "明月 moon " + "x" * 32 + "…" and len(chats.started(chats.started(store))["all"]) == 3
    assert first not in chats.without(store, first)["all"]


@given(st.text(alphabet="<>![]():`~$|\\ \na/", max_size=60))
def test_a_shown_text_can_be_turned_back(text):
    assert original(shown(text)) == text


def test_markup_is_broken_and_code_and_web_links_are_not():
    for kept in ("`a<b>`", "```html\n<img src=x>\n```", "[x](https://a.test/b?c=d#e)", "**bold** $a<b$".replace("<", "")):
        assert shown(kept) == kept
    images = ("<img>", "![x](http://a)")
    for text in (*images, "[x](javascript:a)", "[x](&#106;avascript:a)", "[x]: javascript:a", "[x][y]", "| `a | <b>` |", "[x](http://a onerror)", "\\`<b>`", "~~~\n~~~\n<b>"):
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
    return server


def test_only_the_routes_that_the_page_needs_are_there(paged):
    gone = ("component_server", "deep_link")
    for path in (*gone, "file=/etc/passwd", "file/etc/passwd", "proxy=http://127.0.0.1:1/", "upload", "upload_progress", "stream/x/y/z", "info", "call/say"):
        for method in ("GET", "POST"):
            assert paged.client.request(method, f"/gradio_api/{path}", headers={"Content-Type": "application/json"}).status_code in (404, 405), path
    for path in ("/login", "/monitoring", "/monitoring/summary", "/static/../../../../etc/passwd", "/assets/..%2f..%2f..%2fetc%2fpasswd", "/static//etc/passwd"):
        assert paged.client.get(path).status_code in (404, 405), path


def test_files_and_addresses_in_events_are_neither_read_nor_fetched(paged, canary, tmp_path):
    """Every event of the page, every input a file's description: it is refused, no copy appears, and nobody is asked."""
    from gradio.utils import get_upload_folder

    address, hits = canary
    secret = tmp_path / "secret-of-the-page.txt"
    secret.write_text("the-secret-text", encoding="utf-8")
    config = paged.client.get("/config").json()
    for number, event in enumerate(config["dependencies"]):
        for lure in ({"path": str(secret), "meta": {"_type": "gradio.FileData"}}, {"path": f"{address}/x", "url": f"{address}/y", "meta": {"_type": "gradio.FileData"}}):
            body = {"data": [lure for _ in event["inputs"]], "fn_index": event["id"], "session_hash": f"s{number}", "event_data": {"index": 0, "value": lure, "liked": True}}
            assert paged.client.post("/gradio_api/queue/join", json=body).status_code == 400
    assert not hits and paged.client.get("/health").status_code == 200
    assert not list(Path(get_upload_folder()).rglob("secret-of-the-page*"))


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("no Chromium here")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    with sync_api.sync_playwright() as play:
        yield play.chromium.launch(executable_path=CHROMIUM, args=quiet)


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
    assert first["answer"].split() == stopped.split() and first["messages"] == second["messages"] == [{"role": "user", "content": "床前明月光"}]
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
    ask(page, f"<img src={address}/a onerror=alert(1)><script>alert(2)</script> ![x]({address}/b) <svg onload=alert(3)> [y](javascript:alert(4)) <iframe src={address}/c></iframe>")
    page.locator("#talk .user.message").first.wait_for()
    page.wait_for_selector("#box .submit-button")
    page.wait_for_timeout(500)
    assert not hits and "onerror=alert(1)" in page.inner_text("#talk .user.message")
    assert page.locator("#talk script, #talk iframe, #talk [onerror], #talk [onload], #talk a[href^='javascript']").count() == 0


def test_a_phone_has_all_of_it_on_its_screen(browser, paged):
    page = opened(browser, paged, viewport={"width": 360, "height": 640}, locale="zh-CN", has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    box = page.locator("#box textarea").bounding_box()
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
