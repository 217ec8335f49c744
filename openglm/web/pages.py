"""Pages of the web as documents: robots.txt heeded, kept on disk for a while, and done by a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from urllib.robotparser import RobotFileParser

from openglm.config import require, shown
from openglm.net.client import Answer, Client, FetchError, Limits, origin, parse
from openglm.runtime import cache_folder
from openglm.web.apart import read_apart
from openglm.web.documents import Document

_AGENT = "OpenGLM"
_AT_ONCE = 16
_KEPT = 30 * 24 * 3600  # seconds
_KINDS = {
    "text/html": "html",
    "application/xhtml+xml": "html",
    "text/plain": "txt",
    "text/markdown": "md",
    "application/pdf": "pdf",
}


class Gone(FetchError):
    """A page that its server says is not there."""


class Cache:
    """Pages by URL, in one file. One that is older than `hours` counts as absent; after a month it is removed."""

    def __init__(self, file: Path, hours: float) -> None:
        self.file, self.oldest = file, time.time() - 3600 * hours
        file.parent.mkdir(parents=True, exist_ok=True)
        with self._database() as database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS pages (url TEXT PRIMARY KEY, time REAL, at TEXT, type TEXT, body BLOB)"
            )
            database.execute("DELETE FROM pages WHERE time < ?", [time.time() - _KEPT])

    @contextlib.contextmanager
    def _database(self):
        try:
            with contextlib.closing(sqlite3.connect(self.file, timeout=5)) as database, database:
                yield database
        except sqlite3.Error as error:
            raise ValueError(f"cache = {str(self.file)!r}: {error}; remove this file") from None

    def get(self, url: str) -> Answer | None:
        with self._database() as database:
            query = "SELECT at, type, body FROM pages WHERE url = ? AND time >= ?"
            row = database.execute(query, [url, self.oldest]).fetchone()
        return Answer(row[0], 200, {"content-type": row[1]}, row[2]) if row else None

    def put(self, url: str, answer: Answer) -> None:
        row = (url, time.time(), answer.url, answer.headers.get("content-type", ""), answer.body)
        with self._database() as database:
            database.execute("INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?, ?)", row)


class Pages:
    """`documents = await Pages(...).read_all(urls)`"""

    def __init__(self, seconds: float, hours: float, allow: Collection[str] = (), cache: Path | None = None) -> None:
        self.seconds, self.allow = seconds, allow
        self.cache = Cache(cache or cache_folder() / "pages.sqlite", hours)
        self._robots: dict[tuple[str, str, int], asyncio.Task[RobotFileParser]] = {}

    async def read_all(self, urls: Sequence[str]) -> list[Document | FetchError]:
        """Of each URL its document, or why there is none; all within `seconds` for each 16."""
        if not urls:
            return []
        seconds, turn = self.seconds * math.ceil(len(urls) / _AT_ONCE), asyncio.Semaphore(_AT_ONCE)
        async with Client(Limits(seconds=self.seconds), self.allow) as client:

            async def one(url: str) -> Document | FetchError:
                async with turn:
                    return await self._read(client, url)

            tasks = [asyncio.ensure_future(one(url)) for url in urls]
            try:
                await asyncio.wait(tasks, timeout=seconds)
            finally:
                late = [task for task in tasks if not task.done()]
                for task in [*late, *self._robots.values()]:
                    task.cancel()
                await asyncio.gather(*late, *self._robots.values(), return_exceptions=True)
        reason = f"not done within {seconds:g} seconds"
        return [
            FetchError(f"{shown(url)}: {reason}") if task in late else task.result()
            for url, task in zip(urls, tasks, strict=True)
        ]

    async def _read(self, client: Client, url: str) -> Document | FetchError:
        try:
            answer = self.cache.get(self._key(url)) or await self._fetch(client, url)
            kind, _, rest = answer.headers.get("content-type", "text/html").lower().partition(";")
            known = ", ".join(_KINDS)
            require(kind.strip() in _KINDS, "content-type", f"{kind} of {url}", f"cannot be read; known: {known}")
            charset = rest.partition("charset=")[2].strip(" \"'")
            return await read_apart(answer.body, _KINDS[kind.strip()], answer.url, charset, self.seconds)
        except FetchError as error:
            return error
        except ValueError as error:
            return FetchError(str(error))

    async def _fetch(self, client: Client, url: str) -> Answer:
        await self._require_allowed(client, url)
        answer = await client.fetch(url)
        if answer.status in (404, 410):
            raise Gone(f"{shown(url)}: answers {answer.status}")
        if answer.status != 200:
            raise FetchError(f"{shown(url)}: answers {answer.status}")
        await self._require_allowed(client, answer.url)  # where redirects led to
        self.cache.put(self._key(url), answer)
        return answer

    def _key(self, url: str) -> str:
        """What was fetched from a private address is for those alone who may fetch it."""
        return " ".join([url, *sorted(self.allow)])

    async def _require_allowed(self, client: Client, url: str) -> None:
        """Raises FetchError where the host's robots.txt asks programs like this one to stay away."""
        place = origin(_parsed(url))
        if place not in self._robots:
            self._robots[place] = asyncio.ensure_future(self._rules(client, url))
        rules = await asyncio.shield(self._robots[place])
        if not rules.can_fetch(_AGENT, url):
            raise FetchError(f"{shown(url)}: its robots.txt asks programs to stay away")

    async def _rules(self, client: Client, url: str) -> RobotFileParser:
        """RFC 9309, 2.3.1: a file that is not there allows everything, a server that fails nothing."""
        answer = await client.fetch(str(_parsed(url).copy_with(raw_path=b"/robots.txt", fragment=None)))
        text = answer.body.decode("utf-8", errors="replace") if answer.status == 200 else ""
        rules = RobotFileParser()
        rules.parse(["User-agent: *", "Disallow: /"] if answer.status >= 500 else text.splitlines())
        return rules


def _parsed(url: str):
    """Raises FetchError."""
    try:
        return parse(url)
    except Exception as error:
        raise FetchError(f"{shown(url)}: {error}") from None
