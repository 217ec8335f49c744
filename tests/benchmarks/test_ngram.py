"""The n-gram yardstick: a proper distribution, and the textbook's modified Kneser-Ney to the last digit."""

import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks/nano"))
import ngram

VOCAB, END = 12, 5


def corpus(seed, documents=60, longest=15):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest, documents)
    tokens = np.minimum(rng.zipf(1.6, lengths.sum()) + 5, VOCAB - 2).astype(np.uint16)  # token VOCAB - 1 is never seen
    return tokens, np.cumsum(lengths)


class Textbook:
    """Chen & Goodman's definition with dictionaries, one context at a time."""

    def __init__(self, documents, order):
        self.order = order
        self.counts = [Counter() for _ in range(order + 1)]
        for document in documents:
            padded = ["s"] * (order - 1) + list(document) + [END]
            for i in range(order - 1, len(padded)):
                self.counts[order][tuple(padded[i - order + 1 : i + 1])] += 1
        for n in range(order - 1, 0, -1):  # below the highest order: in how many contexts was it seen
            for gram in self.counts[n + 1]:
                self.counts[n][gram[1:]] += 1
        self.discounts = [None] + [self.estimate(c) for c in self.counts[1:]]
        self.follow = [defaultdict(dict) for _ in range(order + 1)]
        for n in range(1, order + 1):
            for gram, count in self.counts[n].items():
                self.follow[n][gram[:-1]][gram[-1]] = count

    @staticmethod
    def estimate(counts):
        n = Counter(counts.values())
        if n[1] and n[2] and n[3]:
            y = n[1] / (n[1] + 2 * n[2])
            estimate = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
            if min(estimate) > 0:
                return [0, *estimate]
        return [0, 0.5, 1.0, 1.5]

    def probability(self, context, token):
        n = len(context) + 1
        lower = self.probability(context[1:], token) if context else 1 / VOCAB
        following = self.follow[n].get(tuple(context), {})
        if not following:
            return lower
        discount = self.discounts[n]
        total = sum(following.values())
        weight = sum(discount[min(c, 3)] for c in following.values()) / total
        count = following.get(token, 0)
        return max(count - discount[min(count, 3)], 0) / total + weight * lower


@pytest.mark.parametrize("order, documents", [(3, 60), (3, 400), (5, 200), (2, 5)])
def test_equals_the_textbook(order, documents):
    tokens, ends = corpus(1, documents)
    model = ngram.KneserNey(VOCAB, END, order).fit(tokens, ends)
    textbook = Textbook(np.split(tokens.tolist(), ends[:-1]), order)
    held, held_ends = corpus(2, 30)
    held[::17] = VOCAB - 1
    expected = []
    for document in np.split(held.tolist(), held_ends[:-1]):
        padded = ["s"] * (order - 1) + list(document) + [END]
        expected += [textbook.probability(padded[i - order + 1 : i], padded[i]) for i in range(order - 1, len(padded))]
    np.testing.assert_allclose(np.exp(model.log_probabilities(held, held_ends)), expected, rtol=1e-12)


@pytest.mark.parametrize("order", [2, 3, 5])
def test_probabilities_sum_to_one(order):
    tokens, ends = corpus(3, 300)
    model = ngram.KneserNey(VOCAB, END, order).fit(tokens, ends)
    rng = np.random.default_rng(4)
    for length in range(8):
        context = rng.integers(0, VOCAB, length)  # special tokens and the unseen token among them
        for seen in (context, tokens[:length]):
            candidates = np.concatenate([np.append(seen, token) for token in range(VOCAB)])
            log_p = model.log_probabilities(candidates, (length + 1) * np.arange(1, VOCAB + 1))
            assert np.exp(log_p[length :: length + 2]).sum() == pytest.approx(1, abs=1e-12)


def test_documents_do_not_see_each_other():
    tokens, ends = corpus(5, 100)
    model = ngram.KneserNey(VOCAB, END).fit(tokens, ends)
    together = model.log_probabilities(tokens, ends)
    alone = [model.log_probabilities(d, np.array([len(d)])) for d in np.split(tokens, ends[:-1])]
    np.testing.assert_array_equal(together, np.concatenate(alone))
