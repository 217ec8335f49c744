"""What the interfaces share that do not speak of messages with fields: their requests in our words, and an answer as
blocks one after another: thoughts, text, calls."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from openglm.serve.errors import ApiError
from openglm.serve.schemas import ChatRequest

Json = dict[str, Any]


@dataclass
class Block:
    kind: str
    """thoughts, text or call"""
    number: int
    call: Mapping[str, Any]
    text: str = ""
    """for a call its arguments"""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


Step = tuple[str, Block, str]
"""begin, add or end; of which block; the text that is added"""


class Blocks(list[Block]):
    def feed(self, delta: Mapping[str, Any] | None) -> list[Step]:
        """What a message, or a delta of it, begins, adds to and ends; None ends the answer."""
        if delta is None:
            return [("end", self[-1], "")] if self else []
        steps = self._add("thoughts", delta.get("reasoning_content"), {}) + self._add("text", delta.get("content"), {})
        for call in delta.get("tool_calls") or ():
            steps += self._add("call", call["function"]["arguments"], call)
        return steps

    def _add(self, kind: str, text: str | None, call: Mapping[str, Any]) -> list[Step]:
        if not text and "id" not in call:
            return []
        steps: list[Step] = []
        if not self or self[-1].kind != kind or "id" in call:
            steps = self.feed(None)
            self.append(Block(kind, len(self), call))
            steps.append(("begin", self[-1], ""))
        self[-1].text += text or ""
        return [*steps, ("add", self[-1], text)] if text else steps


def as_chat(translate: Callable[[Json], Json], body: Json) -> ChatRequest:
    """A request in our own words, in which it is checked. Raises ApiError where it is none of its interface."""
    try:
        fields = translate(body)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ApiError(400, f"body: not a request of this interface: {type(error).__name__}: {error}") from None
    return ChatRequest.model_validate({name: value for name, value in fields.items() if value is not None})


def text_of(content: str | list[Json] | None, key: str = "text") -> str:
    """The text of a content that may be in parts."""
    return content if isinstance(content, str) else "".join(part.get(key, "") for part in content or ())


def call(id: str, name: str, arguments: str) -> Json:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def function(**fields: Any) -> Json:
    return {"type": "function", "function": fields}
