"""Text as the page shows it: Markdown, of which markup that could load, link to or run something stays text.

An invisible character breaks what must not be read as markup, so that an edited text can be turned back. Code is left alone: nothing in it is
markup, and it is there to be copied. Behind this stand Gradio's own cleaning and the content policy of guard.py.
"""

from __future__ import annotations

import re

_BREAK = "\u2060"  # WORD JOINER
_FENCE = re.compile(r"^ {0,3}(```+|~~~+)[^\n]*\n.*?(?:^ {0,3}\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?<![`\\])`[^`\n|$\\]+`(?!`)")  # what no table, formula or escape can cut apart
# A tag, an image, a link that is not to a plain web address, the definition of one.
_MARKUP = re.compile(r"<|!(?=\[)|\](?=\((?!https?://[^\s()<>\\&]+\)))|\](?=[:\[])")


def shown(text: str) -> str:
    pieces, place = [], 0
    for fence in _FENCE.finditer(text):
        pieces += [_line(text[place : fence.start()]), fence[0]]
        place = fence.end()
    return "".join([*pieces, _line(text[place:])])


def _line(text: str) -> str:
    pieces, place = [], 0
    for code in _CODE.finditer(text):
        pieces += [_broken(text[place : code.start()]), code[0]]
        place = code.end()
    return "".join([*pieces, _broken(text[place:])])


def _broken(text: str) -> str:
    return _MARKUP.sub(lambda mark: mark[0] + _BREAK, text)


def original(text: str) -> str:
    """A text that was shown, as it was before."""
    return re.sub(rf"(?<=[<!\]]){_BREAK}", "", text)
