"""A model behind OpenAI's chat interface as a source of answers: ours (`glm serve`), vLLM's, anybody's."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openglm.config import require, shorten
from openglm.data.prompts import Prompt
from openglm.net.endpoint import Endpoint as Posts
from openglm.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Reply:
    """One answer."""

    text: str
    finished: bool
    """ended by itself"""
    tokens: list[tuple[bytes, float]]
    """what each token spells, and its log-probability; empty where the endpoint gives none"""


class Endpoint:
    """`Endpoint("http://127.0.0.1:8000/v1").ask([{"messages": [..], "max_tokens": 16}])`."""

    def __init__(self, url: str, model: str = "") -> None:
        self.posts, self.model = Posts(url), model

    def ask(self, requests: Sequence[Mapping[str, Any]]) -> list[Reply]:
        """An answer to each. Raises ValueError of one line for the first that fails."""
        named = {"model": self.model} if self.model else {}
        bodies = [{**named, **body} for body in requests]
        return [self._read(answer) for answer in self.posts.post_all("chat/completions", bodies)]

    def _read(self, answer: Any) -> Reply:
        if isinstance(answer, ValueError):
            raise answer
        try:
            choice = answer["choices"][0]
            listed = (choice.get("logprobs") or {}).get("content") or []
            tokens = [
                (bytes(one["bytes"]) if one.get("bytes") is not None else one["token"].encode(), float(one["logprob"]))
                for one in listed
            ]
            return Reply(choice["message"]["content"] or "", choice["finish_reason"] == "stop", tokens)
        except (ValueError, LookupError, TypeError, AttributeError):
            said = shorten(json.dumps(answer), 200)
            raise ValueError(f"endpoint {self.posts.url}: status 200: {said}") from None


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
