"""A live server, in a thread of the test process."""

import threading
import time

import httpx

from openglm.serve.app import Server, build
from openglm.serve.config import ServeConfig


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
