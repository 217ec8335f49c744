"""The conversations that a browser keeps, as plain values: what comes from a browser is checked here before anything is done with it.

A store is {"now": id, "all": {id: [messages]}}; the newest conversation is the last. Ids are random, so that they also name what is kept of a
conversation's feedback (feedback.py) without anybody else being able to.
"""

from __future__ import annotations

import re
import uuid
from typing import Any

Store = dict[str, Any]
Messages = list[dict[str, str]]

_ID = re.compile(r"[0-9a-f]{32}")
_MOST_CHATS, _MOST_MESSAGES, _LONGEST = 200, 1024, 1 << 18
_TITLE = 40


def checked(store: object) -> Store:
    """A store with all that is malformed left out, and a conversation to go on with."""
    found = store.get("all") if isinstance(store, dict) else None
    chats = {name: _messages(value) for name, value in (found if isinstance(found, dict) else {}).items() if isinstance(name, str) and _ID.fullmatch(name)}
    chats = dict(list(chats.items())[-_MOST_CHATS:])
    now = store.get("now") if isinstance(store, dict) else None
    return {"now": now, "all": chats} if isinstance(now, str) and now in chats else started({"now": "", "all": chats})


def _messages(value: object) -> Messages:
    good = []
    for message in value[:_MOST_MESSAGES] if isinstance(value, list) else ():
        if isinstance(message, dict) and message.get("role") in ("user", "assistant") and isinstance(message.get("content"), str):
            good.append({"role": message["role"], "content": message["content"][:_LONGEST]})
    return good


def started(store: Store) -> Store:
    """With a new conversation, or the empty one that there is already."""
    chats = {name: messages for name, messages in store["all"].items() if messages}
    name = uuid.uuid4().hex
    return {"now": name, "all": {**chats, name: []}}


def current(store: Store) -> Messages:
    return store["all"][store["now"]]


def with_current(store: Store, messages: Messages) -> Store:
    """The current conversation replaced, as the newest."""
    others = {name: kept for name, kept in store["all"].items() if name != store["now"]}
    return {"now": store["now"], "all": {**others, store["now"]: messages}}


def without(store: Store, name: str) -> Store:
    left = {"now": "", "all": {other: kept for other, kept in store["all"].items() if other != name}}
    return started(left)


def found(store: Store, words: str) -> list[tuple[str, str]]:
    """(title, id) of the conversations that hold all words, newest first."""
    wanted = words.lower().split()
    hits = []
    for name, messages in reversed(store["all"].items()):
        text = "\n".join(message["content"] for message in messages).lower()
        if messages and all(word in text for word in wanted):
            hits.append((title(messages), name))
    return hits


def title(messages: Messages) -> str:
    line = " ".join(messages[0]["content"].split())
    return line[:_TITLE] + ("…" if len(line) > _TITLE else "")
