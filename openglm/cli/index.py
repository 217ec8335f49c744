"""`glm index`: folders, files and web pages made searchable."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from openglm.cli.options import parse
from openglm.config import require
from openglm.web.config import WebConfig

_SHOWN = 20


@dataclass
class IndexOptions:
    """Make an index, or bring one up to date: glm index docs/ https://example.org/ --out my.index."""

    places: Annotated[tuple[str, ...], tyro.conf.Positional]
    """folders, files (txt, md, html, pdf) and URLs; what was indexed from them and is gone is removed"""
    out: str
    """folder of the index"""
    web: WebConfig = field(default_factory=WebConfig)
    """how pages are fetched and passages embedded"""


def run(argv: list[str]) -> int:
    options = parse(IndexOptions, argv, "glm index", "Make folders and web pages searchable.")
    require(len(options.places) > 0, "places", "", "name a folder, a file or a URL")
    from openglm.runtime import progress
    from openglm.web.building import build
    from openglm.web.index import Index
    from openglm.web.ranking import embedder

    index = Index(options.out, embedder(options.web.embedder), create=True)
    with progress("reading", None, "documents") as done:
        update = build(index, options.places, options.web, done)
    for problem in update.problems[:_SHOWN]:
        print(problem, file=sys.stderr)
    if len(update.problems) > _SHOWN:
        print(f"... and {len(update.problems) - _SHOWN} more that could not be read", file=sys.stderr)
    if update.others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in update.others.most_common(5))
        print(f"left out, for only txt, md, html and pdf are read: {kinds}", file=sys.stderr)
    print(
        f"{options.out}: {update.new} new documents, {update.changed} changed, {update.unchanged} as before, "
        f"{update.removed} removed, {len(update.problems)} not readable; {len(index)} passages"
    )
    if index.embedder and index.missing():
        with progress("embedding; Ctrl-C is safe, the index works already", index.missing(), "passages") as done:
            index.embed(done)
    return 0
