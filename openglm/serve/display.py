"""Text as the page shows it: Markdown, of which markup that could load, link to or run something stays text.

An invisible character breaks what must not be read as markup, so that an edited text can be turned back. Code is left
alone: nothing in it is markup, and it is there to be copied. Behind this stand Gradio's own cleaning and the content
policy of guard.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_BREAK = "\u2060"  # WORD JOINER
# The marks are taken whole or not at all: a line of nothing else would be tried at every length.
_FENCE = re.compile(
    r"^ {0,3}(?:(`{3,})(?!`)[^`\n]*\n.*?(?:^ {0,3}\1[ \t]*$|\Z)|(~{3,})(?!~)[^\n]*\n.*?(?:^ {0,3}\2[ \t]*$|\Z))",
    re.MULTILINE | re.DOTALL,
)
_CODE = re.compile(r"(?<![`\\])`[^`\n|$\\]+`(?!`)")  # what no table, formula or escape can cut apart
# A tag, an image, a link that is not to a plain web address, the definition of one.
_MARKUP = re.compile(r"<|!(?=\[)|\](?=\((?!https?://[^\s()<>\\&]+\)))|\](?=[:\[])")


def shown(text: str) -> str:
    pieces, start = [], 0
    for fence in _FENCE.finditer(text):
        pieces += [_line(text[start : fence.start()]), fence[0]]
        start = fence.end()
    return "".join([*pieces, _line(text[start:])])


def _line(text: str) -> str:
    pieces, start = [], 0
    for code in _CODE.finditer(text):
        pieces += [_broken(text[start : code.start()]), code[0]]
        start = code.end()
    return "".join([*pieces, _broken(text[start:])])


def _broken(text: str) -> str:
    return _MARKUP.sub(lambda mark: mark[0] + _BREAK, text)


def talk(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages of a conversation (chats.py) as Gradio's display takes them, one for one but that steps stand
    before their answer: these, calls and results fold up, sources stand below their answer."""
    out, name = [], ""
    for message in messages:
        for step in message.get("steps", ()):
            title, parts = f"↪ {step[0]}", "\n\n".join(map(_code, step[1:]))
            out.append({"role": "assistant", "content": parts, "metadata": {"title": shown(title)}})
        content, title = shown(message["content"]), ""
        if call := message.get("call"):
            name = call[0]
            content, title = f"{content}\n\n{_code(call[1])}".strip(), f"↪ {name}"
        elif message["role"] == "tool":
            content, title = _code(message["content"]), f"↩ {name}"
        for number, (label, address, quote) in enumerate(message.get("sources", ()), start=1):
            content += f"\n\n[{number}] " + shown(f"[{_flat(label) or address}]({address}) {_flat(quote)}")
        role = "user" if message["role"] == "user" else "assistant"
        out.append({"role": role, "content": content, **({"metadata": {"title": shown(title)}} if title else {})})
    return out


def _code(text: str) -> str:
    """A text as a block of code that it cannot end."""
    fence = "`" * (2 + max(map(len, re.findall("`+", text)), default=1))
    return f"{fence}\n{text}\n{fence}"


def _flat(text: str) -> str:
    return " ".join(text.split()).replace("[", "(").replace("]", ")")


def original(text: str) -> str:
    """A text that was shown, as it was before."""
    return re.sub(rf"(?<=[<!\]]){_BREAK}", "", text)
