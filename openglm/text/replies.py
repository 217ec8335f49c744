"""Replies read back: what a model wrote, as a message with its text and its tool calls. Beside each reader of calls
stands the writer that it inverts.

Nothing that a model writes is run, and nothing that it writes raises: a call that is malformed, cut off or not closed by <|observation|> stays visible
as text. A reader takes the texts between <|assistant|> tokens, and whether <|observation|> closed the last of them.
"""

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]
Part = tuple[str, bool, bool]  # text or name of a special token; whether a special token; trained or not
Tool = Mapping[str, Any]
Arguments = Mapping[str, Any]

_LONGEST_CALL = 1 << 16  # characters that are given to Python's parser, which recurses
_FENCE = ("```python\n", "\n```")
_PLACEHOLDER = "[[训练时间]]"
_WIDE = {",": "，", "!": "！", ":": "：", ";": "；", "?": "？"}
_NARROW_BESIDE_HAN = re.compile("(?<=[\u4e00-\u9fff])[,!:;?]|[,!:;?](?=[\u4e00-\u9fff])")


def json_text(value: object, indent: int | None = None) -> str | None:
    """JSON text; None where there is none: NaN, foreign types, and half of a surrogate pair, which JSON can escape but
    no text can hold."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
        text.encode()
    except (ValueError, TypeError, RecursionError):
        return None
    return text


def arguments_of(value: object) -> dict[str, Any] | None:
    """A call's arguments, as JSON holds them; None unless they are an object or the text of one."""
    try:
        value = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return None
    text = json_text(value) if isinstance(value, Mapping) else None
    return None if text is None else json.loads(text)


def is_name(value: object) -> bool:
    return isinstance(value, str) and value.split() == [value] and value.isprintable()


def parse_text(text: str, called: bool) -> dict[str, Any]:
    """Content, then the call's name and its arguments as the last two lines: our own models' replies, and GLM-4's in
    tuning data."""
    if called:
        head, _, last_line = text.rpartition("\n")
        content, _, name = head.rpartition("\n")
        arguments = read_json_call(name, last_line)
        if is_name(name) and arguments is not None:
            return _message(content, name, arguments)
    return _message(text)


def parse_own(segments: Sequence[str], called: bool) -> dict[str, Any]:
    return parse_text(segments[0], called and len(segments) == 1)


def dated(text: str) -> str:
    """The makers' placeholder stands for a date."""
    return text.replace(_PLACEHOLDER, "2023年")


def widened(text: str) -> str:
    """Punctuation beside Chinese characters becomes full width, for ChatGLM-6B's normalization has lost that."""
    return _NARROW_BESIDE_HAN.sub(lambda mark: _WIDE[mark[0]], dated(text))


class Tidied:
    """`dated` or `widened` of a text that comes in pieces."""

    def __init__(self, tidy: Callable[[str], str]) -> None:
        self._tidy, self._before, self._held = tidy, "", ""

    def feed(self, text: str, last: bool = False) -> str:
        """The text that nothing behind it can change."""
        text = self._held + text
        sizes = range(min(len(_PLACEHOLDER) - 1, len(text)), 0, -1)
        held = next((size for size in sizes if _PLACEHOLDER.startswith(text[-size:])), int(text[-1:] in _WIDE))
        cut = len(text) if last else len(text) - held
        said = self._tidy(self._before + text[:cut])[len(self._before) :]
        self._held, self._before = text[cut:], said[-1:] or self._before
        return said


def parse_plain(segments: Sequence[str], called: bool) -> dict[str, Any]:
    """ChatGLM-6B and ChatGLM2: text."""
    return _message("\n".join(segments).strip())


def parse_chatglm3(segments: Sequence[str], called: bool) -> dict[str, Any]:
    return _parse_headers(segments, called, read_python_call)


def parse_glm4(segments: Sequence[str], called: bool) -> dict[str, Any]:
    return _parse_headers(segments, called, read_json_call)


def parse_z1(segments: Sequence[str], called: bool) -> dict[str, Any]:
    """As GLM-4, behind thoughts that end in </think>. Thoughts that never end are all there is of an answer."""
    ends = [number for number, segment in enumerate(segments) if "</think>" in segment]
    last = ends[0] if ends else len(segments) - 1
    thoughts, _, said = segments[last].partition("</think>")
    reply = parse_glm4([said, *segments[last + 1 :]], called and bool(ends))
    thoughts = "\n".join([*segments[:last], thoughts]).strip().removeprefix("<think>").strip()
    return {**reply, "reasoning_content": thoughts} if thoughts else reply


def _parse_headers(
    segments: Sequence[str], called: bool, read_call: Callable[[str, str], dict[str, Any] | None]
) -> dict[str, Any]:
    """Each segment is a header line, empty or the name of a tool, and a text or the tool's arguments."""
    contents: list[str] = []
    for number, segment in enumerate(segments):
        header, _, body = segment.partition("\n")
        name = header.strip()
        arguments = read_call(name, body) if called and number == len(segments) - 1 and is_name(name) else None
        if arguments is not None:
            return _message("\n".join(contents), name, arguments)
        contents.append(segment.strip() if name else body.strip())
    return _message("\n".join(filter(None, contents)))


def write_json_call(name: str, arguments: Arguments) -> str:
    return str(json_text(arguments))


def read_json_call(name: str, body: str) -> dict[str, Any] | None:
    return arguments_of(body)


def write_python_call(name: str, arguments: Arguments) -> str:
    """ChatGLM3's form: a call in Python, or code for its interpreter."""
    code = arguments.get("code")
    if name != "interpreter" or list(arguments) != ["code"] or not isinstance(code, str):
        code = f"tool_call({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
        if _literal_call(code) != arguments:  # a key that is no name in Python
            code = f"tool_call(**{dict(arguments)!r})"
    return code.join(_FENCE)


def read_python_call(name: str, body: str) -> dict[str, Any] | None:
    text, (opening, closing) = body.strip(), _FENCE
    if not (text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening) + len(closing)):
        return None
    code = text[len(opening) : -len(closing)]
    arguments = _literal_call(code)
    return arguments_of({"code": code}) if arguments is None and name == "interpreter" else arguments


def _literal_call(code: str) -> dict[str, Any] | None:
    """Arguments of `tool_call(name=literal, ...)`. Literals alone are read: nothing is looked up or called."""
    arguments: dict[str, Any] = {}
    try:
        call = ast.parse(code, mode="eval").body if len(code) <= _LONGEST_CALL else None
        if not (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Name)
            and call.func.id == "tool_call"
            and not call.args
        ):
            return None
        for keyword in call.keywords:
            value = ast.literal_eval(keyword.value)
            arguments.update({keyword.arg: value} if keyword.arg else dict(value))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None
    return arguments_of(arguments)


def _message(content: str, name: str = "", arguments: Arguments | None = None) -> dict[str, Any]:
    calls = [{"type": "function", "function": {"name": name, "arguments": arguments}}] if arguments is not None else []
    return {"role": "assistant", "content": content, "tool_calls": calls}
