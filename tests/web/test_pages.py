"""Pages of a site that behaves badly, and search engines that answer badly: all done by the deadline, nothing private."""

import asyncio
import json
import signal
import threading
import time
from pathlib import Path

import pytest
from helpers.processes import until
from helpers.site import Site, heavy_pdf

from openglm.web.apart import shared_reader
from openglm.web.building import build
from openglm.web.config import WebConfig
from openglm.web.documents import Document
from openglm.web.index import Index
from openglm.web.pages import Gone, Pages
from openglm.web.search import search
from openglm.web.sources import Web

MOSS = "<html><head><title>Moss</title></head><body><p>Moss grows on damp ground and has no roots.</p></body></html>"
HTML = "text/html"


@pytest.fixture(scope="module")
def site():
    site = Site(
        {
            "/moss": (MOSS, HTML),
            "/gb": ("<p>床前明月光，疑是地上霜。</p>".encode("gb18030"), "text/html; charset=utf-8"),
            "/secret/plan": ("<p>Keep out of here.</p>", HTML),
            "/robots.txt": ("User-agent: *\nDisallow: /secret/\n", "text/plain"),
            "/photo": (b"\x89PNG", "image/png"),
        }
    )
    yield site
    site.close()


@pytest.fixture(scope="module")
def private():
    """The canary: a second server of this machine, which nobody allowed."""
    site = Site({"/moss": (MOSS, HTML)})
    yield site
    site.close()


@pytest.fixture
def read(site, tmp_path):
    def read(*paths, seconds=20.0, hours=0.0, allow=(site.host,)):
        pages = Pages(seconds, hours, allow, tmp_path / "pages.sqlite")
        return asyncio.run(pages.read_all([path if "://" in path else site.url(path) for path in paths]))

    return read


def test_a_page_is_its_title_and_its_text(site, read):
    moss, poem = read("/moss", "/gb")
    assert moss == Document(site.url("/moss"), "Moss", "Moss grows on damp ground and has no roots.")
    assert "床前明月光" in poem.text, "the server's charset is wrong"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/secret/plan", "robots.txt asks programs to stay away"),
        ("/nowhere", "answers 404"),
        ("/broken", "answers 500"),
        ("/bomb", "too large"),
        ("/endless", "too large"),
        ("/photo", "cannot be read"),
        ("http://169.254.169.254/latest/meta-data", "not a public address"),
        ("http://localhost:1/", "not a public address"),
        ("file:///etc/passwd", "must begin with http"),
        ("http://a b/", "has blanks"),
    ],
)
def test_what_cannot_be_read_is_a_line_that_says_why(read, path, words):
    (found,) = read(path)
    assert words in str(found) and "\n" not in str(found)
    assert isinstance(found, Gone) == (path == "/nowhere")


def test_no_redirect_leads_to_a_private_address(site, private, read):
    targets = [private.host, "169.254.169.254", "[::1]:80", "2130706433", "0x7f000001", "localhost:1"]
    found = read(*(f"/to/{target}/moss" for target in targets))
    assert all("not a public address" in str(one) for one in found)
    assert private.asked == []


def test_a_redirect_into_what_robots_close_is_not_used(site, read):
    (found,) = read(f"/to/{site.host}/secret/plan")
    assert "robots.txt" in str(found)


def test_robots_are_asked_once_for_each_host(site, read):
    site.asked.clear()
    read("/moss", "/gb", "/nowhere")
    assert site.asked.count("/robots.txt") == 1


def test_slow_pages_hold_up_nothing(read):
    start = time.monotonic()
    found = read("/moss", *["/slow"] * 20, seconds=3)
    assert time.monotonic() - start < 12
    assert isinstance(found[0], Document) and "not done within" in str(found[5])


def test_a_page_that_takes_minutes_to_read_holds_up_nothing_and_is_left(site, read):
    """Small ones, one of either kind; no process is left that goes on reading."""
    site.pages["/heavy.pdf"], site.pages["/heavy"] = (heavy_pdf(), "application/pdf"), (b"<p>a<br>" * 100_000, HTML)
    start = time.monotonic()
    found = read("/heavy.pdf", "/heavy", "/moss", seconds=6)
    assert time.monotonic() - start < 30
    assert ["not done within" in str(each) for each in found] == [True, True, False] and found[2].title == "Moss"
    reader = shared_reader().process.pid
    until(lambda: not Path(f"/proc/{reader}/task/{reader}/children").read_text(), 60)


def test_a_reader_that_was_killed_is_started_again(read):
    read("/moss")
    shared_reader().process.kill()
    shared_reader().process.wait()
    assert read("/moss", seconds=20)[0].title == "Moss"


def test_a_page_brings_in_no_file_and_asks_nobody(site, private, read, tmp_path):
    """Entities of XML, and what a browser would load."""
    secret = tmp_path / "secret.txt"
    secret.write_text("a password")
    private.asked.clear()
    here, there = secret.as_uri(), private.url("/moss")
    bombs = "".join(f'<!ENTITY b{each} "{f"&b{each - 1};" * 20}">' for each in range(1, 12))
    site.pages["/xxe"] = (
        (
            f'<?xml version="1.0"?><!DOCTYPE html [<!ENTITY b0 "bang"> {bombs} <!ENTITY f SYSTEM "{here}">'
            f'<!ENTITY u SYSTEM "{there}"> <!ENTITY % p SYSTEM "{there}"> %p;]><html xmlns:xi="http://www.w3.org/2001/XInclude">'
            f'<head><link rel="stylesheet" href="{there}"/></head><body><p>Moss is green. &f; &u; &b11;</p>'
            f'<xi:include href="{here}" parse="text"/><img src="{there}"/><iframe src="{there}"></iframe></body></html>'
        ).encode(),
        "application/xhtml+xml",
    )
    (found,) = read("/xxe")
    assert "Moss is green." in found.text and "password" not in found.text and len(found.text) < 1000
    assert private.asked == []


def test_a_page_is_kept_for_as_long_as_it_is_said(site, read, tmp_path):
    site.asked.clear()
    first = read("/moss", hours=1)
    assert read("/moss", hours=1) == first and site.asked.count("/moss") == 1
    assert read("/moss", hours=0) == first and site.asked.count("/moss") == 2
    (found,) = read("/moss", hours=1, allow=())
    assert "not a public address" in str(found), "the cache gives nothing private to who may not fetch it"


def test_pages_of_an_index_are_kept_while_their_server_fails_and_go_when_they_are_gone(site, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENGLM_CACHE", str(tmp_path / "cache"))
    config = WebConfig(embedder="", hours=0, allow=(site.host,), seconds=10)
    index = Index(tmp_path / "index", create=True)
    urls = [site.url("/moss"), site.url("/gb")]
    assert build(index, urls, config).new == 2
    assert build(index, urls, config).unchanged == 2
    kept = site.pages.pop("/moss")
    update = build(index, urls, config)
    assert update.removed == 1 and "answers 404" in update.problems[0]
    site.pages["/moss"] = kept
    build(index, urls, config)
    update = build(index, urls, WebConfig(embedder="", hours=0, seconds=2))
    assert update.removed == 0 and len(update.problems) == 2, "not reachable is not gone"
    assert len(index.search("moss", 5)[0]) == 1


def results(key, name, *urls):
    found = [{name: url} for url in urls]
    return json.dumps({"webPages": {"value": found}} if key == "webPages" else {key: found})


@pytest.mark.parametrize(
    ("engine", "body", "environment"),
    [
        ("searxng", results("results", "url", "https://a.test/", "https://b.test/", "https://a.test/"), "SEARXNG_URL"),
        ("bing", results("webPages", "url", "https://a.test/", "https://b.test/"), "BING_SEARCH_V7_ENDPOINT"),
        ("serpapi", results("organic_results", "link", "https://a.test/", "https://b.test/"), "SERPAPI_URL"),
    ],
)
def test_engines_behind_one_function(monkeypatch, engine, body, environment):
    """Each in its own words; nonsense is no result, and what fails is one line without the key."""
    for name in ("BING_SEARCH_V7_SUBSCRIPTION_KEY", "SERPAPI_API_KEY"):
        monkeypatch.setenv(name, "s3cret")
    site = Site({})
    monkeypatch.setenv(environment, site.url("") if engine == "searxng" else site.url("/search"))

    def ask():
        return asyncio.run(search(engine, "moss & ferns", 5, 5.0))

    site.pages["/search"] = body.encode(), "application/json"
    assert ask() == ["https://a.test/", "https://b.test/"]
    assert "q=moss+%26+ferns" in site.asked[-1]
    for nonsense in (b"{}", b"[1, 2]", b'{"results": 3, "webPages": [], "organic_results": {"a": 1}}'):
        site.pages["/search"] = nonsense, "application/json"
        assert ask() == []
    for failing in (b"<html>", b"[" * 100_000, None):
        site.pages["/search"] = failing, "application/json"
        if failing is None:
            site.close()
        with pytest.raises(ValueError, match="try another, or an index") as error:
            ask()
        assert "s3cret" not in str(error.value) and "\n" not in str(error.value)


def test_an_engine_without_its_key_says_which(monkeypatch):
    monkeypatch.delenv("SERPAPI_API_KEY", raising=False)
    with pytest.raises(ValueError, match="SERPAPI_API_KEY"):
        asyncio.run(search("serpapi", "moss", 5, 5.0))


def test_a_question_to_the_web_ends_with_the_passages_that_answer_it(site, monkeypatch, tmp_path):
    """Dead and wild pages among the results are told of."""
    monkeypatch.setenv("OPENGLM_CACHE", str(tmp_path))
    engine = Site(
        {"/search": (results("results", "url", *map(site.url, ("/moss", "/slow", "/bomb", "/nowhere"))), "json")}
    )
    monkeypatch.setenv("SEARXNG_URL", engine.url(""))
    web = Web(config=WebConfig(search="searxng", embedder="", seconds=4, allow=(site.host,)))
    found = web.find("Where does moss grow?")
    assert [source.url for source in found.sources] == [site.url("/moss")]
    assert len(found.problems) == 3
    engine.close()
    with pytest.raises(ValueError, match="cannot be asked"):
        web.find("Where does moss grow?")


@pytest.fixture
def endless(monkeypatch, tmp_path):
    """A search whose one page never ends, and the site of both."""
    site = Site({})
    site.pages["/search"] = (results("results", "url", site.url("/slow")).encode(), "json")
    monkeypatch.setenv("OPENGLM_CACHE", str(tmp_path))
    monkeypatch.setenv("SEARXNG_URL", site.url(""))
    yield Web(config=WebConfig(search="searxng", embedder="", seconds=600, allow=(site.host,))), site
    site.close()


def test_a_search_ends_where_it_is_told_to(endless):
    web, site = endless
    stop = threading.Event()

    def look():
        with pytest.raises(asyncio.CancelledError):
            web.find("moss", stop)

    search = threading.Thread(target=look)
    search.start()
    until(lambda: "/slow" in site.asked)
    stop.set()
    search.join(20)
    assert not search.is_alive()
    until(lambda: site.left == ["/slow"])


def test_ctrl_c_ends_a_search(endless):
    web, site = endless
    main = threading.main_thread().ident
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker of pytest-xdist ignores the signal
    press = lambda: (until(lambda: "/slow" in site.asked), signal.pthread_kill(main, signal.SIGINT))  # noqa: E731
    threading.Thread(target=press).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            web.find("moss")
    finally:
        signal.signal(signal.SIGINT, before)
    until(lambda: site.left == ["/slow"])
