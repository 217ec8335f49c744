"""An index brought up to date with folders, files and web pages."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from openglm.config import require
from openglm.web.config import WebConfig
from openglm.web.documents import KINDS, Document, read
from openglm.web.index import Index
from openglm.web.pages import Gone, Pages

_LARGEST = 64 << 20  # bytes of a file


@dataclass
class Update:
    """What became of the documents. `problems`: a line for each that could not be read; one that stood in the index
    before stays in it."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    problems: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    """files of kinds that are not read, by suffix"""


def build(
    index: Index, places: Sequence[str], config: WebConfig, done: Callable[[int], object] = lambda count: None
) -> Update:
    """Index folders, files and URLs. Files are read where size or time have changed, pages where the cache is too old.
    What was indexed from these places and is there no longer goes. Raises ValueError where a place does not exist."""
    pages = [place for place in places if place.startswith(("http://", "https://"))]
    roots = [Path(place).resolve() for place in places if place not in pages]
    for root in roots:
        require(root.exists(), "place", str(root), "is no folder, file or URL")
    before, update = index.stamps(), Update()
    seen: set[str] = set()

    def documents() -> Iterator[tuple[Document, str]]:
        for document, stamp in chain(_files(roots, before, seen, update), _pages(pages, config, before, seen, update)):
            update.new += document.url not in before
            update.changed += document.url in before
            done(1)
            yield document, stamp

    def gone() -> list[str]:
        """Pages that are gone are not in `seen`; other pages are, whatever happened to them."""
        under = [root.as_uri() for root in roots]
        places = [
            url for url in before if url in pages or any(url == one or url.startswith(f"{one}/") for one in under)
        ]
        found = [url for url in places if url not in seen]
        update.removed = len(found)
        return found

    index.update(documents(), gone)
    return update


def _files(
    roots: Sequence[Path], before: dict[str, str], seen: set[str], update: Update
) -> Iterator[tuple[Document, str]]:
    for path in dict.fromkeys(
        path for root in roots for path in ([root] if root.is_file() else sorted(root.rglob("*")))
    ):
        if not path.is_file():
            continue
        if path.suffix.lower() not in KINDS:
            update.others[path.suffix or path.name] += 1
            continue
        url, status = path.as_uri(), path.stat()
        stamp = f"{status.st_size} {status.st_mtime_ns}"
        seen.add(url)
        if before.get(url) == stamp:
            update.unchanged += 1
            continue
        try:
            require(status.st_size <= _LARGEST, "file", str(path), f"has {status.st_size} bytes; at most {_LARGEST}")
            yield read(path.read_bytes(), KINDS[path.suffix.lower()], url), stamp
        except (OSError, ValueError, ModuleNotFoundError) as error:
            update.problems.append(f"{path}: {error}")


def _pages(
    urls: Sequence[str], config: WebConfig, before: dict[str, str], seen: set[str], update: Update
) -> Iterator[tuple[Document, str]]:
    found = asyncio.run(Pages(config.seconds, config.hours, config.allow).read_all(urls)) if urls else []
    for url, page in zip(urls, found, strict=True):
        if isinstance(page, Document):
            seen.add(url)
            stamp = hashlib.sha256(f"{page.title}\n{page.text}".encode()).hexdigest()
            if before.get(url) == stamp:
                update.unchanged += 1
            else:
                yield Document(url, page.title, page.text), stamp
        else:
            update.problems.append(str(page))
            if not isinstance(page, Gone):
                seen.add(url)
