"""A model behind OpenAI's interface under test: ours (`glm serve`), vLLM's, anybody's.

A text's likelihood is read off its echo, /completions with `echo` and `logprobs`; with `chat`, answers are asked for by
/chat/completions, which tells no likelihoods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from openglm.config import require
from openglm.evaluation.models import Answered, Likelihood, Query, Writing
from openglm.net.endpoint import Endpoint
from openglm.runtime import say


class EndpointModel:
    """`EndpointModel("http://127.0.0.1:8000/v1", "nano")`. Requests that fail for good are told one by one, as answers
    that are missing."""

    def __init__(self, url: str, model: str = "", chat: bool = False) -> None:
        self.endpoint, self.model, self.chat = Endpoint(url), model, chat
        self.name, self.fingerprint = model or url, f"{url} {model}{' chat' * chat}"

    def likelihoods(self, queries: Sequence[Query]) -> Answered:
        require(not self.chat, "chat", True, "this interface tells no likelihoods; give --written, or leave --chat out")
        bodies = [
            {"prompt": q.before + q.answer + q.after, "max_tokens": 0, "echo": True, "logprobs": 1} for q in queries
        ]
        return self._ask("completions", bodies, lambda n, choice: _likelihood(queries[n], choice))

    def write(self, writings: Sequence[Writing]) -> Answered:
        return self._ask(
            "chat/completions" if self.chat else "completions",
            [self._asked(one) for one in writings],
            lambda n, choice: choice["message"]["content"] or "" if self.chat else choice["text"],
        )

    def nats(self, texts: Sequence[str]) -> Answered:
        raise ValueError("model: an endpoint does not say how long a text it reads, so give a model of this machine")

    def fits(self, text: str, room: int) -> bool:
        return True  # only the endpoint knows

    def _asked(self, one: Writing) -> dict[str, Any]:
        require(not (self.chat and one.after), "chat", True, "blanks are filled by /completions; leave --chat out")
        said: dict[str, Any] = {"prompt": one.before}
        if self.chat:
            said = {"messages": [{"role": "user", "content": one.before}]}
        said |= {"suffix": one.after} if one.after else {}
        drawn = {"temperature": one.temperature, "top_p": one.top_p, "max_tokens": one.max_tokens}
        more = {"stop": list(one.stop[:4])} if one.stop else {}
        return {**said, **drawn, **more, **({} if one.seed is None else {"seed": one.seed})}

    def _ask(self, path: str, bodies: Sequence[Mapping[str, Any]], read: Callable[[int, Any], Any]) -> Answered:
        named = [{**({"model": self.model} if self.model else {}), **body} for body in bodies]
        failed = 0
        for number, answer in enumerate(self.endpoint.post_all(path, named)):
            try:
                if isinstance(answer, ValueError):
                    raise answer
                yield number, read(number, answer["choices"][0])
            except (ValueError, LookupError, TypeError) as error:
                failed += 1
                if failed == 1:
                    say(f"{self.endpoint.url}: {error}")
                yield number, None


def _likelihood(query: Query, choice: Mapping[str, Any]) -> Likelihood:
    """Of the tokens that begin in the answer, or at the spaces before it."""
    told = choice["logprobs"]
    start = len(query.before.rstrip())
    inside = [
        n for n, offset in enumerate(told["text_offset"]) if offset >= start and told["token_logprobs"][n] is not None
    ]
    logprobs = [told["token_logprobs"][n] for n in inside]
    greedy = all(told["token_logprobs"][n] >= max(told["top_logprobs"][n].values()) for n in inside)
    return Likelihood(sum(logprobs), greedy)
