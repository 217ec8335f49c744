"""Rows of the mixture: pure functions of their number, every token used, nothing seen that must not be seen."""

import dataclasses
import os
import pickle
import signal

import numpy as np
import pytest
import torch

from openglm.config import DataConfig, InfillingConfig, SpecialTokens
from openglm.data.infilling import infill
from openglm.data.mixture import BLOCK, Mixture, Row, TextStream, batches, pack, shares
from openglm.model.positions import training_mask

OURS = SpecialTokens(pad=0, mask=1, gmask=2, smask=3, sop=4, eop=5)
DEFAULT = InfillingConfig()
CAUSAL = InfillingConfig(mask_share=0, gmask_share=1, gmask_min_ratio=1.0)
SEQ_LEN = 96


class MemorySource:
    """Documents in memory; token ids are unique in the source, so that a test can tell where each came from."""

    def __init__(self, name, lengths, first=100):
        self.name, self.lengths = name, np.array(lengths, np.int64)
        self._ends, self._ids = np.cumsum(self.lengths), np.arange(first, first + self.lengths.sum(), dtype=np.uint32)
        self.tokens = int(self.lengths.sum())

    def document(self, i):
        return self._ids[self._ends[i] - self.lengths[i] : self._ends[i]]


class MemoryCorpus:
    fingerprint = "corpus"

    def __init__(self, **lengths):
        self.sources = {}
        first = 100
        for name, each in lengths.items():
            self.sources[name] = MemorySource(name, each, first)
            first += 1_000_000


def corpus():
    rng = np.random.default_rng(0)
    return MemoryCorpus(zh=rng.integers(0, 200, 400), en=rng.integers(1, 700, 100), tiny=[5, 7])


def mixture(texts=None, infilling=DEFAULT, weights=None, seed=1, **options):
    return Mixture(
        texts or corpus(),
        DataConfig(path="", weights=weights or {}, seed=seed),
        infilling,
        OURS,
        SEQ_LEN,
        "pinned_mask",
        **options,
    )


FIELDS = [field.name for field in dataclasses.fields(Row)]


def assert_rows_equal(a, b):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def test_a_row_is_a_function_of_its_number_alone():
    asked, fresh = mixture(), mixture()
    numbers = np.random.default_rng(3).integers(0, 5000, 60).tolist()
    rows = {i: asked.row(i) for i in numbers}
    for i in sorted(numbers):
        assert_rows_equal(rows[i], fresh.row(i))
    assert_rows_equal(rows[numbers[0]], pickle.loads(pickle.dumps(asked)).row(numbers[0]))
    assert any((mixture(seed=2).row(i).tokens != rows[i].tokens).any() for i in numbers)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(workers):
    rows = mixture()
    stream = batches(mixture(), start_row=990, rows=4, workers=workers)
    for n in range(6):
        batch = next(stream)
        for i in range(4):
            assert_rows_equal(Row(**{name: batch[name][i] for name in FIELDS}), rows.row(990 + 4 * n + i))
    assert (
        batch["loss_mask"].dtype == np.float32
        and batch["tokens"].dtype == np.int64
        and batch["tokens"].shape == (4, SEQ_LEN)
    )
    stream.close()


class Broken:
    def __init__(self, rows, at, how):
        self.rows, self.at, self.how = rows, at, how

    def row(self, index):
        if index == self.at and self.how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if index == self.at:
            raise ValueError(f"row {index} cannot be read")
        return self.rows.row(index)


@pytest.mark.parametrize(
    "how, error, words",
    [("raises", ValueError, "row 9 cannot be read"), ("dies", ValueError, "a process that prepares rows died")],
)
def test_a_worker_that_fails_ends_the_iteration(how, error, words):
    stream = batches(Broken(mixture(), 9, how), start_row=0, rows=2, workers=2)
    with pytest.raises(error, match=words):
        for _ in range(20):
            next(stream)


@pytest.mark.parametrize("lengths", [[300, 20, 1, 77, 0, 5], [3], [40] * 50, [1] * 30, [96, 96, 192]])
def test_every_epoch_of_a_source_holds_each_token_once_in_a_new_order(lengths):
    source = MemorySource("text", lengths, first=0)
    stream = TextStream(source, (1, 2, 3), InfillingConfig(), OURS, SEQ_LEN, "pinned", ())
    epochs = 3
    windows = [list(stream.pieces(k)) for k in range(-(-epochs * source.tokens // SEQ_LEN))]
    assert all(sum(len(tokens) for tokens, _ in window) == SEQ_LEN for window in windows)
    flat = np.concatenate([tokens for window in windows for tokens, _ in window])[: epochs * source.tokens].reshape(
        epochs, -1
    )
    np.testing.assert_array_equal(np.sort(flat, axis=1), np.broadcast_to(np.arange(source.tokens), flat.shape))
    if len(lengths) > 5:
        assert (flat[0] != flat[1]).any()
    ends = set(np.cumsum(lengths) - 1)
    assert all(complete == (int(tokens[-1]) in ends) for window in windows for tokens, complete in window)


def seen_text(row):
    """Text tokens of a row: ids below 100 are special."""
    ids = np.concatenate((row.tokens, row.targets))
    return np.unique(ids[ids >= 100])


@pytest.mark.parametrize("infilling, kept", [(InfillingConfig(), 0.93), (CAUSAL, 0.96)])
def test_rows_are_full_and_lose_little_text(infilling, kept):
    texts = MemoryCorpus(text=np.random.default_rng(1).integers(20, 400, 500))
    source = texts.sources["text"]
    rows = Mixture(texts, DataConfig(path=""), infilling, OURS, 512, "pinned_mask")
    epoch = [rows.row(i) for i in range(source.tokens // 512)]
    tokens = np.concatenate([seen_text(row) for row in epoch])
    assert len(tokens) == len(np.unique(tokens)), "a token came twice in one epoch"
    assert len(tokens) > kept * source.tokens
    assert np.mean([(row.segment < 0).mean() for row in epoch]) < 0.01


def test_weights_hold_in_every_block_and_no_source_skips_a_row():
    rows = mixture(weights={"zh": 3, "en": 1, "tiny": 0.001})
    drawn = [rows.source_of(i) for i in range(2 * BLOCK)]
    for block in (drawn[:BLOCK], drawn[BLOCK:]):
        assert [sum(s == source for s, _ in block) for source in range(3)] == [749, 250, 1]
    for source in range(3):
        assert [n for s, n in drawn if s == source] == list(range(sum(s == source for s, _ in drawn)))
    by_tokens = mixture()
    tokens = np.array([s.tokens for s in corpus().sources.values()])
    drawn = np.bincount([by_tokens.source_of(i)[0] for i in range(BLOCK)]) / BLOCK
    np.testing.assert_allclose(drawn, tokens / tokens.sum(), atol=0.002)


@pytest.mark.parametrize(
    "weights",
    [
        {"a": 1},
        {"a": 1, "b": 1, "c": 1},
        {"a": 1e9, "b": 1},
        {str(i): 1 for i in range(999)},
        {"a": 0.0004, "b": 0.0004, "c": 0.9992},
    ],
)
def test_shares_fill_a_block(weights):
    rows, values = shares(weights), np.array(list(weights.values()))
    assert rows.sum() == BLOCK and rows.min() >= 1
    assert np.abs(rows - values / values.sum() * BLOCK).max() < 1 + (values / values.sum() * BLOCK < 1).sum()


@pytest.mark.parametrize("infilling", [InfillingConfig(), InfillingConfig(mask_share=1, gmask_share=0), CAUSAL])
def test_the_mask_keeps_samples_apart_and_part_a_blind(infilling):
    rows = mixture(infilling=infilling)
    for index in range(20):
        row = rows.row(index)
        mask = training_mask(torch.tensor(row.segment)[None], torch.tensor(row.block_position)[None])[0, 0].numpy()
        real, part_a = row.segment >= 0, row.block_position == 0
        see, seen = np.nonzero(mask & real[:, None])
        assert (row.segment[see] == row.segment[seen]).all()
        assert not mask[np.ix_(part_a & real, ~part_a)].any(), "part A sees part B"
        assert not mask[np.ix_(real, ~part_a)][np.triu(np.ones((real.sum(), SEQ_LEN), bool), 1)[:, ~part_a]].any(), (
            "part B sees its future"
        )
        for segment in range(row.segment.max() + 1):
            here = row.segment == segment
            assert mask[np.ix_(here, here & part_a)].all(), "part A is seen by its whole sample"
            assert (row.position[here] <= here.sum()).all() and row.position[here][0] == 0
        assert (
            (row.loss_mask[~real] == 0).all()
            and (row.tokens[~real] == OURS.pad).all()
            and (row.loss_mask == (~part_a & real)).all()
        )


def test_a_row_holds_what_infill_made():
    rng = np.random.default_rng(0)
    samples = [
        infill(rng, np.arange(100, 130), InfillingConfig(), OURS, span_positions="running", complete=True)
        for _ in range(2)
    ]
    row = pack(samples, 200, OURS.pad)
    for number, sample in enumerate(samples):
        here = row.segment == number
        for name in set(FIELDS) - {"segment"}:
            np.testing.assert_array_equal(getattr(row, name)[here], getattr(sample, name))


def test_the_fingerprint_names_everything_that_changes_the_stream():
    names = [
        mixture().fingerprint,
        mixture(seed=2).fingerprint,
        mixture(infilling=CAUSAL).fingerprint,
        mixture(weights={"zh": 1}).fingerprint,
        mixture(MemoryCorpus(zh=[9])).fingerprint,
        Mixture(corpus(), DataConfig(path=""), InfillingConfig(), OURS, 97, "pinned_mask").fingerprint,
        Mixture(corpus(), DataConfig(path=""), InfillingConfig(), OURS, SEQ_LEN, "running").fingerprint,
    ]
    assert len(set(names)) == len(names)
    other = Mixture(corpus(), DataConfig(path="elsewhere", workers=7), InfillingConfig(), OURS, SEQ_LEN, "pinned_mask")
    assert other.fingerprint == mixture().fingerprint, "path and workers change nothing"


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: mixture(weights={"fr": 1}), "data.weights.fr = 1: no such source; there are zh, en, tiny"),
        (lambda: mixture(weights={"zh": -1}), "data.weights.zh = -1: must be 0 or more"),
        (lambda: mixture(weights={"zh": 0}), "data.weights = "),
        (
            lambda: mixture(MemoryCorpus(empty=[0, 0]), weights={"empty": 1}),
            "data.weights.empty = 1.0: this source holds no text",
        ),
        (
            lambda: mixture(infilling=InfillingConfig(sentence_share=0.3, gmask_share=0.4)),
            "infilling.sentence_share = 0.3",
        ),
        (lambda: Mixture(None, DataConfig(path=""), InfillingConfig(), OURS, SEQ_LEN, "pinned"), "data.path = ''"),
    ],
)
def test_errors_name_the_option(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert words in str(error.value) and "\n" not in str(error.value)
