"""Bits per byte of held-out text, read left to right: every token of every chosen document and its final <eop>, each predicted once.

Three readers see the same windows: "uni" has [gMASK] <sop> and then the text, token by token; "prefix" reads the half window before the
scored tokens in both directions, as part A: [context] [gMASK] <sop> [scored tokens]; a causal model has "uni" alone. Where a document
begins there is no context and the two are the same. Bits per byte, unlike perplexity, compare across tokenizers.
Not here: the models' training, and text that is not part of a corpus folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from openglm.config import require
from openglm.data.shards import Corpus
from openglm.runtime import progress

WAYS = ("uni", "prefix")


@dataclass
class HeldOut:
    """Chosen held-out documents of one source."""

    source: str
    language: str
    documents: list[np.ndarray]
    """token ids, without <eop>"""
    bytes: np.ndarray
    """[documents] length of each as UTF-8"""

    @property
    def tokens(self) -> np.ndarray:
        """[documents] predicted tokens of each, <eop> included."""
        return np.array([len(d) + 1 for d in self.documents])


def held_out(folder: str | Path, tokenizer, max_tokens: int, seed: int = 1) -> list[HeldOut]:
    """Documents in an order that depends on the seed and the source's name alone, until `max_tokens` per source are reached."""
    corpus, chosen = Corpus(folder, split="heldout"), []
    require(
        tokenizer.fingerprint == corpus.manifest["tokenizer"],
        "corpus",
        str(folder),
        "was cut into tokens by another tokenizer than the model's",
    )
    languages = {s["name"]: s["language"] for s in corpus.manifest["sources"]}
    for name, source in sorted(corpus.sources.items()):
        order = np.random.default_rng([seed, *name.encode()]).permutation(len(source.lengths))
        enough = int(np.searchsorted(np.cumsum(source.lengths[order]), max_tokens)) + 1
        documents = [np.asarray(source.document(int(i)), np.int64) for i in order[:enough]]
        sizes = np.array([len(tokenizer.decode_bytes(d.tolist())) for d in documents])
        chosen.append(HeldOut(name, languages[name], documents, sizes))
    return chosen


def windows(length: int, window: int) -> list[tuple[int, int, int]]:
    """(context start, first scored, end) over `length` tokens: half a window is context, the rest is scored, and with the two marks all fit in `window`."""
    context = window // 2
    scored = window - 1 - context  # the last scored token is never an input
    return [(max(0, first - context), first, min(first + scored, length)) for first in range(0, length, scored)]


@dataclass
class _Row:
    ids: list[int]
    document: int
    first: int
    """index of the output that predicts the first scored token; the others follow"""
    targets: list[int]


def _rows(document: np.ndarray, number: int, way: str, window: int, tokens) -> list[_Row]:
    text, marks, rows = [*document.tolist(), tokens.eop], [tokens.gmask, tokens.sop], []
    for start, first, end in windows(len(text), window):
        before, inputs = text[start:first], text[first : end - 1]
        ids = before + marks + inputs if way == "prefix" else marks + before + inputs
        rows.append(
            _Row(ids, number, first - start + 1, text[first:end])
        )  # with both ways, output k - start + 1 predicts token k
    return rows


def batches(lengths: list[int], batch_tokens: int) -> list[list[int]]:
    """Row numbers grouped by like length, so that rows * longest stays within `batch_tokens`."""
    groups: list[list[int]] = [[]]
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups[-1] and (len(groups[-1]) + 1) * lengths[groups[-1][0]] > batch_tokens:
            groups.append([])
        groups[-1].append(i)
    return groups


def log_probabilities(model, rows: list[list[int]]) -> torch.Tensor:
    """[rows, longest, vocabulary]: log-probabilities of whole rows, padded on the right."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), max(model.config.tokens.pad, 0))
    real = torch.zeros_like(ids, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)], real[i, : len(row)] = torch.tensor(row), True
    return model.logits(ids.to(model.device), real.to(model.device)).log_softmax(-1)


@torch.no_grad()
def document_nats(model, held: HeldOut, way: str = "uni", window: int = 512, batch_tokens: int = 8192) -> np.ndarray:
    """[documents] negative log-likelihood in nats of each document and its <eop>."""
    require(way in WAYS, "way", way, f"choose one of {', '.join(WAYS)}")
    require(way == "uni" or model.config.mask == "prefix", "way", way, "this model is causal; use uni")
    window = min(window, model.config.max_positions)
    rows = [row for i, d in enumerate(held.documents) for row in _rows(d, i, way, window, model.config.tokens)]
    nats = np.zeros(len(held.documents))
    with progress(f"{held.source}, {way}", len(rows), "windows") as advance:
        for group in batches([len(r.ids) for r in rows], batch_tokens):
            log_p = log_probabilities(model, [rows[i].ids for i in group])
            for at, i in enumerate(group):
                row = rows[i]
                scored = log_p[at, row.first : row.first + len(row.targets)]
                nats[row.document] -= float(
                    scored.gather(1, torch.tensor(row.targets, device=scored.device)[:, None]).double().sum()
                )
            advance(len(group))
    return nats


def _resampled(values: np.ndarray, draws: int = 2000, seed: int = 1) -> np.ndarray:
    """[draws, columns] sums of `values` [documents, columns] over documents drawn with replacement."""
    rng, n, sums = np.random.default_rng(seed), len(values), []
    for _ in range(0, draws, 100):  # in pieces: a matrix of all draws would not fit for long lists
        sums.append(rng.multinomial(n, np.full(n, 1 / n), size=100) @ values)
    return np.concatenate(sums)


def bits_per_byte(nats: np.ndarray, held: list[HeldOut]) -> dict[str, float]:
    """Bits per byte of some sources together with a 95 % interval (bootstrap over documents), perplexity per token, and how much text it was. nats: [documents of all]."""
    sizes, tokens = np.concatenate([h.bytes for h in held]), np.concatenate([h.tokens for h in held])
    sums = _resampled(np.stack([nats, sizes], 1))
    low, high = np.percentile(sums[:, 0] / sums[:, 1] / np.log(2), [2.5, 97.5])
    return {
        "bits_per_byte": nats.sum() / sizes.sum() / np.log(2), "low": low, "high": high, "perplexity": float(np.exp(nats.sum() / tokens.sum())), "nats": nats.sum(),
        "documents": len(sizes), "tokens": int(tokens.sum()), "bytes": int(sizes.sum()),
    }  # fmt: skip


def difference(nats: np.ndarray, other: np.ndarray, held: list[HeldOut]) -> dict[str, float]:
    """Bits per byte of the first minus the other, with a 95 % interval paired by document."""
    sizes = np.concatenate([h.bytes for h in held])
    sums = _resampled(np.stack([nats - other, sizes], 1))
    low, high = np.percentile(sums[:, 0] / sums[:, 1] / np.log(2), [2.5, 97.5])
    return {"bits_per_byte": (nats - other).sum() / sizes.sum() / np.log(2), "low": low, "high": high}


def groups(held: list[HeldOut]) -> dict[str, list[int]]:
    """Name -> numbers of sources: each language, then each source where a language has several."""
    out: dict[str, list[int]] = {}
    for i, h in enumerate(held):
        out.setdefault(h.language, []).append(i)
    return out | {h.source: [i] for i, h in enumerate(held) if len(out[h.language]) > 1}


def table(nats: list[np.ndarray], held: list[HeldOut]) -> dict[str, dict[str, float]]:
    """`bits_per_byte` of every language and source. nats: one array per source."""
    return {
        name: bits_per_byte(np.concatenate([nats[i] for i in members]), [held[i] for i in members])
        for name, members in groups(held).items()
    }
