"""Server-sent events, and work that ends when the client goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from openglm.serve.errors import as_api_error

Result = TypeVar("Result")
DONE = b"data: [DONE]\n\n"
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_SMALL = 1 << 14  # bytes; cutting so much into tokens takes a millisecond or two


class Gone(Exception):
    """The client went away."""


def event(value: Any) -> bytes:
    """One server-sent event. JSON has no line ends of its own, so no text can end an event or begin another."""
    return b"data: %b\n\n" % _to_json(value).encode()


async def prepare(request: Request, work: Callable[..., Result], *arguments: Any) -> Result:
    """Read a request's text: in a thread, so that the others' answers go on meanwhile, unless it is so small that
    handing it over would take longer."""
    small = int(request.headers.get("content-length", _SMALL)) < _SMALL
    return work(*arguments) if small else await asyncio.to_thread(work, *arguments)


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
    """Send chunks as they come. The first is awaited before the status is sent, so that a request which fails at once
    has its proper status; a later failure is an event with OpenAI's error object. Closing the chunks, which happens in
    any case, frees what they hold."""

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.chunks = chunks

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await unless_gone(receive, self._send(send, scope, receive))
        except Gone:
            pass
        finally:
            await self.chunks.aclose()

    async def _send(self, send: Any, scope: Any, receive: Any) -> None:
        try:
            first = await anext(self.chunks)
        except Exception as error:
            return await as_api_error(error).response()(scope, receive, send)
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": first, "more_body": True})
        try:
            async for chunk in self.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except Exception as error:
            await send(
                {"type": "http.response.body", "body": event(as_api_error(error).body()) + DONE, "more_body": True}
            )
        await send({"type": "http.response.body", "body": b""})
