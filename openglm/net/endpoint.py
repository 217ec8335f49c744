"""A model behind OpenAI's interface: JSON in, JSON out, asked again where it is busy or its connection breaks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from openglm.config import shorten
from openglm.net.client import Client, Limits, origin, parse
from openglm.runtime import endpoint_key

_AT_ONCE = 32
_BUSY, _PAUSES = (429, 500, 502, 503, 504), (1, 4, 16)  # seconds
_LIMITS = Limits(seconds=600, size=16 << 20, redirects=0)


class Endpoint:
    """`Endpoint("http://127.0.0.1:8000/v1").post_all("completions", [{"prompt": ..}])`. $OPENAI_API_KEY is sent along.
    The host may be a private one, for the user named it."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._allowed = "{1}:{2}".format(*origin(parse(url)))
        key = endpoint_key()
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}

    def post_all(self, path: str, bodies: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
        """What is said to each, in their order; in place of an answer the ValueError of one line that says why there is
        none."""
        for start in range(0, len(bodies), _AT_ONCE):
            yield from asyncio.run(self._some(f"{self.url}/{path}", bodies[start : start + _AT_ONCE]))

    async def _some(self, url: str, bodies: Sequence[Mapping[str, Any]]) -> list[Any]:
        async with Client(_LIMITS, (self._allowed,)) as client:
            return await asyncio.gather(*(self._post(client, url, body) for body in bodies))

    async def _post(self, client: Client, url: str, body: Mapping[str, Any]) -> Any:
        content, problem = json.dumps(body).encode(), ValueError()
        for pause in (0, *_PAUSES):
            await asyncio.sleep(pause)
            try:
                answer = await client.fetch(url, method="POST", headers=self._headers, content=content)
                if answer.status == 200:
                    return json.loads(answer.body)
            except json.JSONDecodeError:
                pass
            except ValueError as error:  # no connection, or one that broke
                problem = error
                continue
            said = shorten(" ".join(answer.body[:2000].decode(errors="replace").split()), 200)
            problem = ValueError(f"endpoint {url}: status {answer.status}: {said}")
            if answer.status not in _BUSY:
                break
        return problem
