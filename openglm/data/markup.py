"""Plain text out of HTML pages: good enough for training text, not for rendering."""

import re
from html.parser import HTMLParser

_BLOCKS = {
    "p",
    "div",
    "li",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "tr",
    "br",
    "pre",
    "dt",
    "dd",
    "table",
    "ul",
    "ol",
    "dl",
    "section",
    "blockquote",
}
_SKIPPED = {"script", "style", "nav", "footer", "head", "noscript", "button", "select"}
_VOID = {"br", "hr", "img", "input", "meta", "link", "area", "base", "col", "embed", "source", "track", "wbr"}


class _Page(HTMLParser):
    def __init__(self, inside: str, without: frozenset[str]) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._inside, self._without = inside, without
        self._open: list[tuple[str, bool, bool]] = []  # tag, skipped, inside the wanted element

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCKS:
            self.parts.append("\n")
        if tag in _VOID:
            return
        values = dict(attrs)
        skipped, inside = self._open[-1][1:] if self._open else (False, not self._inside)
        skipped = skipped or tag in _SKIPPED or bool(self._without & set((values.get("class") or "").split()))
        self._open.append((tag, skipped, inside or values.get("id") == self._inside))

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.parts.append("\n")
        depth = next((i for i in range(len(self._open) - 1, -1, -1) if self._open[i][0] == tag), None)
        if depth is not None:
            del self._open[depth:]

    def handle_data(self, data: str) -> None:
        skipped, inside = self._open[-1][1:] if self._open else (False, not self._inside)
        if inside and not skipped:
            self.parts.append(data.replace("\n", " "))


def html_text(page: str, inside: str = "", without: frozenset[str] = frozenset()) -> str:
    """The text of a page, a line per block. `inside`: only the element of this id; `without`: drop elements of these
    classes."""
    parser = _Page(inside, without)
    parser.feed(page)
    lines = (re.sub(r"\s+", " ", line).strip() for line in "".join(parser.parts).split("\n"))
    return "\n".join(line for line in lines if line)
