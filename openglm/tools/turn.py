"""One answer in which a model may call tools: what the engine is asked next, what the reader sees, what the tools said.

A model calls a tool inside its answer (text/steps.py) or by ending it (text/replies.py). In both cases its result is
put behind what the model has read and written so far, and the next request begins with these tokens: the engine finds
them in its cache. Only tokens that the model chose open or close a call. Where answers are drawn, the token that opens
a call ends a request, and the next one takes the likeliest tokens: chance must not spoil a number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openglm.config import require
from openglm.text.reading import Piece
from openglm.text.render import parse_reply, reader_of
from openglm.text.steps import BEGIN, END, GEN, SURE, no_call, read_call
from openglm.text.streaming import ReplyStream
from openglm.text.thinking import Thinking
from openglm.text.tokenizer import Tokenizer
from openglm.tools.claims import correction, mistakes

if TYPE_CHECKING:
    from openglm.tools.registry import Tools  # which takes a second to import


_FIELDS = ("at", "name", "arguments", "result")
_MOST_RETRIES = 2
_LIKELIEST = {"temperature": 0.0, "repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}


@dataclass
class Step:
    """One call. `result` is what the model was told, an error included; `at` counts the characters before it."""

    name: str
    arguments: Any
    result: str
    at: int = 0
    failed: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.arguments} → {self.result}"


class Turn:
    """While it is not `over`: put `request` to the engine, `feed` what comes of it and `advance` with its result."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        tools: Tools | None,
        schemas: Sequence[Mapping[str, Any]],
        ask: Callable[[list[Mapping[str, Any]]], tuple[list[int], int]],
        messages: Iterable[Mapping[str, Any]],
        params: Any,
        context: int,
        thinking: Thinking,
        reflect: bool = False,
        found: Any = None,
    ) -> None:
        """tools: those that are run here; None: calls are the caller's. schemas: the tools that the prompt lists.
        ask: prompt ids for messages, and how many of the oldest it left out. params: of all that the answer generates,
        an engine's SamplingParams. reflect: the reader sees an answer only when its equations and numbers have been
        checked; where one does not hold, the model is told and answers again, at most twice. found: the question and
        the sources that an answer is made from; its `check` says what is shown in its place, as `text` and more."""
        self._tokenizer, self._tools, self._schemas, self._ask = tokenizer, tools, schemas, ask
        self._messages, self._params, self._context, self._thinking = list(messages), params, context, thinking
        self._special, self._reflect = tokenizer.special, reflect
        self._exact: Any = None  # params inside a call, where they differ
        self.found = found
        self.checked: Any = None
        self._retries, self._held = _MOST_RETRIES, ""
        asked = [one.get("content") or "" for one in self._messages if one["role"] == "user"]
        self._question = asked[-1] if asked else ""
        if tools is None:
            bias = params.logit_bias | no_call(self._special)
            self._params = dataclasses.replace(params, logit_bias=bias)
        elif BEGIN in self._special:
            # Training on drawn answers needs all of their tokens drawn, by the model's own distribution.
            bias = params.logit_bias | {self._special[BEGIN]: 0.0 if params.logprobs_as_drawn else -SURE}
            stops = (*params.stop_ids, self._special[END])
            self._params = dataclasses.replace(params, logit_bias=bias, stop_ids=stops)
            if params.temperature > 0 and not params.logprobs_as_drawn:
                self._exact = dataclasses.replace(self._params, **_LIKELIEST)
                self._params = dataclasses.replace(self._params, stop_ids=(*stops, self._special[BEGIN]))
        self.added: list[dict[str, Any]] = []
        """what the answer adds to the conversation"""
        self.steps: list[Step] = []
        self.tool_calls: list[dict[str, Any]] = []
        """calls that are left to the caller"""
        self.tokens, self.over, self._spent = 0, False, 0.0
        self._open(*ask(self._messages))
        prompt = f"{len(self.request[0])} tokens"
        require(not self.over, "messages", prompt, f"do not fit the context of {context}; shorten them")

    def _open(self, prompt: list[int], dropped: int) -> None:
        """Begin an answer, of which a turn may have several."""
        self.dropped = dropped
        names = [tool.get("function", tool)["name"] for tool in self._schemas]
        reader = reader_of(self._tokenizer.format, self._schemas, self._thinking)
        self._stream = ReplyStream(self._tokenizer, names, reader)
        self._ids: list[int] = []  # without those of calls inside that are done
        self._inside: list[str] | None = None  # text of a call that is open
        self._first_step, self._continues = len(self.steps), bool(self.text)
        self._request(prompt)

    def _request(self, prompt: list[int], params: Any = None) -> None:
        room = min(self._params.max_tokens - self.tokens, self._context - len(prompt))
        self.over = room < 1
        self.request = prompt, dataclasses.replace(params or self._params, max_tokens=max(room, 1))

    @property
    def text(self) -> str:
        """Of all answers so far."""
        return "\n".join(filter(None, (message["content"] for message in self.added if message["role"] == "assistant")))

    @property
    def reasoning(self) -> str:
        return "\n".join(message.get("reasoning_content", "") for message in self.added).strip()

    def feed(self, token: int | None, text: str) -> list[Piece]:
        """What the reader sees of the engine's next token."""
        if self._tools is not None and token is not None and token == self._special.get(BEGIN):
            shown, self._inside = self._inside or [], []
            return self._read((None, one) for one in shown)  # an earlier call that was never closed
        if self._inside is not None:
            self._inside.append(text)
            return []
        return self._read([(token, text)])

    def _read(self, pieces: Iterable[tuple[int | None, str]]) -> list[Piece]:
        return self._taken(self._stream.feed(pieces))

    def _taken(self, content: str) -> list[Piece]:
        thoughts, self._stream.thoughts = "".join(self._stream.thoughts), []
        if content and self._continues:
            content, self._continues = f"\n{content}", False
        if self._reflect or self.found:
            content, self._held = "", self._held + content
        found = [("reasoning_content", thoughts), ("content", content)]
        return [(kind, text) for kind, text in found if text]

    def advance(self, ids: Sequence[int]) -> list[Piece]:
        """Take in all tokens of the request's result, and run what they call; returns what the reader sees, steps as
        ("step", Step)."""
        self.tokens += len(ids)
        read = [*self.request[0], *ids]
        self._room = self._context - len(read)
        self._ids += ids
        call = read_call(self._special, self._ids) if self._tools is not None else None
        if call is not None:
            start, name, arguments = call
            del self._ids[start:]
            self._inside = None
            step = self._run(self._tokenizer.decode(name).strip(), self._tokenizer.decode(arguments))
            step.at = len(self._tokenizer.decode(self._ids))
            result = [*self._tokenizer.encode(step.result), self._special[GEN]]
            self._request([*read, *result])
            return [("step", step), *(self._end() if self.over else [])]
        if self._exact is not None and self._ids[-1:] == [self._special[BEGIN]]:
            self._request(read, self._exact)
            if not self.over:
                return []
        return self._end()

    def _end(self) -> list[Piece]:
        """An answer has ended; where it calls tools, the next one begins behind their results."""
        pieces = self._read((None, text) for text in self._inside or ())
        pieces += self._taken(self._stream.end(self._ids)[0])
        message = parse_reply(self._tokenizer, self._ids, self._schemas, self._thinking)
        calls = message.pop("tool_calls", [])
        if self.found is not None:
            self.checked = self.found.check(message["content"])
            message["content"] = self._held = self.checked.text
        inside = [{field: getattr(step, field) for field in _FIELDS} for step in self.steps[self._first_step :]]
        message |= ({"steps": inside} if inside else {}) | ({"tool_calls": calls} if calls else {})
        self._messages.append(message)
        if self._reflect and not calls:
            pieces += self._mistakes(message["content"])
            if not self.over:
                self._held = ""
                return pieces
        self.added.append(message)
        pieces += [("content", self._held)] if self._held else []
        self._held = ""
        if not calls or self._tools is None:
            self.tool_calls, self.over = calls, True
            return pieces
        for call in calls:
            step = self._run(call["function"]["name"], call["function"]["arguments"])
            self.added.append({"role": "tool", "content": step.result})
            pieces.append(("step", step))
        self._messages += self.added[-len(calls) :]
        self._open(*self._ask(self._messages))
        return pieces

    def answered(self, checked: Any) -> None:
        """End it with an answer that needs no model, before any request."""
        self.checked, self.over = checked, True
        self.added.append({"role": "assistant", "content": checked.text})

    def _mistakes(self, answer: str) -> list[Piece]:
        """What does not hold in an answer, as steps. The turn is `over` unless the model answers again."""
        wrong = mistakes(self._question, answer)
        steps = [Step("Check", one.said, one.true, failed=not self._retries) for one in wrong]
        self.steps += steps
        self.over = True
        if wrong and self._retries:
            self._retries -= 1
            told = {"role": "user", "content": correction(self._question, wrong)}
            with contextlib.suppress(ValueError):  # where the context is full, the answer stays
                prompt, dropped = self._ask([*self._messages, told])
                if dropped == self.dropped:
                    self._messages.append(told)
                    self._open(prompt, dropped)
        return [("step", step) for step in steps]

    def _run(self, name: str, arguments: Any) -> Step:
        assert self._tools is not None
        start, left = time.monotonic(), self._tools.seconds - self._spent
        step = Step(name, arguments, "")
        try:
            if len(self.steps) >= self._tools.calls:
                raise ValueError(f"no more than {self._tools.calls} calls in one answer; answer without them")
            if left <= 0:
                raise ValueError(f"no more than {self._tools.seconds:g} s of calls in one answer; answer without them")
            step.result = self._tools.call(name, arguments, seconds=left, characters=max(self._room // 2, 100))
        except ValueError as error:
            step.result, step.failed = f"error: {error}", True
        self._spent += time.monotonic() - start
        self.steps.append(step)
        return step
