"""All pictures of the page in docs/server.md, in one go, from the server as users start it and real Chromium:

    python benchmarks/page_pictures.py [--model nano] [--out docs/images]

It needs `pip install 'openglm[serve,web,test]'` and Chromium. The sources are a small site on this machine. Answers
are the model's, and printed: questions about the sources are asked up to five times, until one is answered with a
citation. The first view, a chat, Fill, dark, a phone, an answer with sources.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from live_server import live_server
from playwright.sync_api import Browser, Page, sync_playwright

from openglm.cli.main import main as glm

ROOT = Path(__file__).parent.parent
CHAT = "Tell me a short story.", "What is the capital of France?"
POEM = "写一首关于月亮的诗"
SOURCES = "How do ferns reproduce?", "Where does moss grow?", "What do orchids live on?"
SITE = {
    "ferns": "Ferns reproduce by spores, which form on the underside of their leaves. They have neither flowers nor "
    "seeds. Most ferns grow in shady and damp places. Young leaves are rolled up and are called fiddleheads.",
    "moss": "Moss grows on damp ground, on stones and on the bark of trees. It has no roots and takes up water through "
    "its leaves. Peat moss can hold twenty times its own weight of water.",
    "orchids": "Many orchids live on the branches of trees in warm forests. Their seeds are as fine as dust and need a "
    "fungus to grow. The vanilla of our kitchens is the fruit of an orchid.",
}
WIDE, PHONE = {"width": 1000, "height": 680}, {"width": 360, "height": 640}
TRIES = 5
PATIENCE = 600_000  # milliseconds, for a busy machine


class Site(BaseHTTPRequestHandler):
    """Pages to be indexed."""

    def do_GET(self) -> None:
        name = self.path.strip("/")
        self.send_response(200 if name in SITE else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        title, text = name.capitalize(), SITE.get(name, "")
        body = f"<article><h1>{title}</h1><p>{text}</p></article>"
        self.wfile.write(f"<html><head><title>{title}</title></head><body>{body}</body></html>".encode())

    def log_message(self, *_: object) -> None:
        pass


def opened(browser: Browser, port: int, **options: object) -> Page:
    page = browser.new_context(**{"viewport": WIDE, "locale": "en-US", **options}).new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"http://127.0.0.1:{port}")
    page.wait_for_selector("#model:has-text('tokens/s')")
    return page


def ask(page: Page, question: str) -> str:
    """The answer, once it is whole."""
    asked = page.locator("#talk .user.message").count()
    page.fill("#box textarea", question)
    page.keyboard.press("Enter")
    page.locator("#talk .user.message").nth(asked).wait_for()
    page.wait_for_selector("#box .submit-button")
    page.wait_for_timeout(500)
    return page.locator("#talk .bot.message").last.inner_text()


def with_sources(browser: Browser, port: int) -> Page:
    """An answer that cites something, with the passage of its first mark; the last one tried, where none does."""
    for question in SOURCES * TRIES:
        page = opened(browser, port)
        page.check("#web input")
        said = ask(page, question)
        print(f"sources: {question!r}: {said!r}")
        if page.locator("#talk .cite[aria-describedby]").count():
            page.locator("#talk .cite[aria-describedby]").first.hover()
            page.wait_for_selector("#openglm-card:visible")
            break
    return page


def take(browser: Browser, port: int, out: Path) -> None:
    page = opened(browser, port)
    page.screenshot(path=out / "page.png")
    for question in CHAT:
        print(f"chat: {question!r}: {ask(page, question)!r}")
    page.screenshot(path=out / "page_chat.png")
    page.click("button[role=tab]:has-text('Fill')")
    page.click("#fill-go")
    page.wait_for_selector("#filled table")
    page.wait_for_timeout(500)
    page.screenshot(path=out / "page_fill.png")

    page = opened(browser, port, color_scheme="dark", locale="zh-CN")
    print(f"dark: {POEM!r}: {ask(page, POEM)!r}")
    page.screenshot(path=out / "page_dark.png")

    page = opened(browser, port, viewport=PHONE, device_scale_factor=2, locale="zh-CN", has_touch=True, is_mobile=True)
    print(f"phone: {POEM!r}: {ask(page, POEM)!r}")
    page.screenshot(path=out / "page_phone.png")

    with_sources(browser, port).screenshot(path=out / "page_sources.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder:
        index = f"{folder}/index"
        with ThreadingHTTPServer(("127.0.0.1", 0), Site) as site:
            threading.Thread(target=site.serve_forever, daemon=True).start()
            host = f"127.0.0.1:{site.server_port}"
            places = [f"http://{host}/{name}" for name in SITE]
            assert glm(["index", *places, "--out", index, "--web.allow", host, "--web.seconds", "300"]) == 0, (
                "no index was made"
            )
            site.shutdown()
        with live_server(options.model, "--web", index) as (port, _), sync_playwright() as play:
            browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            take(browser, port, options.out)


if __name__ == "__main__":
    main()
