"""What the interfaces share that do not speak of messages with fields: their requests in our words, and an answer as
blocks one after another: thoughts, text, calls, and steps, which are calls that the server ran."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openglm.serve.choices import Answering, new_function
from openglm.serve.errors import ApiError
from openglm.serve.forms import Form, Parts
from openglm.serve.schemas import ChatRequest, Json
from openglm.serve.sse import event


@dataclass
class Block:
    kind: str
    """thoughts, text, call or step"""
    number: int
    call: Mapping[str, Any]
    """of a call, in OpenAI's words; of a step, all that is known of it"""
    text: str = ""
    """for a call its arguments, for a step its result"""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    annotations: list[Json] = field(default_factory=list)
    citations: list[Json] = field(default_factory=list)
    """of a text from sources, as in a chat completion's message"""


Step = tuple[str, Block, str]
"""begin, add, cite or end; of which block; the text that is added"""


class Blocks(list[Block]):
    problems: Sequence[str] = ()
    """what could not be used as a source"""

    def feed(self, delta: Json | None) -> list[Step]:
        """What a message, or a delta of it, begins, adds to and ends; None ends the answer."""
        if delta is None:
            return [("end", self[-1], "")] if self else []
        steps = self._add("thoughts", delta.get("reasoning_content")) + self._add("text", delta.get("content"))
        for call in delta.get("tool_calls") or ():
            steps += self._add("call", call["function"]["arguments"], call if "id" in call else None)
        for step in delta.get("steps") or ():
            steps += self._add("step", step["result"], step)
        self.problems = delta.get("problems", self.problems)
        if delta.get("citations"):
            self[-1].annotations, self[-1].citations = delta["annotations"], delta["citations"]
            steps.append(("cite", self[-1], ""))
        return steps

    def _add(self, kind: str, text: str | None, call: Json | None = None) -> list[Step]:
        """call: one that begins."""
        if not text and call is None:
            return []
        steps: list[Step] = []
        if not self or self[-1].kind != kind or call is not None:
            steps = self.feed(None)
            self.append(Block(kind, len(self), call or {}))
            steps.append(("begin", self[-1], ""))
        self[-1].text += text or ""
        return [*steps, ("add", self[-1], text)] if text else steps


class BlockForm(Form):
    """An interface that speaks of blocks."""

    def __init__(self) -> None:
        self.blocks = Blocks()

    def events(self, kind: str, block: Block, text: str) -> Iterator[Json]:
        """Those that tell of a block's beginning, growth, sources or end, each with its type."""
        raise NotImplementedError

    def write(self, fields: Json) -> bytes:
        return event(fields, str(fields["type"]))

    def grow(self, answering: Answering, parts: Parts) -> bytes:
        steps = [step for _, delta in parts for step in self.blocks.feed(delta)]
        return b"".join([self.write(fields) for step in steps for fields in self.events(*step)])

    def unused(self) -> Json:
        """What could not be used as a source, in a field that none of these interfaces has; left out where empty."""
        return {"problems": self.blocks.problems} if self.blocks.problems else {}

    def read(self, answering: Answering) -> Blocks:
        """The blocks of a whole answer."""
        for delta in answering.choices[0].said:
            self.blocks.feed(delta)
        return self.blocks


def as_chat(translate: Callable[[Json], Json], body: Json) -> ChatRequest:
    """A request in our own words, in which it is checked. Raises ApiError where it is none of its interface."""
    try:
        fields = translate(body)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ApiError(400, f"body: not a request of this interface: {type(error).__name__}: {error}") from None
    return ChatRequest.model_validate({name: value for name, value in fields.items() if value is not None})


def arguments_text(step: Mapping[str, Any]) -> str:
    """A step's arguments as JSON: those of a call inside an answer are text."""
    given = step["arguments"]
    return json.dumps(given if isinstance(given, dict) else {"input": given}, ensure_ascii=False)


def web_search(body: Json) -> Json:
    """The request with `web` true where it lists the search of the interface's makers as a tool, and without that."""
    tools = body.get("tools") or []
    own = [one for one in tools if not str(one.get("type")).startswith("web_search")]
    return {**body, "web": True, "tools": own} if len(own) < len(tools) else body


def functions(tools: list[Json] | None, schema: str) -> list[Json] | None:
    """Tools in our own words; None where a request brings none, for then those of the server may run. schema: the name
    of the field that has a tool's parameters."""
    names = {"name": "name", "description": "description", "parameters": schema}
    return tools and [new_function(**{ours: one.get(name) for ours, name in names.items()}) for one in tools]


def text_of(content: str | list[Json] | None, key: str = "text") -> str:
    """The text of a content that may be in parts."""
    return content if isinstance(content, str) else "".join(part.get(key, "") for part in content or ())
