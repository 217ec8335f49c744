"""Answers in the form of thinking.py, read while they come: thoughts, content and calls.

What is read does not depend on where the text is cut, and nothing is lost: a call that is malformed, cut off or of an
unknown tool stays visible as text. A call inside thoughts counts only where the thoughts never end.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from openglm.text.replies import Tool, arguments_of, is_name
from openglm.text.thinking import MARKS

Piece = tuple[str, Any]
"""("reasoning_content" | "content", text) or ("tool_calls", call)"""

_MARKS = MARKS[:8]  # those of thoughts and calls
_CUT = re.compile(f"({'|'.join(_MARKS)})")
_LONGEST_NAME = 256
_BEHIND = {"<arg_key>": "key", "</tool_call>": "end"}
_PYTHON = {"True": True, "False": False, "None": None}


class ReplyReader:
    """Feed it an answer's text in pieces of any length, then `end` it. White space around thoughts and around content
    is dropped; content on both sides of a call is joined by a line end."""

    def __init__(self, opened: bool, tools: Sequence[Tool] | None = None) -> None:
        """opened: the prompt has opened the thoughts. tools: those that may be called; None: any."""
        self._tools, self._opened, self._state = tools, opened, "start"
        functions = [tool.get("function", tool) for tool in tools or ()]
        self._schemas = {function["name"]: function.get("parameters") for function in functions}
        self._tail = ""  # may become a mark
        self._blanks: list[str] = []  # white space before the next letter
        self._kind, self._fresh, self._said = "", True, False
        self._held: list[str] = []  # of a call, or of thoughts from <tool_call> on
        self._pieces: list[Piece] = []

    def feed(self, text: str) -> list[Piece]:
        """What is certain now. All pieces together take time in proportion to their length."""
        text = self._tail + text
        start = text.rfind("<", max(len(text) - 11, 0))
        cut = start if start >= 0 and any(mark.startswith(text[start:]) for mark in _MARKS) else len(text)
        cut = len(text) if text.endswith(_MARKS) else cut
        self._tail = text[cut:]
        for piece in filter(None, _CUT.split(text[:cut])):
            self._take(piece)
        return self._taken()

    def end(self) -> list[Piece]:
        """The rest of an answer."""
        if self._tail:
            self._take(self._tail)
        if self._state == "call":
            self._say("content", "".join(self._held))
        elif self._state == "unsure":
            self._settle()
        return self._taken()

    def _taken(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces

    def _settle(self) -> None:
        """Thoughts have not ended: from the first sound call on it was the answer."""
        reader = ReplyReader(False, self._tools)
        reader._state = "content"
        for piece in self._held:
            reader._take(piece)
        pieces = reader.end()
        if all(kind != "tool_calls" for kind, _ in pieces):
            pieces = [("reasoning_content", "".join(self._held))]
        called = False
        for kind, what in pieces:
            called = called or kind == "tool_calls"
            self._say("content" if called else "reasoning_content", what) if kind != "tool_calls" else self._call(what)

    def _take(self, piece: str) -> None:
        calls = piece == "<tool_call>" and (self._tools is None or bool(self._tools))
        if self._state == "start" and piece == "<think>":
            self._state = "thoughts"
        elif self._state in ("start", "thoughts") and piece == "</think>":
            self._state = "content"
        elif self._state == "start" and not piece.isspace():
            self._state = "thoughts" if self._opened else "content"
            self._take(piece)
        elif self._state == "thoughts" and calls:
            self._state, self._held = "unsure", [piece]
        elif self._state == "unsure":
            self._held.append(piece)
            if piece == "</think>":
                self._say("reasoning_content", "".join(self._held[:-1]))
                self._state = "content"
        elif self._state == "content" and calls:
            self._state, self._held = "call", [piece]
            self._part = "name"
            self._words: list[str] = []
            self._pairs: list[tuple[str, list[str]]] = []
        elif self._state == "call":
            self._held.append(piece)
            self._part = self._next(piece)
            if self._part == "end":
                self._finish()
            elif self._part == "broken":
                self._break()
        elif self._state != "start":
            self._say("content" if self._state == "content" else "reasoning_content", piece)

    def _say(self, kind: str, text: str) -> None:
        if kind != self._kind:
            self._kind, self._fresh, self._said, self._blanks = kind, True, False, []
        said = text.lstrip() if self._fresh else text
        kept = said.rstrip()
        if kept:
            before = ["\n"] if self._fresh and self._said else self._blanks
            self._pieces.append((kind, "".join([*before, kept])))
            self._fresh, self._said, self._blanks = False, True, []
        if not self._fresh:
            self._blanks.append(said[len(kept) :])

    def _call(self, call: Mapping[str, Any]) -> None:
        self._pieces.append(("tool_calls", call))
        self._fresh, self._said = True, self._said and self._kind == "content"
        self._kind, self._state, self._blanks = "content", "content", []

    def _known(self, name: str, whole: bool) -> bool:
        """Whether this is the name of a tool, or may become one."""
        if self._tools is None:
            return is_name(name) if name else not whole
        return name in self._schemas if whole else any(one.startswith(name) for one in self._schemas)

    def _next(self, piece: str) -> str:
        """Take one more piece of a call; returns what the call then waits for. A value ends where another argument or
        the end of the call follows, so that marks in a value are its text."""
        if self._part == "name":
            if piece in ("<arg_key>", "</tool_call>"):
                self._name, self._words = "".join(self._words).strip(), []
                return _BEHIND[piece] if self._known(self._name, whole=True) else "broken"
            self._words.append(piece)
            text = "".join(self._words)
            return "name" if len(text) <= _LONGEST_NAME and self._known(text.strip(), whole=False) else "broken"
        if self._part == "key":
            if piece == "</arg_key>":
                self._pairs.append(("".join(self._words).strip(), []))
                return "between"
            self._words.append(piece)
            return "broken" if piece in _MARKS else "key"
        if self._part == "between":
            return "value" if piece == "<arg_value>" else "between" if piece.isspace() else "broken"
        value = self._pairs[-1][1]
        if self._part == "value" and piece != "</arg_value>":
            value.append(piece)
            return "value"
        if piece == "</arg_value>":
            value.extend(self._words if self._part == "after" else ())
            self._words = [piece]
            return "after"
        if piece in _BEHIND:
            self._words = []
            return _BEHIND[piece]
        self._words.append(piece)
        if piece.isspace():
            return "after"
        value.extend(self._words)
        return "value"

    def _finish(self) -> None:
        schema = self._schemas.get(self._name)
        arguments = {key: _typed("".join(words), _types(schema, key)) for key, words in self._pairs}
        sound = arguments_of(arguments) if len(arguments) == len(self._pairs) else None
        if sound is None:
            self._break()
        else:
            self._call({"type": "function", "function": {"name": self._name, "arguments": sound}})

    def _break(self) -> None:
        """No call: its text is content, and the last piece may open another."""
        self._state = "content"
        self._say("content", "".join(self._held[:-1]))
        self._take(self._held[-1])


def read_reply(reader: ReplyReader, text: str) -> dict[str, Any]:
    """A whole answer as a message."""
    pieces = [*reader.feed(text), *reader.end()]
    said = {
        kind: [what for one, what in pieces if one == kind] for kind in ("content", "reasoning_content", "tool_calls")
    }
    message = {"role": "assistant", "content": "".join(said["content"]), "tool_calls": said["tool_calls"]}
    thoughts = "".join(said["reasoning_content"])
    return {**message, "reasoning_content": thoughts} if thoughts else message


def _types(schema: Any, key: str) -> set[str] | None:
    """JSON types that a tool's schema allows an argument; None where it does not say."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    return _allowed(properties.get(key), schema, 8) if isinstance(properties, Mapping) else None


def _allowed(schema: Any, root: Mapping[str, Any], depth: int) -> set[str] | None:
    if not isinstance(schema, Mapping) or not depth:
        return None
    if isinstance(schema.get("$ref"), str):
        part: Any = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            part = part.get(step) if isinstance(part, Mapping) else None
        return _allowed(part, root, depth - 1)
    if isinstance(schema.get("type"), str | list):
        return {schema["type"]} if isinstance(schema["type"], str) else {str(one) for one in schema["type"]}
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        return set().union(*map(_kinds, values))
    either = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    found = [_allowed(one, root, depth - 1) for one in either] if isinstance(either, list) else [None]
    return None if None in found else set().union(*filter(None, found))


def _kinds(value: Any) -> set[str]:
    """The JSON types that a value has."""
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int | float):
        return {"number", "integer"} if isinstance(value, int) or value.is_integer() else {"number"}
    return {{type(None): "null", str: "string", list: "array"}.get(type(value), "object")}


def _typed(text: str, types: set[str] | None) -> Any:
    """An argument: strings are written as they are, all else as JSON."""
    if types == {"string"}:
        return text
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _PYTHON.get(text.strip(), text) if types and "string" not in types else text
    fits = types is None or "string" not in types or bool(_kinds(value) & types)
    return value if fits and not isinstance(value, str) else text


def _refuse(name: str) -> None:
    raise ValueError(name)
