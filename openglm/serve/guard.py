"""What every HTTP request must pass before anything looks into it: name of this server, origin, key, type and size of
the body; and what every answer carries: its number, security headers, leave for other origins.

Plain ASGI around the whole application, so that no route, present or future, mounted ones included, can be without it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime
import hashlib
import hmac
import ipaddress
import re
import socket
import time
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.middleware.cors import CORSMiddleware

from openglm.runtime import say
from openglm.serve.config import ServeConfig
from openglm.serve.errors import ApiError
from openglm.serve.schemas import Json
from openglm.serve.service import Service

OPEN_PATHS = frozenset({"/health"})
"""Paths that need no key, and no name of this server: probes know neither."""

ADMIN_PATH = "/v1/versions"
"""Only the admin key opens what lies here."""

_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+))(?::\d{1,5})?")
_BODY_SECONDS = 30.0
_PAGE = "/gradio_api/"
_ANY_TYPE = "/api/"  # Ollama's clients name none, or a wrong one; a page cannot ask without its origin
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # an unknown one is no label
_NUMBER = re.compile(rb"[\w.:-]{1,128}")
_ASK = 'Basic realm="OpenGLM: the API key is the password", charset="UTF-8"'

Scope = Json
Receive = Callable[[], Awaitable[Json]]
Send = Callable[[Json], Awaitable[None]]


class Guard:
    service: Service
    """of the app behind it; set by who builds both"""

    def __init__(self, app: Any, config: ServeConfig, count: Callable[[str, int], None]) -> None:
        self.config, self.count = config, count
        self.app = app
        origins = [origin.lower().rstrip("/") for origin in config.origins]
        methods, every = ("GET", "POST", "DELETE"), ("*",)
        self.allows = CORSMiddleware(self._guarded, origins, methods, every, expose_headers=every)
        self.key, self.admin_key = _digest(config.api_key), _digest(config.admin_key)
        self.names = {name.lower().encode() for name in config.hosts}
        self.hosts = {"localhost", socket.gethostname().lower(), config.host.lower(), *map(str.lower, config.hosts)}
        self.root = config.root_path and "/" + config.root_path.strip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # nothing here speaks over web sockets
            return await send({"type": "websocket.close", "code": 1008})
        start, head, headers = time.perf_counter(), scope["method"] == "HEAD", dict(scope["headers"])
        whole = False
        given = headers.get(b"x-request-id", b"")
        number = given if _NUMBER.fullmatch(given) else uuid.uuid4().hex.encode()
        extra = [*_SECURITY, (b"x-request-id", number)]

        async def answering(message: Json) -> None:
            nonlocal whole
            whole = message["type"] == "http.response.body" and not message.get("more_body")
            if message["type"] == "http.response.start":
                self.count(scope["method"] if scope["method"] in _METHODS else "other", message["status"])
                message["headers"] = [*message.get("headers", ()), *extra]
                self._log(scope, number, message["status"], time.perf_counter() - start)
            elif head:
                message["body"] = b""
            await send(message)

        path = scope["path"].removeprefix(self.root) if scope["path"].startswith(f"{self.root}/") else scope["path"]
        answer = self.allows if self.config.origins else self._guarded
        await answer({**scope, "path": path, "method": "GET" if head else scope["method"]}, receive, answering)
        if not whole:  # a page's connection, at the end of the server
            await answering({"type": "http.response.body"})

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if scope["path"].startswith(_ANY_TYPE) and b"origin" not in headers:
            headers[b"content-type"] = b"application/json"
            scope = {**scope, "headers": list(headers.items())}
        try:
            self._check(scope, headers)
            receive = await self._read(scope, receive)
        except ApiError as error:
            return await error.response()(scope, receive, send)
        await self.app(scope, receive, send)

    def _log(self, scope: Scope, number: bytes, status: int, seconds: float) -> None:
        if self.config.log_requests:
            client, path = (scope.get("client") or ["-"])[0], scope["raw_path"].decode("latin-1")[:200]
            now = datetime.datetime.now().isoformat(timespec="milliseconds")
            say(f"{now} {number.decode()} {client} {scope['method']} {path} {status} {seconds:.3f} s")

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Raise ApiError where the headers or the path say that this request is not for us."""
        if scope["path"] not in OPEN_PATHS and not self.config.socket:
            host = _name(headers.get(b"host", b""))
            if host is None or not (host in self.hosts or _is_address(host)):
                raise ApiError(403, "this server is not known under this name; name it in --hosts", param="Host")
        if not self._is_ours(headers):
            raise ApiError(403, "pages of other origins may not use this server; allow in --origins", param="Origin")
        admin = scope["path"].startswith(ADMIN_PATH)
        key, given = (admin and self.admin_key) or self.key, headers.get(b"authorization", b"")
        given = b"Bearer " + headers[b"x-api-key"] if b"x-api-key" in headers else given
        if key and scope["path"] not in OPEN_PATHS and not _is_key(given, key):
            raise ApiError(401, "missing or wrong API key", code="invalid_api_key", headers={"WWW-Authenticate": _ASK})
        if admin and not self.admin_key:
            raise ApiError(403, "the model of this server is fixed; start it with --admin-key to change it")
        if (
            scope["method"] == "POST"
            and headers.get(b"content-type", b"").split(b";")[0].strip().lower() != b"application/json"
        ):
            raise ApiError(415, "the body must be JSON, with Content-Type: application/json", param="Content-Type")

    def _is_ours(self, headers: dict[bytes, bytes]) -> bool:
        """Whether no page asks, or one of this server. Behind a proxy the names differ, but a browser says what it
        sees, and no page can make it say otherwise."""
        origin = headers.get(b"origin")
        name = (origin or b"").split(b"://")[-1]
        own = name == headers.get(b"host") or headers.get(b"sec-fetch-site") == b"same-origin"
        named = name.lower() in self.names or name.rpartition(b":")[0].lower() in self.names
        return origin is None or own or named or self.allows.is_allowed_origin(origin.decode("latin-1").lower())

    async def _read(self, scope: Scope, receive: Receive) -> Receive:
        """Take in the whole body, within its limits of size and time; returns what gives it out again."""
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.config.max_body:
            raise ApiError(413, f"the body has more than {self.config.max_body} bytes", code="body_too_large")
        try:
            body = await asyncio.wait_for(self._body(receive), _BODY_SECONDS)
        except (asyncio.TimeoutError, TimeoutError):
            raise ApiError(408, f"the body did not arrive within {_BODY_SECONDS:g} s") from None
        behind = partial(self._until_the_end, receive) if scope["path"].startswith(_PAGE) else receive
        return resent({"type": "http.request", "body": body, "more_body": False}, behind)

    async def _until_the_end(self, receive: Receive) -> Json:
        """A page holds connections open for ever: at the server's end they count as closed."""
        tasks = asyncio.ensure_future(receive()), asyncio.ensure_future(self.service.ended.wait())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return tasks[0].result() if tasks[0].done() else {"type": "http.disconnect"}
        finally:
            for task in tasks:
                task.cancel()

    async def _body(self, receive: Receive) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise ApiError(400, "the client went away")
            body += message.get("body", b"")
            if len(body) > self.config.max_body:
                raise ApiError(413, f"the body has more than {self.config.max_body} bytes", code="body_too_large")
            if not message.get("more_body"):
                return bytes(body)


def resent(message: Json, receive: Receive) -> Receive:
    """Gives out a message that was taken in already, and then what follows it."""
    pending = [message]

    async def again() -> Json:
        return pending.pop() if pending else await receive()

    return again


# The page is Gradio's, which needs inline scripts and styles; nothing is loaded from, or sent to, anywhere else.
_POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
_SECURITY = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]


def _digest(key: str) -> bytes | None:
    return hashlib.sha256(key.encode()).digest() if key else None


def _is_key(authorization: bytes, digest: bytes) -> bool:
    """Bearer for programs, Basic for browsers, which ask for it once and send it with all that the page fetches. Takes
    the same time whatever is wrong."""
    scheme, _, given = authorization.partition(b" ")
    if scheme.lower() == b"basic":
        try:
            given = base64.b64decode(given, validate=True).partition(b":")[2]
        except binascii.Error:
            given = b""
    elif scheme.lower() != b"bearer":
        given = b""
    return hmac.compare_digest(hashlib.sha256(given.strip()).digest(), digest)


def _name(host: bytes) -> str | None:
    """The host's name without its port; None where it is malformed."""
    found = _HOST.fullmatch(host.decode("latin-1"))
    return (found[1] or found[2]).lower() if found else None


def _is_address(host: str) -> bool:
    """An address was typed; only names can be made to point here by others."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
