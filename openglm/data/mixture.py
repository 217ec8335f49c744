"""Training rows: which text comes when, from which source, packed into rows of one length.

A row is a pure function of its number and of the configuration. There is no state to save but a counter: any number of
workers reads the same stream, and a resume needs one integer. Time goes into numpy calls on whole pieces; a row of 512
tokens takes a fraction of a millisecond.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from openglm.config import DataConfig, InfillingConfig, SpecialTokens, require
from openglm.data.gapped import check_options
from openglm.data.infilling import infill
from openglm.data.samples import Ints, Sample

if TYPE_CHECKING:
    from openglm.data.dialogue import DialogueSource
    from openglm.data.shards import Corpus, Source
    from openglm.data.texts import Texts

BLOCK = 1000  # rows over which the weights hold exactly
STREAM_VERSION = 1  # goes up whenever the same options would give other rows


@dataclass(frozen=True, kw_only=True)
class NetworkRow:
    """What the network reads of one row: four arrays of length seq_len. Padding: pad token, segment -1.

    Tokens see each other iff `segment` is equal and the seen one is in part A (block_position 0) or not later than the
    seer. A training row adds named arrays to these, of the same shapes in all rows; an objective says which it reads.
    """

    tokens: Ints
    position: Ints
    block_position: Ints
    segment: Ints


@dataclass(frozen=True, kw_only=True)
class Row(NetworkRow):
    """A row whose tokens are predicted: `targets[t]` at t, with the weight `loss_mask[t]`; in padding that is 0."""

    targets: Ints
    loss_mask: NDArray[np.float32]


_SAMPLED = tuple(f.name for f in dataclasses.fields(Row) if f.name != "segment")  # what a sample brings to its row


class Rows(Protocol):
    """Where rows come from: a `Mixture`, or anything like it. `fingerprint` stands for all that changes them."""

    fingerprint: str

    def row(self, index: int) -> NetworkRow: ...


def pack(samples: Sequence[Sample], seq_len: int, pad: int) -> Row:
    """Samples one after another in one row, each its own segment."""
    row = Row(
        tokens=np.full(seq_len, pad),
        targets=np.full(seq_len, pad),
        loss_mask=np.zeros(seq_len, np.float32),
        position=np.zeros(seq_len, np.int64),
        block_position=np.zeros(seq_len, np.int64),
        segment=np.full(seq_len, -1),
    )
    at = 0
    for number, sample in enumerate(samples):
        end = at + len(sample)
        assert end <= seq_len, (end, seq_len)
        for name in _SAMPLED:
            getattr(row, name)[at:end] = getattr(sample, name)
        row.segment[at:end] = number
        at = end
    return row


def stacked(rows: Sequence[NetworkRow]) -> dict[str, NDArray]:
    """{field: [rows, ...]} of rows of one kind."""
    return {f.name: np.stack([getattr(row, f.name) for row in rows]) for f in dataclasses.fields(rows[0])}


class Stream(Protocol):
    """What a mixture draws from: an endless sequence of rows' worth of samples, each a function of its number alone
    (and of `rng`, the row's own).
    """

    tokens: int
    fingerprint: str

    @property
    def rows(self) -> int:
        """In an epoch."""
        ...

    def samples(self, number: int, rng: np.random.Generator) -> list[Sample]: ...


class TextStream:
    """The windows of one source: its documents in a new random order each epoch, one epoch after another, cut every
    `seq_len` tokens.
    """

    fingerprint = "text"  # its content is in the corpus's fingerprint

    def __init__(
        self,
        source: Source,
        key: tuple[int, ...],
        infilling: InfillingConfig,
        special: SpecialTokens,
        seq_len: int,
        span_positions: str,
        sentence_ends: Ints,
    ):
        self.source, self.key, self.seq_len, self.tokens = source, key, seq_len, source.tokens
        self._infilling, self._special = infilling, special
        self._span_positions, self._sentence_ends = span_positions, sentence_ends
        self._epochs: dict[int, tuple[Ints, Ints]] = {}

    @property
    def rows(self) -> int:
        """In an epoch."""
        return math.ceil(self.tokens / self.seq_len)

    def samples(self, number: int, rng: np.random.Generator) -> list[Sample]:
        samples, room = [], self.seq_len
        for tokens, complete in self.pieces(number):
            sample = infill(
                rng,
                tokens,
                self._infilling,
                self._special,
                span_positions=self._span_positions,
                complete=complete,
                sentence_ends=self._sentence_ends,
                room=room,
            )
            if sample is None:
                break
            samples.append(sample)
            room -= len(sample)
        return samples

    def pieces(self, number: int) -> Iterator[tuple[Ints, bool]]:
        """Window `number`: the parts of documents in it, and whether each reaches the end of its document."""
        at, stop = number * self.seq_len, (number + 1) * self.seq_len
        while at < stop:
            epoch, offset = divmod(at, self.tokens)
            order, ends = self.epoch_order(epoch)
            i = int(ends.searchsorted(offset, "right"))
            document = self.source.document(int(order[i]))
            begin = offset - (int(ends[i]) - len(document))
            piece = np.asarray(document[begin : begin + stop - at], dtype=np.int64)
            yield piece, begin + len(piece) == len(document)
            at += len(piece)

    def epoch_order(self, epoch: int) -> tuple[Ints, Ints]:
        """Order of the documents in an epoch, and the running sum of their lengths in that order."""
        if epoch not in self._epochs:
            order = np.random.default_rng((*self.key, epoch)).permutation(len(self.source.lengths))
            kept = {e: v for e, v in self._epochs.items() if e == epoch - 1}  # a window may lie across two epochs
            self._epochs = {**kept, epoch: (order, np.cumsum(self.source.lengths[order], dtype=np.int64))}
        return self._epochs[epoch]


def shares(weights: Mapping[str, float]) -> Ints:
    """Rows of each source in a block, in proportion to the weights (largest remainder); at least one of each."""
    values = np.array(list(weights.values()), dtype=np.float64)
    exact = values / values.sum() * BLOCK
    rows = np.maximum(np.floor(exact).astype(np.int64), 1)
    for i in np.argsort(rows - exact, kind="stable")[: max(0, BLOCK - int(rows.sum()))]:
        rows[i] += 1
    rows[np.argmax(rows)] -= int(rows.sum()) - BLOCK
    return rows


class Mixture:
    """Every row is a pure function of (corpus, dialogues, options, row number). `data.weights` names text sources and
    dialogues alike.

    corpus may be None and dialogues empty, not both. sentence_ends: ids that close a sentence, needed for [sMASK].
    Raises ValueError naming the option.
    `fingerprint` stands for everything that changes the stream; checkpoints keep it, and a resume with another one is
    refused.
    """

    def __init__(
        self,
        corpus: Corpus | Texts | None,
        config: DataConfig,
        infilling: InfillingConfig,
        special: SpecialTokens,
        seq_len: int,
        span_positions: str,
        sentence_ends: Iterable[int] = (),
        dialogues: Mapping[str, DialogueSource] | None = None,
    ):
        check_options(infilling, span_positions == "gapped")
        ends = np.array(sorted(sentence_ends), np.int64)
        closed = infilling.sentence_share == 0 or len(ends) > 0
        way_out = "no token of this tokenizer ends a sentence; set it to 0"
        require(closed, "infilling.sentence_share", infilling.sentence_share, way_out)

        streams: dict[str, Stream] = {}
        for name, source in corpus.sources.items() if corpus else ():
            key = (config.seed, 2, zlib.crc32(name.encode()))
            streams[name] = TextStream(source, key, infilling, special, seq_len, span_positions, ends)
        for name, dialogue in (dialogues or {}).items():
            require(name not in streams, "data.dialogues", name, "a text source has this name; choose another")
            streams[name] = dialogue
        weights = _weights(config.weights, streams)
        self.names, self.seq_len, self._seed, self._pad = tuple(weights), seq_len, config.seed, special.pad
        self.streams, self._rows = [streams[name] for name in weights], shares(weights)
        self._block: tuple[int, Ints] = (-1, self._rows)
        texts_hash = corpus and corpus.fingerprint
        options = (config.seed, weights, infilling, special, seq_len, span_positions, ends.tolist())
        self.fingerprint = _fingerprint(STREAM_VERSION, texts_hash, *options, [s.fingerprint for s in self.streams])

    @property
    def rows(self) -> int:
        """In an epoch: as many as the texts and conversations of all sources fill once, whatever their weights."""
        return sum(stream.rows for stream in self.streams)

    def source_of(self, index: int) -> tuple[int, int]:
        """Which source row `index` comes from, and how many rows that source has given before."""
        block, i = divmod(index, BLOCK)
        if self._block[0] != block:
            each = np.repeat(np.arange(len(self._rows)), self._rows)
            self._block = block, np.random.default_rng((self._seed, 0, block)).permutation(each)
        order = self._block[1]
        source = int(order[i])
        return source, block * int(self._rows[source]) + int(np.count_nonzero(order[:i] == source))

    def row(self, index: int) -> Row:
        source, number = self.source_of(index)
        rng = np.random.default_rng((self._seed, 1, index))
        return pack(self.streams[source].samples(number, rng), self.seq_len, self._pad)


def _weights(chosen: Mapping[str, float], streams: Mapping[str, Stream]) -> dict[str, float]:
    require(bool(streams), "data.path", "", "no text and no dialogues to train on")
    for name, weight in chosen.items():
        require(name in streams, f"data.weights.{name}", weight, f"no such source; there are {', '.join(streams)}")
        require(math.isfinite(weight) and weight >= 0, f"data.weights.{name}", weight, "must be 0 or more")
    weights = {name: float(chosen.get(name, 0) if chosen else stream.tokens) for name, stream in streams.items()}
    weights = {name: weight for name, weight in weights.items() if weight > 0}
    require(
        0 < len(weights) <= BLOCK,
        "data.weights",
        dict(chosen),
        f"must leave between 1 and {BLOCK} sources that are drawn and hold text; there are {', '.join(streams)}",
    )
    for name in weights:
        require(streams[name].tokens > 0, f"data.weights.{name}", weights[name], "this source holds no text")
    return weights


def _fingerprint(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, default=dataclasses.asdict)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class _Batches:
    """Batch of `size` rows from `start` on; what a worker process holds."""

    rows: Rows

    def __getitem__(self, span: tuple[int, int]) -> dict[str, NDArray]:
        start, size = span
        return stacked([self.rows.row(start + i) for i in range(size)])


def _spans(start: int, rows: int | Callable[[int], int], share: tuple[int, int]) -> Iterator[tuple[int, int]]:
    part, parts = share
    while True:
        size = rows if isinstance(rows, int) else rows(start)
        yield start + part * (size // parts), size // parts
        start += size


def batches(
    mixture: Rows, start_row: int, rows: int | Callable[[int], int], workers: int, share: tuple[int, int] = (0, 1)
) -> Generator[dict[str, NDArray], None, None]:
    """Endless batches {field: [rows, ...]} of `mixture.row(start_row)` and the following, in order.

    rows: of every batch, or of the one that begins at a given row. workers: processes that prepare them ahead; 0: none.
    share: (part, of so many equal parts) of each batch, where others read the other parts.

    A worker that raises or dies ends the iteration with an error, never with a wait.
    """
    spans: Any = _spans(start_row, rows, share)
    made: Any = _Batches(mixture)
    loader = DataLoader(made, batch_size=None, sampler=spans, num_workers=workers, collate_fn=dict)
    try:
        yield from loader
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"data.workers = {workers}: a process that prepares rows died, perhaps for lack of memory ({reason}); "
            "data.workers = 0 does without"
        ) from error
