"""A live server, in a thread of the test process or in a process of its own."""

import json
import socket
import threading
import time
from dataclasses import replace

import httpx

from helpers.processes import start, until
from openglm.cli.main import main
from openglm.serve.app import Server, build
from openglm.serve.config import ServeConfig

LONG = {
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 80,
    "temperature": 0,
    "logit_bias": {"5": -100, "7": -100, "9": -100},
}


class Live:
    """`Live(assistant, queue=1)`: a running server, its address and a client."""

    def __init__(self, assistant, embedder=None, **options):
        self.config = ServeConfig(port=0, **{"page": False, "feedback": False, "grace": 1.0, **options})
        self.app = build(assistant, self.config, "toy", embedder)
        self.service = self.app.service
        self.server = Server(self.app, self.config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=30)

    def chat(self, **fields):
        return self.client.post(
            "/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "你好"}], "max_tokens": 8, "temperature": 0, **fields},
        )

    def stop(self):
        self.server.should_exit = True
        self.thread.join(timeout=15)
        self.client.close()


def slowed(server, seconds):
    """Make every step of the engine last longer."""
    engine = server.service.assistant.engine
    step = engine.step
    engine.step = lambda: (time.sleep(seconds), step())[1]
    return engine


class Held:
    """The engine of a server, which makes a step only where the test allows one."""

    def __init__(self, server):
        self.engine = server.service.assistant.engine
        self.allowed = threading.Semaphore(0)
        self.step = self.engine.step
        self.engine.step = self._held_step

    def _held_step(self):
        self.allowed.acquire()
        return self.step()

    def allow(self, steps=1):
        for _ in range(steps):
            self.allowed.release()

    def let_go(self):
        self.engine.step = self.step
        self.allow()


def ask_and_leave(server, **fields):
    body = json.dumps({**LONG, **fields}).encode()
    line = socket.create_connection(("127.0.0.1", server.port))
    line.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % len(body)
        + body
    )
    return line


def start_server(output, model, *options):
    """`glm serve` in a process of its own, which writes to `output`, and its address."""
    usual = ["--port", "0", "--no-page", "--device", "cpu"]
    process = start(output, main, ["serve", str(model), *usual, *options])
    until(lambda: "listening on " in output.read_text(encoding="utf-8") or process.exitcode is not None, 120)
    said = output.read_text(encoding="utf-8")
    assert "listening on " in said, said
    return process, said.partition("listening on ")[2].split()[0].rstrip(";")


def talkative(server):
    """A random model may end before it began, and its bytes may be anything to Markdown: letters, without end."""
    answer = server.service.answer
    letters = dict.fromkeys(server.service.assistant.tokenizer.encode("abcdefghijklmnopqrstuvwxyz"), 100.0)
    server.service.answer = lambda requests, version=None: answer(
        [(ids, replace(params, ignore_eos=True, logit_bias=letters)) for ids, params in requests], version
    )
    return server
