"""Sessions with MCP servers, through the official package `mcp`, in an event loop of a thread of their own."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any

_START_SECONDS = 30.0


class Servers:
    """Servers live until `close`, or until they end themselves."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._clients: dict[str, Any] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="mcp", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def connect(self, entries: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
        """Name and tools of each server, which start together. Raises ValueError of one line."""
        starting = [asyncio.run_coroutine_threadsafe(self._start(*one), self._loop) for one in entries.items()]
        for name, started in zip(entries, starting, strict=True):
            try:
                yield name, started.result()
            except Exception as error:
                while hasattr(error, "exceptions"):  # a group of them
                    error = error.exceptions[0]
                said = " ".join(f"{type(error).__name__}: {error}".split())
                raise ValueError(f"mcpServers.{name}: the server does not answer ({said}); run it by hand") from None

    async def _start(self, name: str, entry: Mapping[str, Any]) -> list[Any]:
        ready: asyncio.Future[list[Any]] = self._loop.create_future()
        task = self._loop.create_task(self._live(name, entry, ready))
        self._tasks.append(task)
        either: set[asyncio.Future[Any]] = {ready, task}
        await asyncio.wait(either, timeout=_START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()  # raises what went wrong
        if not ready.done():
            task.cancel()
            raise TimeoutError(f"not within {_START_SECONDS:g} s")
        return ready.result()

    async def _live(self, name: str, entry: Mapping[str, Any], ready: asyncio.Future[list[Any]]) -> None:
        """One task opens and closes a session, as the package asks."""
        from mcp import Client, StdioServerParameters, stdio_client

        known = {key: entry[key] for key in ("command", "args", "env", "cwd") if key in entry}
        with open(os.devnull, "w") as unread:  # what servers log does not belong into a conversation
            server = entry["url"] if "url" in entry else stdio_client(StdioServerParameters(**known), unread)
            async with Client(server) as client:
                self._clients[name] = client
                ready.set_result((await client.list_tools()).tools)
                await asyncio.Event().wait()  # until the task is cancelled

    def call(self, server: str, tool: str, arguments: dict[str, Any], seconds: float) -> str:
        """A tool's result as text. Raises TimeoutError, and ValueError for what the tool itself calls an error."""
        work = self._clients[server].call_tool(tool, arguments, read_timeout_seconds=seconds)
        result = asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds + 1)
        texts = [block.text if block.type == "text" else f"({block.type})" for block in result.content]
        if result.is_error:
            raise ValueError("\n".join(texts))
        return "\n".join(texts)

    def close(self) -> None:
        """End all servers."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
