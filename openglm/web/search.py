"""Search engines behind one function: `hits = await search("searxng", question, 8, seconds)`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from openglm.config import require
from openglm.net.client import Client, FetchError, Limits, origin, parse
from openglm.runtime import setting

ENGINES = ("searxng", "bing", "serpapi", "ddgs")
_BING, _SERPAPI = "https://api.bing.microsoft.com/v7.0/search", "https://serpapi.com/search.json"


async def search(engine: str, question: str, count: int, seconds: float) -> list[str]:
    """URLs of the results, best first. Raises ValueError of one line where the engine cannot be asked."""
    if engine == "ddgs":
        return _urls(await asyncio.to_thread(_ddgs, question, count, seconds), "href", count)
    name, keys, headers = "url", ["results"], dict[str, str]()
    query = {"q": question}
    if engine == "searxng":
        address = _needed("SEARXNG_URL", engine).rstrip("/") + "/search"
        query["format"] = "json"
    elif engine == "bing":
        address, keys = setting("BING_SEARCH_V7_ENDPOINT") or _BING, ["webPages", "value"]
        query["count"] = str(count)
        headers["Ocp-Apim-Subscription-Key"] = _needed("BING_SEARCH_V7_SUBSCRIPTION_KEY", engine)
    else:
        address, name, keys = setting("SERPAPI_URL") or _SERPAPI, "link", ["organic_results"]
        query |= {"num": str(count), "api_key": _needed("SERPAPI_API_KEY", engine)}
    found = await _json(engine, f"{address}?{urlencode(query)}", headers, seconds)
    for key in keys:
        found = found.get(key, []) if isinstance(found, dict) else []
    return _urls(found if isinstance(found, list) else [], name, count)


async def _json(engine: str, url: str, headers: dict[str, str], seconds: float) -> Any:
    """The engine is where the user said, so it may be on a private address; pages may not. Errors leave the query out,
    for it may hold a key."""
    place = origin(parse(url))
    try:
        async with Client(Limits(seconds=seconds), allowed=[f"{place[1]}:{place[2]}"]) as client:
            answer = await client.fetch(url, headers=headers)
        require(answer.status == 200, "status", answer.status, "is no answer")
        return json.loads(answer.body)
    except FetchError as error:
        reason = str(error).rpartition(": ")[2]
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
    raise ValueError(f"web.search = {engine!r}: {place[1]} cannot be asked ({reason}); try another, or an index")


def _ddgs(question: str, count: int, seconds: float) -> list[dict[str, str]]:
    """The package asks several engines by an HTTP client of its own, which sees no page."""
    import ddgs

    try:
        return ddgs.DDGS(timeout=int(seconds) or 1).text(question, max_results=count)
    except ddgs.exceptions.DDGSException as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"web.search = 'ddgs': cannot be asked ({reason}); try another, or an index") from None


def _needed(name: str, engine: str) -> str:
    value = setting(name)
    require(bool(value), "web.search", engine, f"needs the environment variable {name}")
    return value


def _urls(results: Sequence[Any], name: str, count: int) -> list[str]:
    found = [each[name] for each in results if isinstance(each, dict) and isinstance(each.get(name), str)]
    return list(dict.fromkeys(found))[:count]
