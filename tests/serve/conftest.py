"""Live servers over the toy model."""

import shutil

import pytest
from helpers.live import Live

from openglm.assistant import Assistant
from openglm.config import EngineConfig

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def assistant(toy):
    return Assistant(toy, device="cpu", engine=EngineConfig(max_sequences=4, block_size=4, step_tokens=64))


@pytest.fixture(scope="session")
def another(toy):
    """Servers of their own, where a test needs other options; each with an engine of its own."""
    servers = []

    def start(engine=None, **options):
        servers.append(Live(Assistant(toy, device="cpu", engine=engine or EngineConfig(max_sequences=4)), **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def live(assistant):
    server = Live(assistant)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def plain_reply(toy):
    """The oracle: an assistant of its own, without a server."""
    alone = Assistant(toy, device="cpu")

    def reply(messages, max_tokens):
        answer = alone.reply(messages, max_tokens=max_tokens, temperature=0)
        return answer.text.strip(), answer.usage

    return reply


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("no Chromium here")
    quiet = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
    ]
    with sync_api.sync_playwright() as play:
        yield play.chromium.launch(executable_path=CHROMIUM, args=quiet)
