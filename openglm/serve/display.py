"""Text as the page shows it: Markdown, of which markup that could load, link to or run something stays text.

An invisible character breaks what must not be read as markup, so that an edited text can be turned back. What a user
typed is a block of code, which page.css makes look like text. Code is left alone: nothing in it is markup, and it is
there to be copied. Behind this stand Gradio's own cleaning and the content
policy of guard.py.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from openglm.assistant import Filling

BLANK = re.compile("_{3,}")
_BREAK, _SPACE = "\u2060", "\ufeff"  # WORD JOINER; a zero-width character that Markdown takes for a space
# The marks are taken whole or not at all: a line of nothing else would be tried at every length.
_FENCE = re.compile(
    r"^ {0,3}(?:(`{3,})(?!`)[^`\n]*\n.*?(?:^ {0,3}\1[ \t]*$|\Z)|(~{3,})(?!~)[^\n]*\n.*?(?:^ {0,3}\2[ \t]*$|\Z))",
    re.MULTILINE | re.DOTALL,
)
_CODE = re.compile(r"(?<![`\\])`[^`\n|$\\]+`(?!`)")  # what no table, formula or escape can cut apart
# A tag, an image, a link that is not to a plain web address, the definition of one; an entity, which is its letters.
_MARKUP = re.compile(r"<|!(?=\[)|\](?=\((?!https?://[^\s()<>\\&]+\)))|\](?=[:\[])|&(?=#?\w{1,31};)")
# A factor, a power, __init__, about: no emphasis, nothing that is struck out.
_MARKS = re.compile(r"(?<=[0-9A-Za-z)\]])\*{1,2}(?=[0-9A-Za-z(\[])|(?<![\w_])__(?=\w+__(?!\w))|(?<![~/])~(?!~)")
# As Pandoc has it, and without Chinese: $5 or $6 is none. The page's own marks of a formula are the others.
_FORMULA = re.compile(r"(?<![\w$\\])\$(?![\s$])([^$`\n\u3000-\u9fff\uff00-\uffef]{1,500})(?<![\s\\])\$(?![\w$])")
_TYPED = re.compile(r"(`{3,})typed\n(.*)\n\1", re.DOTALL)


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
    text = _MARKUP.sub(lambda mark: mark[0] + _BREAK, text)
    pieces = _FORMULA.split(text)  # text and formula in turn
    pieces[::2] = [_MARKS.sub(lambda mark: mark[0] + _SPACE, piece) for piece in pieces[::2]]
    pieces[1::2] = [f"{_BREAK}\\({formula}\\){_BREAK}" for formula in pieces[1::2]]
    return "".join(pieces)


def talk(chat: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Messages of a conversation (chats.py) as Gradio's display takes them, one for one but that steps stand
    before their answer: these fold up once it is there; calls and results can be folded. Sources are JSON in a block
    of code that bears the conversation's random name: page.js makes a list of it, and no model can write one."""
    out, name = [], ""
    for message in chat["messages"]:
        for step in message.get("steps", ()):
            title, parts = f"↪ {step[0]}", "\n\n".join(map(_code, step[1:]))
            folded = {"status": "done"} if message["content"] else {}
            out.append({"role": "assistant", "content": parts, "metadata": {"title": shown(title), **folded}})
        content, title = shown(message["content"]), ""
        if call := message.get("call"):
            name = call[0]
            content, title = f"{content}\n\n{_code(call[1])}".strip(), f"↪ {name}"
        elif message["role"] == "tool":
            content, title = _code(message["content"]), f"↩ {name}"
        sources, problems = message.get("sources", []), message.get("problems", [])
        if sources or problems:
            content += "\n\n" + _code(json.dumps([sources, problems], ensure_ascii=False), f"sources-{chat['id']}")
        role = "user" if message["role"] == "user" else "assistant"
        content = _code(message["content"], "typed") if role == "user" else content
        out.append({"role": role, "content": content, **({"metadata": {"title": shown(title)}} if title else {})})
    return out


def _code(text: str, kind: str = "") -> str:
    """A text as a block of code that it cannot end."""
    fence = "`" * (2 + max(map(len, re.findall("`+", text)), default=1))
    return f"{fence}{kind}\n{text}\n{fence}"


def original(text: str) -> str:
    """A text that was shown, as it was before: `plain` in page.js does the same."""
    if typed := _TYPED.fullmatch(text):
        return typed[2]
    text = re.sub(rf"{_BREAK}\\\((.*?)\\\){_BREAK}", r"$\1$", text)
    return re.sub(rf"(?<=[<!\]&]){_BREAK}|(?<=[*_~]){_SPACE}", "", text)


def filled(pieces: Sequence[str], fillings: Sequence[Filling]) -> str:
    """A text whose blanks are filled, and below it the likeliest fillings of each with their chances, as HTML."""
    whole, tables = html.escape(pieces[0]), ""
    for number, (filling, piece) in enumerate(zip(fillings, pieces[1:], strict=True), start=1):
        whole += f"<mark>{html.escape(filling.text)}</mark>{html.escape(piece)}"
        rows = "".join(
            f"<tr><td>{html.escape(one.text)}</td><td><i style='width:{one.probability:.1%}'></i></td>"
            f"<td>{one.probability:.1%}</td></tr>"
            for one in filling.choices
        )
        tables += f"<table><caption>{number}</caption><tbody>{rows}</tbody></table>"
    return f"<p>{whole}</p><div class='blanks'>{tables}</div>"
