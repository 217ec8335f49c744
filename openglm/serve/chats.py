"""A conversation that a browser keeps (page.js), as plain values: what comes from a browser is checked here before
anything is done with it.

A store is {"now": id, "all": {id: [messages]}}, with the one conversation that is shown. Ids are random, so that they
also name what is kept of a conversation's feedback (feedback.py) without anybody else being able to. A message has a role
(user, assistant, tool) and a content; an answer may have `call`, [name, arguments as JSON text], `sources`, [[title,
address, quote], ...], `steps`, [[name, arguments, result], ...] of tools that the server ran, `sampling`, what it was
drawn with, and `version`, the weights it came from.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

from openglm.text.replies import arguments_of, is_name, json_text

Store = dict[str, Any]
Messages = list[dict[str, Any]]

_ID = re.compile(r"[0-9a-f]{32}")
_MOST_MESSAGES, _MOST_SOURCES, _LONGEST = 1024, 64, 1 << 18


def checked(store: object) -> Store:
    """The current conversation with all that is malformed left out; a new one where there is none."""
    chats, now = (store.get("all"), store.get("now")) if isinstance(store, dict) else (None, None)
    if isinstance(chats, dict) and isinstance(now, str) and _ID.fullmatch(now) and now in chats:
        return {"now": now, "all": {now: _messages(chats[now])}}
    return started()


def _messages(value: object) -> Messages:
    good = []
    for message in value[:_MOST_MESSAGES] if isinstance(value, list) else ():
        if (
            isinstance(message, dict)
            and message.get("role") in ("user", "assistant", "tool")
            and isinstance(message.get("content"), str)
        ):
            extras = {name: found for name, check in _EXTRAS.items() if (found := check(message.get(name)))}
            good.append({"role": message["role"], "content": message["content"][:_LONGEST], **extras})
    return good


def _call(value: object) -> list[str] | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    name, arguments = value
    sound = is_name(name) and isinstance(arguments, str) and len(arguments) <= _LONGEST
    return value if sound and arguments_of(arguments) is not None else None


def _sources(value: object) -> list[list[str]]:
    texts = (
        [one for one in value if isinstance(one, list) and len(one) == 3 and all(isinstance(text, str) for text in one)]
        if isinstance(value, list)
        else []
    )
    return [[text[:1024] for text in one] for one in texts[:_MOST_SOURCES]]


def _steps(value: object) -> list[list[str]]:
    """[name, arguments, result] of each."""
    found = [one for one in value if isinstance(one, list) and len(one) == 3] if isinstance(value, list) else []
    return [[text[:_LONGEST] for text in one] for one in found[:_MOST_SOURCES] if all(isinstance(t, str) for t in one)]


def _sampling(value: object) -> dict[str, float]:
    return (
        {
            name: float(value[name])
            for name in _SAMPLING
            if type(value.get(name)) in (int, float) and abs(value[name]) < 1e9
        }
        if isinstance(value, dict)
        else {}
    )


def _version(value: object) -> str:
    return value if isinstance(value, str) and re.fullmatch("[0-9a-f]{16}", value) else ""


_EXTRAS = {"call": _call, "sources": _sources, "steps": _steps, "sampling": _sampling, "version": _version}
_SOURCE = ("title", "url", "quote")
_SAMPLING = ("temperature", "top_p", "max_tokens")


def for_model(messages: Messages) -> list[dict[str, Any]]:
    """In OpenAI's form, as the renderer and the files of `glm chat` have them; sources become `citations`."""
    plain = []
    for message in messages:
        extras: dict[str, Any] = {}
        if "call" in message:
            extras["tool_calls"] = [
                {
                    "type": "function",
                    "function": {"name": message["call"][0], "arguments": json.loads(message["call"][1])},
                }
            ]
        if "sources" in message:
            extras["citations"] = [dict(zip(_SOURCE, one, strict=True)) for one in message["sources"]]
        plain.append({"role": message["role"], "content": message["content"], **extras})
    return plain


def answer(message: Mapping[str, Any], sampling: Mapping[str, float], version: str) -> dict[str, Any]:
    """An assistant's message in OpenAI's form as a store keeps it. What a tool returned or a page said comes in here,
    so all of it is checked. version: which weights answered."""
    steps = [[one["name"], str(one["arguments"]), one["result"]] for one in message.get("steps", ())]
    own = {"role": "assistant", "content": message["content"], "sampling": sampling, "version": version, "steps": steps}
    return _messages([{**own, **_extras(message)}])[0]


def _extras(message: Mapping[str, Any]) -> dict[str, Any]:
    """`call` and `sources` out of `tool_calls` and `citations`."""
    calls, cited = message.get("tool_calls"), message.get("citations")
    first = calls[0] if isinstance(calls, list) and calls and isinstance(calls[0], dict) else {}
    function = first["function"] if isinstance(first.get("function"), dict) else {}
    sources = (
        [[str(one.get(name) or "") for name in _SOURCE] for one in cited if isinstance(one, dict)]
        if isinstance(cited, list)
        else []
    )
    return {"call": [function.get("name"), json_text(arguments_of(function.get("arguments")))], "sources": sources}


def exported(store: Store, system: str) -> str:
    """The current conversation in the form that `/load` of `glm chat` reads."""
    return json.dumps({"system": system, "messages": for_model(current(store))}, ensure_ascii=False, indent=1)


def imported(text: str) -> tuple[Messages, str]:
    """The messages and the system text of a file: one that was exported, one of `/save`, or a list of messages. No
    messages where it holds none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return [], ""
    value = value if isinstance(value, dict) else {"messages": value}
    found = value["messages"] if isinstance(value.get("messages"), list) else []
    messages = [{**one, "content": one.get("content") or "", **_extras(one)} for one in found if isinstance(one, dict)]
    system = value.get("system")
    return _messages(messages), system[:_LONGEST] if isinstance(system, str) else ""


def started() -> Store:
    """With a new conversation."""
    name = uuid.uuid4().hex
    return {"now": name, "all": {name: []}}


def current(store: Store) -> Messages:
    return store["all"][store["now"]]


def with_current(store: Store, messages: Messages) -> Store:
    """With these messages in place of the conversation's."""
    return {"now": store["now"], "all": {store["now"]: messages}}
