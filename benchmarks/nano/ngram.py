"""Modified Kneser-Ney n-gram language model in numpy: the yardstick that a small neural model has to beat.

Interpolated, three discounts per order (Chen & Goodman 1998, TR-10-98, section 4.1.6; Goodman 2001). Counting is by sorting: an n-gram is
the number (rank of its first n-1 tokens) * base + last token, so 38 million tokens fit in a few GB. N-grams never cross documents:
each begins with order - 1 start symbols and ends with the end token, which is predicted as any other.
Not here: pruning, a file format, words (the units are the tokenizer's tokens, so that the figures compare with a network's).

    python benchmarks/nano/ngram.py --corpus FOLDER [--order 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from openglm.config import DataConfig, InfillingConfig, ModelConfig, from_dict
from openglm.data.mixture import TextStream
from openglm.data.shards import Corpus
from openglm.text.load import load_tokenizer
from openglm.train.pretrain import make_rows


@dataclass
class Level:
    """All n-grams of one order, sorted by key. Arrays run over the n-grams, except `backoff`, which runs over those of the order below."""

    keys: np.ndarray
    """rank of the first n-1 tokens * base + last token"""
    suffix: np.ndarray
    """rank of the last n-1 tokens among the n-grams of the order below"""
    probability: np.ndarray
    """interpolated probability of the last token after the first n-1"""
    backoff: np.ndarray
    """weight of the order below after a context; 1 for contexts that nothing follows"""


def discounts(counts: np.ndarray) -> np.ndarray:
    """[4] float: what is taken from n-grams seen 0, 1, 2, 3 or more times (Chen & Goodman, equation 26); 0, 0.5, 1, 1.5 where the corpus is too small to tell."""
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    if n1 and n2 and n3:
        y = n1 / (n1 + 2 * n2)
        estimate = np.array([1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
        if (estimate > 0).all():
            return np.append(0, estimate)
    return np.array([0, 0.5, 1.0, 1.5])


def pad_documents(
    tokens: np.ndarray, ends: np.ndarray, order: int, start: int, end: int
) -> tuple[np.ndarray, np.ndarray]:
    """Documents with order - 1 start symbols before and the end token behind each. Returns the stream and True where a token is predicted."""
    lengths = np.diff(ends, prepend=0)
    first = np.concatenate([[0], np.cumsum(lengths + order)[:-1]])
    predicted = np.ones(len(tokens) + len(ends) * order, bool)
    for k in range(order - 1):
        predicted[first + k] = False
    stream = np.full(len(predicted), start, np.int64)
    text = predicted.copy()
    text[first + lengths + order - 1] = False
    stream[predicted] = end
    stream[text] = tokens
    return stream, predicted


def rank(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sorted distinct keys, the rank of every element, one element of each rank, and how often each occurs."""
    order = np.argsort(keys)
    ordered = keys[order]
    new = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    begin = np.flatnonzero(new)
    ranks = np.empty(len(keys), np.int32)
    ranks[order] = np.cumsum(new, dtype=np.int32) - 1
    return ordered[begin], ranks, order[begin], np.diff(begin, append=len(keys))


class KneserNey:
    """`fit(tokens, ends)` once, then `log_probabilities(tokens, ends)`. `ends` are the end offsets of the documents in `tokens`."""

    def __init__(self, vocab_size: int, end_id: int, order: int = 5):
        if order < 2:
            raise ValueError(f"order = {order}: must be 2 or more")
        self.vocab_size, self.end_id, self.order = vocab_size, end_id, order
        self.start, self.base = (
            vocab_size,
            vocab_size + 1,
        )  # the start symbol is one more than any token, and never predicted
        self.levels: list[Level] = []

    def fit(self, tokens: np.ndarray, ends: np.ndarray) -> KneserNey:
        """Count and smooth. tokens: [all documents back to back], without start and end tokens."""
        stream, predicted = pad_documents(tokens, ends, self.order, self.start, self.end_id)
        keys, suffixes, ranks = [np.arange(self.base)], [np.zeros(self.base, np.int32)], stream
        for _ in range(self.order - 1):
            distinct, new_ranks, example, counts = rank(self._key(ranks, len(keys[-1]), stream, predicted))
            keys.append(distinct)
            suffixes.append(ranks[example].astype(np.int32))
            ranks = new_ranks
        self._smooth(keys, suffixes, counts)
        return self

    def _key(self, ranks: np.ndarray, contexts: int, stream: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Keys of the n-grams that end at each token, -1 where the context was never seen."""
        context = np.roll(ranks, 1).astype(np.int64)
        context[~predicted] = (
            contexts - 1
        )  # the start symbol is the greatest token, so the n-gram of start symbols has the last rank
        return np.where(context >= 0, context * self.base + stream, -1)

    def _smooth(self, keys: list[np.ndarray], suffixes: list[np.ndarray], counts: np.ndarray) -> None:
        """Probabilities from the lowest order up. The highest order has counts, the others the number of distinct tokens seen before (Kneser-Ney)."""
        below = np.full(1, 1 / self.vocab_size)
        contexts = 1
        for n in range(self.order):
            predicted = keys[n] % self.base != self.start
            if n + 1 < self.order:
                following = keys[n + 1] % self.base != self.start
                seen = np.bincount(suffixes[n + 1][following], minlength=len(keys[n]))
            else:
                seen = np.where(predicted, counts, 0)
            level = self._level(keys[n], suffixes[n], seen, below, contexts)
            level.probability[~predicted] = 0
            self.levels.append(level)
            below, contexts = level.probability, len(keys[n])

    def _level(self, keys: np.ndarray, suffix: np.ndarray, seen: np.ndarray, below: np.ndarray, contexts: int) -> Level:
        discount, kind = discounts(seen), np.minimum(seen, 3)
        context = keys // self.base
        total = np.bincount(context, weights=seen, minlength=contexts)
        taken = np.bincount(context, weights=discount[kind], minlength=contexts)
        total_or_1 = np.maximum(total, 1)
        backoff = np.where(total > 0, taken / total_or_1, 1.0)
        probability = (seen - discount[kind]) / total_or_1[context] + backoff[context] * below[suffix]
        return Level(keys, suffix, probability, backoff)

    def log_probabilities(self, tokens: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Natural log of the probability of every token and end token: [len(tokens) + len(ends)], an end token behind each document."""
        stream, predicted = pad_documents(tokens, ends, self.order, self.start, self.end_id)
        ranks = stream
        p = self.levels[0].probability[stream]
        for lower, level in pairwise(self.levels):
            key = self._key(ranks, len(lower.keys), stream, predicted)
            at = np.minimum(np.searchsorted(level.keys, key), len(level.keys) - 1)
            found = level.keys[at] == key
            p = np.where(found, level.probability[at], np.where(key >= 0, level.backoff[key // self.base], 1.0) * p)
            ranks = np.where(found, at, -1)
        return np.log(p[predicted])


def documents_read(run: Path, step: int | None = None) -> dict[str, np.ndarray]:
    """Source -> numbers of the documents that a training run had read after some steps (by default all of its steps), each counted once."""
    settings = json.loads((run / "config.json").read_text(encoding="utf-8"))
    data, train = from_dict(DataConfig, settings["data"]), settings["train"]
    model, infilling = from_dict(ModelConfig, settings["model"]), from_dict(InfillingConfig, settings["infilling"])
    rows, _ = make_rows(data, infilling, model, load_tokenizer(data.path), train["seq_len"])
    drawn = np.bincount(
        [rows.source_of(i)[0] for i in range((step or train["steps"]) * train["batch_rows"])], minlength=len(rows.names)
    )
    read = {}
    for name, stream, count in zip(rows.names, rows.streams, drawn.tolist(), strict=True):
        if isinstance(stream, TextStream):
            order, ends = stream.epoch_order(0)
            read[name] = order[: int(ends.searchsorted(count * train["seq_len"])) + 1]
    return read


def fit_corpus(folder: str, end_id: int, order: int = 5, read: dict[str, np.ndarray] | None = None) -> KneserNey:
    """A model of a corpus's training split, or of the documents that a run had read."""
    corpus = Corpus(folder)
    chosen = read or {name: np.arange(len(source)) for name, source in corpus.sources.items()}
    documents = [corpus.sources[name].document(int(i)) for name, numbers in chosen.items() for i in numbers]
    return KneserNey(corpus.vocab_size, end_id, order).fit(
        np.concatenate(documents), np.cumsum([len(d) for d in documents])
    )


def document_nats(model: KneserNey, documents: list[np.ndarray]) -> np.ndarray:
    """[documents] negative log-likelihood of each and its end token."""
    lengths = np.array([len(d) for d in documents])
    log_p = model.log_probabilities(np.concatenate(documents), np.cumsum(lengths))
    return -np.add.reduceat(log_p, np.cumsum(lengths + 1) - lengths - 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Bits per byte of a Kneser-Ney n-gram model on the whole held-out split of a corpus."
    )
    parser.add_argument("--corpus", required=True, help="folder made by `glm data build`")
    parser.add_argument("--order", type=int, default=5, help="tokens in the longest n-gram")
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()

    import left_to_right

    tokenizer = load_tokenizer(args.corpus)
    start = time.perf_counter()
    model = fit_corpus(args.corpus, tokenizer.special["<eop>"], args.order)
    seconds = time.perf_counter() - start
    held = left_to_right.held_out(args.corpus, tokenizer, max_tokens=1 << 62)
    rows = left_to_right.table([document_nats(model, h.documents) for h in held], held)
    for name, row in rows.items():
        print(
            f"{name:24s} {row['bits_per_byte']:.4f} bits per byte [{row['low']:.4f}, {row['high']:.4f}]  perplexity {row['perplexity']:.2f}",
            end="  ",
        )
        print(f"{row['documents']} documents  {row['tokens']} tokens  {row['bytes']} bytes")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"order {args.order}: {sum(len(level.keys) for level in model.levels):,} n-grams, fitted in {seconds:.0f} s, peak memory {peak / 2**20:.2f} GiB"
    )
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"order": args.order, "seconds": seconds, "peak_rss_kib": peak, "heldout": rows}, file, indent=1)


if __name__ == "__main__":
    main()
