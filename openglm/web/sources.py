"""What an answer is made from: the passages for a question, the prompt that shows them, and the check behind it."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from openglm.config import require
from openglm.web.citations import Checked, Source, check
from openglm.web.config import WebConfig
from openglm.web.documents import Document
from openglm.web.index import Index
from openglm.web.pages import Pages
from openglm.web.ranking import Embedder, best, embedder
from openglm.web.search import ENGINES, search
from openglm.web.words import passages

_MARK = re.compile(r"\[(\d[\d\s,，、]*)\]")
_LOOK = 0.1  # seconds between two looks whether to stop
_NOTHING = "The sources say nothing that answers this.", "资料中没有能回答这个问题的内容。"


def prompt(question: str, sources: Sequence[Source]) -> str:
    """WebGLM's words, with an end of line where it has a backslash. Each source is one line, so it cannot pass for a
    reference, a question or a turn of the conversation; its own marks such as [1] become (1)."""
    texts = [_MARK.sub(r"(\1)", " ".join(source.text.split())) for source in sources]
    lines = [f"Reference [{number}]: {text}" for number, text in enumerate(texts, 1)]
    return "\n".join([*lines, f"Question: {question}", "Answer:"])


@dataclass
class Found:
    """Passages for a question. `problems`: what could not be used, a line each."""

    question: str
    sources: list[Source] = field(default_factory=list)
    vectors: np.ndarray | None = None
    problems: list[str] = field(default_factory=list)
    embedder: Embedder | None = None

    def fitting(self, fits: Callable[[Sequence[Source]], bool]) -> Found:
        """As many of the first passages as fit."""
        kept = len(self.sources)
        while kept and not fits(self.sources[:kept]):
            kept -= 1
        if kept == len(self.sources):
            return self
        problem = f"{len(self.sources) - kept} of {len(self.sources)} passages do not fit the model's context"
        vectors = None if self.vectors is None else self.vectors[:kept]
        return replace(self, sources=self.sources[:kept], vectors=vectors, problems=[*self.problems, problem])

    def check(self, text: str) -> Checked:
        """The answer with its citations made right; a refusal where no sentence has support."""
        checked = check(text, self.sources, None if self.vectors is None else self._similar)
        checked.problems = self.problems
        if not checked.citations:
            checked.text = _NOTHING[bool(re.search("[\u4e00-\u9fff]", self.question))]
        return checked

    def _similar(self, sentence: str) -> np.ndarray:
        assert self.embedder is not None and self.vectors is not None, "vectors come from an embedder"
        return self.vectors @ self.embedder.embed([sentence], False)[0]


class Web:
    """`Web("INDEX").find("Who wrote it?")`"""

    def __init__(self, index: str | Path = "", config: WebConfig | None = None) -> None:
        """index: folder made by `glm index`, unless config.search names an engine. Raises ValueError."""
        self.config = config or WebConfig()
        self.embedder = embedder(self.config.embedder)
        self.index = Index(index, self.embedder) if self.config.search == "index" else None

    def find(self, question: str, stop: threading.Event | None = None) -> Found:
        """The passages that answer a question best; problems where there are none. Whoever sets `stop`, or waits no
        longer (Ctrl-C), ends the search. Raises ValueError where none is possible, CancelledError where it was ended.
        """
        require(bool(question.strip()), "question", question, "is empty")
        found = Found(question, embedder=self.embedder)
        if self.index is not None:
            found.sources, found.vectors = self.index.search(question, self.config.passages)
        else:
            pages = _run(self._pages(question, found.problems), stop or threading.Event())
            pieces = dict.fromkeys(Source(page.title, page.url, text) for page in pages for text in passages(page.text))
            found.sources, found.vectors = best(question, list(pieces), self.config.passages, self.embedder)
        if not found.sources:
            found.problems.append("nothing was found; ask in other words, or give other sources")
        return found

    async def _pages(self, question: str, problems: list[str]) -> list[Document]:
        options = self.config
        urls = await search(options.search, question, options.pages, options.seconds)
        read = await Pages(options.seconds, options.hours, options.allow).read_all(urls)
        problems += [str(one) for one in read if not isinstance(one, Document)]
        return [one for one in read if isinstance(one, Document)]


def _run(work: Coroutine[Any, Any, list[Document]], stop: threading.Event) -> list[Document]:
    """Its result, from a thread, for whoever asks may be in an event loop already."""

    async def unless_stopped() -> list[Document]:
        task = asyncio.ensure_future(work)
        while not task.done() and not (stop.is_set() and task.cancel()):
            await asyncio.wait({task}, timeout=_LOOK)
        return await task

    thread = ThreadPoolExecutor(1)
    try:
        return thread.submit(asyncio.run, unless_stopped()).result()
    finally:
        stop.set()
        thread.shutdown(wait=False)  # a name server, say, keeps it until it answers


def as_web(web: Web | str | Path) -> Web:
    """A folder or the name of a search engine as what it names."""
    if isinstance(web, Web):
        return web
    return Web(config=WebConfig(search=web)) if web in ENGINES else Web(web)  # type: ignore[arg-type]
