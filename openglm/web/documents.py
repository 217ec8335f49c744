"""Bytes of a page or a file as a title and its text. What cannot be read is a ValueError of one line."""

from __future__ import annotations

import codecs
import html
import io
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from openglm.config import require, shown

KINDS = {".txt": "txt", ".md": "md", ".html": "html", ".htm": "html", ".xhtml": "html", ".pdf": "pdf"}
_DECLARED = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w-]{1,40})""", re.IGNORECASE)
_TITLE = re.compile(r"<title[^>]{0,200}>(.{0,1000}?)</title", re.IGNORECASE | re.DOTALL)
_LONGEST = 1 << 20  # letters of a page: more take an extractor seconds
_PAGES = 500  # of a PDF


@dataclass(frozen=True)
class Document:
    """A text and where it is from."""

    url: str
    title: str
    text: str


def read(raw: bytes, kind: str, url: str, charset: str = "") -> Document:
    """kind: one of `KINDS`. charset: as the server declares it. Raises ValueError."""
    if kind == "pdf":
        title, text = "", _pdf(raw, url)
    else:
        text = decode(raw, charset)
        title, text = _html(text) if kind == "html" else _heading(text, kind)
    require(bool(text.strip()), "document", url, "has no text")
    return Document(url, " ".join(title.split()) or unquote(Path(url).name) or url, text)


def decode(raw: bytes, charset: str = "") -> str:
    """UTF-8 where it is that, for no other text looks so; else what server or page declare, else the likeliest."""
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if raw.startswith(mark):
            return raw.decode(name, errors="replace")
    declared = _DECLARED.search(raw[:4096])
    for name in ("utf-8", charset, declared[1].decode() if declared else ""):
        try:
            return raw.decode({"gb2312": "gb18030", "gbk": "gb18030"}.get(name.lower(), name))
        except (LookupError, UnicodeError):
            continue
    from charset_normalizer import from_bytes

    best = from_bytes(raw[: 1 << 16]).best()
    return raw.decode(best.encoding if best else "latin-1", errors="replace")


def _heading(text: str, kind: str) -> tuple[str, str]:
    first = text.lstrip().partition("\n")[0]
    return (first.strip("# ") if kind == "md" and first.startswith("#") else ""), text


def _html(page: str) -> tuple[str, str]:
    import trafilatura

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    page = page[:_LONGEST]
    if "<html" not in page[: 1 << 12].lower():  # else it is taken for no page at all
        page = f"<html><body>{page}</body></html>"
    title = _TITLE.search(page[: 1 << 16])
    try:
        text = trafilatura.extract(page, include_comments=False, with_metadata=False) or trafilatura.html2txt(page)
    except (RecursionError, ValueError):
        text = ""
    return html.unescape(title[1]) if title else "", text or ""


def _pdf(raw: bytes, url: str) -> str:
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # the error below says it
    try:
        pages = pypdf.PdfReader(io.BytesIO(raw)).pages
        require(len(pages) <= _PAGES, "PDF", url, f"has {len(pages)} pages, of at most {_PAGES}; cut it")
        return "\n\n".join(page.extract_text() for page in pages)
    except (pypdf.errors.PyPdfError, OSError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"document = {shown(url)}: not a PDF that can be read ({type(error).__name__})") from None
