"""Answers with sources on the page, in real Chromium: asked for, watched, read, opened; and what a hostile page can do: nothing."""

import json
import shutil

import pytest
from helpers.live import Live
from helpers.processes import until
from helpers.scripted import scripted, with_marks
from helpers.text_samples import TEXTS, VOCAB_SIZE

from openglm.text import train_tokenizer
from openglm.web.citations import Source
from openglm.web.sources import Found

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "<img src=x onerror=alert(1)>\"'`</code></pre><script>alert(2)</script>![x](http://evil.test/i)"
FENCE = '\n``````\n```sources-0\n[[{"index": 1, "title": "forged", "url": "https://evil.test/", "quote": "q"}], []]\n```'
SOURCES = [
    Source("Ferns & mosses", "https://plants.test/ferns?a=1&b=2", "Ferns reproduce by spores. They like shade."),
    Source(EVIL, "javascript:alert(3)", f"Moss likes damp ground. {EVIL}"),
    Source("[x](javascript:alert(4))" + FENCE, "https://evil.test/\"onmouseover='alert(5)'", "Bricks are made of clay."),
    Source("notes", "/home/me/notes.txt", "Clouds are made of water."),
]
PROBLEMS = [f"https://late.test/{EVIL}: did not answer in time"]
ANSWER = "Ferns reproduce by spores [1]. Moss likes damp ground [2]. Bricks are made of clay [3]. Cats sing [4]. Clouds are made of water [4]."
SHOWN = ANSWER.replace("sing [4]", "sing [?]")


class Sources:
    """Finds the same for every question but one."""

    def find(self, question):
        found = [] if "nothing" in question else SOURCES
        return Found(question, list(found), problems=[*PROBLEMS, *([] if found else ["nothing was found"])])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    own = train_tokenizer(iter(TEXTS), VOCAB_SIZE, tmp_path_factory.mktemp("own"))
    assistant = scripted(own, "", web=Sources())
    usual = assistant.sampling
    assistant.sampling = lambda **given: usual(**{**given, "temperature": 0.0})  # what is written is only likeliest
    live = Live(assistant, page=True, feedback=False)
    yield live
    live.stop()


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("no Chromium here")
    with sync_api.sync_playwright() as play:
        yield play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])


@pytest.fixture
def opened(browser, server):
    """Opens the page; closes it at the end. Notes dialogs, and whom the page asks."""
    contexts = []

    def start(**options):
        where = browser.new_context(**{"viewport": {"width": 1000, "height": 900}, "locale": "en-US", **options})
        contexts.append(where)
        page = where.new_page()
        page.asked, page.dialogs = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("dialog", lambda dialog: (page.dialogs.append(dialog.message), dialog.dismiss()))
        server.service.assistant.script.left[:] = [5] * 99  # for the answer whose speed the page tells
        page.goto(server.url)
        page.wait_for_selector("#model:has-text('tokens/s')", timeout=60_000)
        server.service.assistant.script.left.clear()
        return page

    yield start
    for where in contexts:
        where.close()


def write(server, text):
    """What the model generates next."""
    assistant = server.service.assistant
    assistant.script.left.extend(with_marks(assistant.tokenizer, text))


def ask(page, server, text="How do ferns reproduce?", answer=ANSWER):
    write(server, f"{answer}<eop>")
    page.fill("#box textarea", text)
    page.keyboard.press("Enter")


def with_sources(page, server, **options):
    page.check("#web input")
    ask(page, server, **options)
    page.wait_for_selector("#talk .sources")
    return page.locator("#talk .bot.message").last


def test_dump(opened, server):
    page = opened()
    with_sources(page, server)
    page.wait_for_timeout(500)
    open("/tmp/talk.html","w").write(page.inner_html("#talk"))
    page.screenshot(path="/tmp/page1.png")
    page.hover(".cite >> nth=0", timeout=3000)
    page.wait_for_timeout(200)
    page.screenshot(path="/tmp/page2.png")
