"""Server-sent events, and work that ends when the client goes away."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from openglm.serve.errors import ApiError, as_api_error

Result = TypeVar("Result")
DONE = b"data: [DONE]\n\n"
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_SEPARATORS = {ord(mark): f"\\u{ord(mark):04x}" for mark in "\x85\u2028\u2029"}
_PATIENCE, _QUIET = 1.0, 5.0  # seconds until the headers are sent, and between two pings
_SMALL = 1 << 14  # bytes; cutting so much into tokens takes a millisecond or two


class Gone(Exception):
    """The client went away."""


def line(value: Any) -> bytes:
    """JSON in which nothing ends a line, not even for readers that take Unicode's separators for line ends."""
    return _to_json(value).translate(_SEPARATORS).encode()


def event(value: Any, name: str = "") -> bytes:
    """One server-sent event; no text can end it or begin another."""
    return b"%bdata: %b\n\n" % (f"event: {name}\n".encode() if name else b"", line(value))


async def prepare(request: Request, work: Callable[..., Result], *arguments: Any) -> Result:
    """Read a request's text: in a thread, so that the others' answers go on meanwhile, unless it is so small that
    handing it over would take longer."""
    small = int(request.headers.get("content-length", _SMALL)) < _SMALL
    return work(*arguments) if small else await asyncio.to_thread(work, *arguments)


async def in_thread(work: Callable[[threading.Event], Result]) -> Result:
    """Long work of a thread, which is told to stop where whoever waits for it no longer does."""
    stop = threading.Event()
    try:
        return await asyncio.to_thread(work, stop)
    finally:
        stop.set()


async def unless_gone(receive: Any, work: Coroutine[Any, Any, Result]) -> Result:
    """Do the work; cancel it and raise Gone as soon as the client goes away."""
    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        watch.cancel()
        task.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Send chunks as they come. A request that fails at once has its proper status; one that waits for its turn gets
    the headers, and comments that keep the connection open. A later failure is an event with OpenAI's error object. Closing
    the chunks, which happens in any case, frees what they hold."""

    media_type = "text/event-stream"
    ping = b": waiting\n\n"

    def __init__(self, chunks: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.chunks, self.started = chunks, False

    def failed(self, error: ApiError) -> bytes:
        return event(error.body()) + DONE

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            with suppress(Gone):
                await unless_gone(receive, self._send(scope, receive, send))
        finally:
            await self.chunks.aclose()

    async def _send(self, scope: Any, receive: Any, send: Any) -> None:
        waiting = asyncio.ensure_future(self._keep_open(send))
        try:
            async for chunk in self.chunks:  # without a task for each, of which there are many
                await self._write(send, chunk)
        except Exception as error:
            waiting.cancel()
            if not self.started:
                return await as_api_error(error).response()(scope, receive, send)
            await self._write(send, self.failed(as_api_error(error)))
        finally:
            waiting.cancel()
        await send({"type": "http.response.body", "body": b""})

    async def _keep_open(self, send: Any) -> None:
        await asyncio.sleep(_PATIENCE)
        await self._write(send, b"")
        while True:
            await asyncio.sleep(_QUIET)
            await self._write(send, self.ping)

    async def _write(self, send: Any, chunk: bytes) -> None:
        if not self.started:
            self.started = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if chunk:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
