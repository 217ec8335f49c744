"""A model behind OpenAI's chat interface as a source of answers: ours (`glm serve`), vLLM's, anybody's."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openglm.config import require, shorten
from openglm.data.prompts import Prompt
from openglm.net.client import Answer, Client, Limits, origin, parse
from openglm.runtime import endpoint_key
from openglm.text.tokenizer import Tokenizer

_AT_ONCE = 32
_BUSY, _PAUSES = (429, 502, 503, 504), (1, 4, 16)  # seconds
_LIMITS = Limits(seconds=600, size=16 << 20, redirects=0)


@dataclass(frozen=True)
class Reply:
    """One answer."""

    text: str
    finished: bool
    """ended by itself"""
    tokens: list[tuple[bytes, float]]
    """what each token spells, and its log-probability; empty where the endpoint gives none"""


class Endpoint:
    """`Endpoint("http://127.0.0.1:8000/v1").ask([{"messages": [..], "max_tokens": 16}])`. $OPENAI_API_KEY is sent
    along. The host may be a private one, for the user named it."""

    def __init__(self, url: str, model: str = "") -> None:
        parsed = parse(url)
        self.url, self.model = f"{url.rstrip('/')}/chat/completions", model
        self._allowed = "{1}:{2}".format(*origin(parsed))
        key = endpoint_key()
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}

    def ask(self, requests: Sequence[Mapping[str, Any]]) -> list[Reply]:
        """An answer to each. Raises ValueError of one line for the first that fails."""
        return asyncio.run(self._ask(requests))

    async def _ask(self, requests: Sequence[Mapping[str, Any]]) -> list[Reply]:
        turn = asyncio.Semaphore(_AT_ONCE)
        async with Client(_LIMITS, (self._allowed,)) as client:

            async def one(body: Mapping[str, Any]) -> Reply:
                async with turn:
                    return self._read(await self._post(client, body))

            return await asyncio.gather(*map(one, requests))

    async def _post(self, client: Client, body: Mapping[str, Any]) -> Answer:
        content = json.dumps({**({"model": self.model} if self.model else {}), **body}).encode()
        for pause in (*_PAUSES, 0):
            answer = await client.fetch(self.url, method="POST", headers=self._headers, content=content)
            if answer.status not in _BUSY or not pause:
                break
            await asyncio.sleep(pause)
        return answer

    def _read(self, answer: Answer) -> Reply:
        try:
            choice = json.loads(answer.body)["choices"][0]
            listed = (choice.get("logprobs") or {}).get("content") or []
            tokens = [
                (bytes(one["bytes"]) if one.get("bytes") is not None else one["token"].encode(), float(one["logprob"]))
                for one in listed
            ]
            return Reply(choice["message"]["content"] or "", choice["finish_reason"] == "stop", tokens)
        except (ValueError, LookupError, TypeError, AttributeError):
            said = shorten(" ".join(answer.body[:2000].decode(errors="replace").split()), 200)
            raise ValueError(f"endpoint {self.url}: status {answer.status}: {said}") from None


def token_ids(
    tokenizer: Tokenizer, prompt: Prompt, asked: list[int], reply: Reply, most: int
) -> tuple[list[int], list[float | None], bool]:
    """The answer as it is trained: ids with the token that ended it, their log-probabilities as they were drawn, and
    whether it ended. None: the endpoint does not say, or its tokens are cut otherwise. asked: ids of the prompt."""
    said = {"role": "assistant", "content": reply.text}
    whole, _ = tokenizer.render([*prompt.messages, said], tools=prompt.tools)
    alike = whole[: len(asked)] == asked
    require(alike, "rollout.endpoint", reply.text, "this model's format shows an answer otherwise than it asks for it")
    ids = whole[len(asked) :]
    finished = reply.finished and len(ids) <= most
    ids = ids[:most] if finished or len(ids) == 1 else ids[:-1][:most]
    drawn = [pair for pair in reply.tokens if pair[0]]  # an end token spells nothing
    spelled = [tokenizer.decode_bytes([token]) for token in ids[: len(drawn)]]
    known = bool(drawn) and spelled == [text for text, _ in drawn[: len(ids)]]
    logp: list[float | None] = [value for _, value in drawn[: len(ids)]] if known else []
    return ids, logp + [None] * (len(ids) - len(logp)), finished
