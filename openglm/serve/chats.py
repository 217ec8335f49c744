"""A conversation that a browser keeps (page.js), as plain values: what comes from a browser is checked here before
anything is done with it.

It is {"id": id, "messages": [messages]}. Ids are random, so that they also name what is kept of a conversation's feedback
(feedback.py) without anybody else being able to.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WrapValidator

from openglm.serve.schemas import Json
from openglm.text.replies import arguments_of, is_name, json_text

Messages = list[Json]
_MOST_MESSAGES, _MOST_EXTRAS, _LONGEST = 1024, 64, 1 << 18


def _or_none(value: Any, check: Any) -> Any:
    """An extra that is malformed, or of which nothing is left, is left out."""
    try:
        return check(value[:_MOST_EXTRAS] if isinstance(value, list) else value) or None
    except ValidationError:
        return None


def _sound(call: list[str]) -> list[str]:
    if not is_name(call[0]) or arguments_of(call[1]) is None:
        raise ValueError("not a call")
    return call


_Extra = WrapValidator(_or_none)
_Text = Annotated[str, AfterValidator(lambda text: text[:_LONGEST])]
_Short = Annotated[str, AfterValidator(lambda text: text[:1024]), BeforeValidator(lambda value: value or "")]
_THREE = Field(min_length=3, max_length=3)


class _Plain(BaseModel):
    model_config = ConfigDict(strict=True)


class _Sampling(_Plain):
    temperature: float | None = Field(None, gt=-1e9, lt=1e9)
    top_p: float | None = Field(None, gt=-1e9, lt=1e9)
    max_tokens: float | None = Field(None, gt=-1e9, lt=1e9)


class _Source(_Plain):
    """A citation. index: the number that the text gives it. No event of the page may have a field `url` (layout.py)."""

    index: int = Field(gt=0, lt=10_000)
    title: _Short = ""
    address: _Short = ""
    quote: _Short = ""


class _Message(_Plain):
    role: Literal["user", "assistant", "tool"]
    content: _Text
    call: Annotated[
        Annotated[list[_Text], Field(min_length=2, max_length=2), AfterValidator(_sound)] | None, _Extra
    ] = None
    """name, arguments as JSON text"""
    sources: Annotated[list[_Source] | None, _Extra] = None
    problems: Annotated[list[_Short] | None, _Extra] = None
    """what could not be used as a source"""
    steps: Annotated[list[Annotated[list[_Text], _THREE]] | None, _Extra] = None
    """name, arguments, result of each tool that the server ran"""
    sampling: Annotated[_Sampling | None, _Extra] = None
    """what an answer was drawn with"""
    version: Annotated[Annotated[str, Field(pattern="^[0-9a-f]{16}$")] | None, _Extra] = None
    """the weights it came from"""


class _Chat(_Plain):
    id: str = Field(pattern="^[0-9a-f]{32}$")
    messages: list[Any]


def checked(chat: object) -> Json:
    """The conversation with all that is malformed left out; a new one where there is none."""
    try:
        found = _Chat.model_validate(chat)
    except ValidationError:
        return started()
    return {"id": found.id, "messages": _messages(found.messages)}


def started() -> Json:
    return {"id": uuid.uuid4().hex, "messages": []}


def _messages(values: list[Any]) -> Messages:
    good = []
    for value in values[:_MOST_MESSAGES]:
        with suppress(ValidationError):
            good.append(_Message.model_validate(value).model_dump(exclude_none=True))
    return good


def for_model(messages: Messages) -> Messages:
    """In OpenAI's form, as the renderer and the files of `glm chat` have them; sources become `citations`."""
    plain = []
    for message in messages:
        made: Json = {"role": message["role"], "content": message["content"]}
        if call := message.get("call"):
            function = {"name": call[0], "arguments": json.loads(call[1])}
            made["tool_calls"] = [{"type": "function", "function": function}]
        if sources := message.get("sources"):
            made["citations"] = [{"url" if name == "address" else name: one[name] for name in one} for one in sources]
        plain.append(made)
    return plain


def answer(message: Mapping[str, Any], sampling: Mapping[str, float], version: str) -> Json:
    """An assistant's message in OpenAI's form as a conversation keeps it. What a tool returned or a page said comes in
    here, so all of it is checked. version: which weights answered."""
    steps = [[one["name"], str(one["arguments"]), one["result"]] for one in message.get("steps", ())]
    own = {"role": "assistant", "content": message["content"], "sampling": sampling, "version": version, "steps": steps}
    own["problems"] = message.get("problems")
    return _messages([{**own, **_extras(message)}])[0]


def _extras(message: Mapping[str, Any]) -> Json:
    """`call` and `sources` out of `tool_calls` and `citations`, where there are any that can be read."""
    found: Json = {}
    with suppress(LookupError, TypeError, AttributeError):
        function = message["tool_calls"][0]["function"]
        found["call"] = [function["name"], json_text(arguments_of(function["arguments"]))]
    with suppress(LookupError, TypeError, AttributeError):
        cited = enumerate(message["citations"], start=1)
        found["sources"] = [{"index": number, **one, "address": one.get("url")} for number, one in cited]
    return found


def exported(chat: Json, system: str) -> str:
    """A conversation in the form that `/load` of `glm chat` reads."""
    return json.dumps({"system": system, "messages": for_model(chat["messages"])}, ensure_ascii=False, indent=1)


def imported(text: str) -> tuple[Messages, str]:
    """The messages and the system text of a file: one that was exported, one of `/save`, or a list of messages. No
    messages where it holds none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return [], ""
    value = value if isinstance(value, dict) else {"messages": value}
    found, system = value.get("messages"), value.get("system")
    rows = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    messages = _messages([{**one, "content": one.get("content") or "", **_extras(one)} for one in rows])
    return messages, system[:_LONGEST] if isinstance(system, str) else ""
