"""`async with Client() as client: answer = await client.fetch("https://example.org/")`

A name is resolved once, all its addresses must be public, and the connection goes to one that was checked; so it is at
every redirect. Time, size (also unpacked) and redirects are bounded. It keeps no cookies and heeds no proxy, which
would resolve names anew. Robots, charsets and caches are for those who read pages.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from openglm.config import require, shown
from openglm.net.addresses import addresses_of, is_public

_ODD = re.compile(r"[\x00-\x20\x7f\\]")  # where parsers of URLs disagree
_MOVED = (301, 302, 303, 307, 308)
_ACCEPTED = {"Accept-Encoding": "gzip", "User-Agent": "OpenGLM"}
Resolve = Callable[[str, int], Awaitable[list[str]]]


class FetchError(ValueError):
    """Why nothing came back, in one line."""


@dataclass(frozen=True)
class Limits:
    """Of one request with all its redirects."""

    seconds: float = 20.0
    size: int = 4 << 20
    """bytes of the body, unpacked"""
    redirects: int = 5


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    url: str
    """after all redirects"""
    status: int
    headers: Mapping[str, str]
    body: bytes


class Client:
    """allowed: hosts, as HOST:PORT in small letters, that may have private addresses: those that the user named."""

    def __init__(
        self, limits: Limits | None = None, allowed: Collection[str] = (), resolve: Resolve = addresses_of
    ) -> None:
        self.limits, self.allowed, self._resolve = limits or Limits(), frozenset(allowed), resolve
        # A connection is never used for a second name: its certificate was checked for the first.
        alone = httpx.Limits(max_keepalive_connections=0)
        self._transport = httpx.AsyncHTTPTransport(trust_env=False, limits=alone)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.aclose()

    async def fetch(
        self, url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None, content: bytes = b""
    ) -> Answer:
        """The answer, whatever its status; a redirect is followed for GET. `headers` go to the first host alone. Raises
        FetchError."""
        work = self._follow(url, method, dict(headers or {}), content)
        try:
            return await asyncio.wait_for(work, self.limits.seconds)
        except asyncio.TimeoutError:
            reason = f"not done within {self.limits.seconds:g} seconds"
        except (httpx.TransportError, OSError) as error:
            reason = str(error) or type(error).__name__
        except (httpx.InvalidURL, UnicodeError):
            reason = "not a URL"
        except FetchError:
            raise
        except (ValueError, zlib.error) as error:
            reason = str(error)
        raise FetchError(f"{shown(url)}: {reason}") from None

    async def fetch_all(self, urls: Sequence[str], at_once: int = 8) -> list[Answer | FetchError]:
        """Of each URL the answer, or why there is none; each has its own limits."""
        turn = asyncio.Semaphore(at_once)

        async def one(url: str) -> Answer | FetchError:
            async with turn:
                try:
                    return await self.fetch(url)
                except FetchError as error:
                    return error

        return await asyncio.gather(*map(one, urls))

    async def _follow(self, url: str, method: str, headers: dict[str, str], content: bytes) -> Answer:
        here = parse(url)
        for _ in range(self.limits.redirects + 1):
            answer = await self._once(here, method, headers, content)
            target = answer.headers.get("location")
            if answer.status not in _MOVED or target is None:
                return answer
            if method != "GET":
                raise FetchError(f"{here}: sends {method} elsewhere; give the address that it moved to")
            before, here = here, parse(str(here.join(target)) if not _ODD.search(target) else target)
            if origin(before) != origin(here):
                headers = {}
        raise FetchError(f"{shown(url)}: more than {self.limits.redirects} redirects")

    async def _once(self, url: httpx.URL, method: str, headers: dict[str, str], content: bytes) -> Answer:
        name, port = origin(url)[1:]
        addresses = await self._addresses(name, port)
        for number, address in enumerate(addresses, 1):
            request = httpx.Request(
                method,
                url.copy_with(host=address),
                headers={**_ACCEPTED, **headers, "Host": url.netloc.decode("ascii")},
                content=content or None,
                extensions={"sni_hostname": name},
            )
            try:
                response = await self._transport.handle_async_request(request)
                break
            except httpx.ConnectError:
                if number == len(addresses):
                    raise
        try:
            return Answer(str(url), response.status_code, response.headers, await self._body(response))
        finally:
            await response.aclose()

    async def _addresses(self, name: str, port: int) -> list[str]:
        """Where to connect to. Raises ValueError where one of them is not public."""
        found = await self._resolve(name, port)
        require(bool(found), "host", name, "has no address")
        if f"{name}:{port}" not in self.allowed:
            private = next((each for each in found if not is_public(each)), None)
            require(private is None, "host", name, f"leads to {private}, which is not a public address")
        return found

    async def _body(self, response: Any) -> bytes:
        """The body, unpacked piece by piece, so that nothing beyond the limit is ever in memory."""
        limit, packed = self.limits.size, response.headers.get("content-encoding", "identity").strip().lower()
        known = packed in ("identity", "", "gzip", "x-gzip")
        require(known, "content-encoding", packed, "was not asked for")
        unpack = zlib.decompressobj(zlib.MAX_WBITS | 16) if "gzip" in packed else None
        body = bytearray()
        async for piece in response.stream:
            body += unpack.decompress(piece, limit + 1 - len(body)) if unpack else piece
            require(len(body) <= limit, "body", f"over {limit} bytes", "is too large")
            if unpack and unpack.eof:  # what follows would pile up
                break
        require(unpack is None or unpack.eof or not body, "body", f"{len(body)} bytes", "was cut short")
        return bytes(body)


def parse(url: str) -> httpx.URL:
    """The one reading of a URL. Raises ValueError."""
    require(not _ODD.search(url), "URL", url, "has blanks, control characters or backslashes")
    found = httpx.URL(url)
    require(found.scheme in ("http", "https"), "URL", url, "must begin with http:// or https://")
    require(not found.userinfo and bool(found.host), "URL", url, "must have a host, and no name or password before it")
    require(found.port is None or 0 < found.port < 1 << 16, "URL", url, "has no such port")
    return found


def origin(url: httpx.URL) -> tuple[str, str, int]:
    """Scheme, host and port."""
    name = url.raw_host.decode("ascii").lower()
    return url.scheme, name, url.port or {"http": 80, "https": 443}[url.scheme]
