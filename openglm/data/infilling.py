"""Autoregressive blank infilling, the training objective of GLM (arXiv 2103.10360 section 2, 2210.02414 section 2.2).

Spans are cut out of a piece of text. Part A is the text with one mask token in place of each span and sees itself both
ways;
part B holds the spans one after another in random order, each as `<sop> span` with the target `span <eop>`. Loss lies
on part B alone.

`build_sample` is deterministic: text, spans and order give every array. The samplers draw spans as the original does;
`infill` draws
everything for one piece. Nothing here knows about files, rows or batches. Legend: n tokens of a piece, k spans [start,
end), b tokens of part B.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from openglm.config import InfillingConfig, SpecialTokens
from openglm.data.gapped import build_gapped, draw_spans
from openglm.data.samples import Ints, Sample, place_spans


def build_sample(
    tokens: Ints,
    spans: Ints,
    order: Sequence[int] | Ints,
    mask_id: int,
    special: SpecialTokens,
    *,
    suffix: bool = False,
    pin: bool,
    dblock_at: Sequence[int] | Ints = (),
    loss_mask: NDArray | None = None,
) -> Sample:
    """Cut `spans` [k, 2], sorted and disjoint, out of `tokens` [n] and lay them out as part A and part B.

    order: part B holds span order[0] first. suffix: the one span runs to the end of the text and no <eop> closes it,
    either because the text
    goes on beyond what was cut off or because its own last token is an end mark; only then `loss_mask` [n] weighs the
    targets.
    pin: positions of part B stay at the span's mask; otherwise they run on. dblock_at: places in the sample whose input
    token is hidden by [MASK]; targets stay, and <sop> is never hidden.
    """
    starts, lengths = spans[:, 0], spans[:, 1] - spans[:, 0]
    context, mask_at = _part_a(tokens, starts, spans[:, 1], mask_id)
    blocks = lengths[order] + 1  # each span and its <sop> (input) or <eop> (target)
    ends = np.cumsum(blocks)
    size = int(ends[-1]) if len(ends) else 0
    begins = ends - blocks
    count = np.arange(size)
    source = np.repeat(starts[order] - begins, blocks) + count
    targets = tokens.take(source, mode="clip")
    targets[ends - 1] = special.eop
    inputs = np.empty_like(targets)
    inputs[1:] = targets[:-1]
    if len(dblock_at):
        inputs[np.asarray(dblock_at) - len(context)] = special.mask
    inputs[begins] = special.sop
    position = np.repeat(mask_at[order], blocks) if pin else count + len(context)
    weights = np.ones(size, np.float32)
    if suffix and loss_mask is not None:
        weights[:-1] = loss_mask[starts[0] :]
    none = np.zeros(len(context), np.int64)
    part_a = (context, context, none, np.arange(len(context)), none)
    part_b = (inputs, targets, weights, position, count - np.repeat(begins, blocks) + 1)
    tokens, targets, loss, position, block_position = (
        np.concatenate((a, b[: size - suffix])) for a, b in zip(part_a, part_b, strict=True)
    )
    return Sample(tokens, targets, loss.astype(np.float32), position, block_position, len(context))


def _part_a(tokens: Ints, starts: Ints, ends: Ints, mask_id: int) -> tuple[Ints, Ints]:
    """The text with each span shrunk to one mask token, and the places of those masks in it."""
    pieces: list[Ints] = []
    last, mask = 0, np.array([mask_id])
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        pieces += (tokens[last:start], mask)
        last = end
    pieces.append(tokens[last:])
    removed = np.cumsum(ends - starts - 1)
    return np.concatenate(pieces), starts - removed + (ends - starts - 1)


@lru_cache(maxsize=8)
def _length_cdf(mean: float, max_span: int) -> NDArray[np.float64]:
    """Cumulative Poisson probabilities of the lengths 1 .. max_span - 1, normalised."""
    weights = np.array([math.exp(-mean + i * math.log(mean) - math.lgamma(i + 1)) for i in range(1, max_span)])
    cdf = np.cumsum(weights) / weights.sum()
    cdf[-1] = 1.0  # whatever the rounding: a draw below 1 always finds a length
    return cdf


def sample_lengths(rng: np.random.Generator, wanted: int, config: InfillingConfig) -> Ints:
    """Span lengths, truncated Poisson, drawn until they sum to `wanted` tokens or just over, in random order."""
    lengths = 1 + _length_cdf(config.mean_span, config.max_span).searchsorted(rng.random(wanted), "right")
    enough = int(np.searchsorted(np.cumsum(lengths), wanted)) + 1
    return rng.permutation(
        lengths[:enough]
    )  # the last one drawn is longer than average: it must not always end up last in the text


def sample_spans(
    rng: np.random.Generator,
    length: int,
    config: InfillingConfig,
    documents: Sequence[tuple[int, int]],
    *,
    single: bool = False,
) -> Ints | None:
    """[MASK] spans for a text of `length` tokens: `mask_ratio` of it, or one span only (`single`). None if they do not
    fit.

    documents: the ranges [start, stop) that spans may cover. Of several, the shorter ones come first and take at most
    their own share; the longest takes the rest.
    """
    lengths = sample_lengths(rng, 1 if single else max(1, int(config.mask_ratio * length)), config)
    placed: list[Ints] = []
    documents = sorted(documents, key=lambda d: d[1] - d[0])
    for number, (start, stop) in enumerate(documents):
        here = len(lengths)
        if number < len(documents) - 1:
            here = int(np.searchsorted(np.cumsum(lengths), int(config.mask_ratio * (stop - start)), "right"))
        spans = place_spans(rng, lengths[:here], start, stop)
        if spans is None:
            return None
        placed.append(spans)
        lengths = lengths[here:]
    both = np.concatenate(placed)
    return both[np.argsort(both[:, 0])]


def sample_long_span(
    rng: np.random.Generator, length: int, shortest: int, longest: int, inside: tuple[int, int] | None = None
) -> Ints:
    """One [gMASK] span [1, 2] of uniform length in [shortest, longest]: at the end of a text of `length` tokens, or
    anywhere in the range `inside`.
    """
    size = int(rng.integers(shortest, longest + 1))
    if inside is None:
        return np.array([[length - size, length]])
    size = min(size, inside[1] - inside[0])
    start = int(rng.integers(inside[0], inside[1] - size + 1))
    return np.array([[start, start + size]])


def sentences(ends: NDArray[np.bool_], start: int, stop: int, *, tail: bool) -> Ints:
    """Sentences [k, 2] of the document [start, stop): each closes at a token marked in `ends`. tail: what follows the
    last mark is one too.
    """
    stops = np.flatnonzero(ends[start:stop]) + start + 1
    if tail and start < stop and (not len(stops) or stops[-1] < stop):
        stops = np.append(stops, stop)
    return np.stack((np.concatenate(([start], stops[:-1]))[: len(stops)], stops), axis=1)


def sample_sentences(rng: np.random.Generator, candidates: Ints, wanted: int) -> Ints | None:
    """Whole sentences in random order until they hold `wanted` tokens; sorted. None if there are no candidates."""
    if not len(candidates):
        return None
    drawn = rng.permutation(candidates)
    enough = int(np.searchsorted(np.cumsum(drawn[:, 1] - drawn[:, 0]), wanted)) + 1
    drawn = drawn[:enough]
    return drawn[np.argsort(drawn[:, 0])]


def draw_mode(rng: np.random.Generator, config: InfillingConfig) -> str:
    """`mask`, `sentence` or `gmask`, by the configured shares."""
    draw = rng.random()
    if draw < config.mask_share:
        return "mask"
    return "sentence" if draw < config.mask_share + config.sentence_share else "gmask"


def _draw_spans(
    rng: np.random.Generator,
    tokens: Ints,
    mode: str,
    complete: bool,
    config: InfillingConfig,
    sentence_ends: Sequence[int] | Ints,
    gapped: bool,
) -> tuple[Ints, str]:
    """Spans of a piece, and the mode they belong to: a piece with no room for short spans falls back to a long one.

    In a piece that was cut off, nothing that <eop> closes reaches the cut (no span covers the last token, an unfinished
    sentence is none): it would teach an end that is none.
    """
    n = len(tokens)
    closed = n if complete else n - 1
    spans = None
    if mode == "mask" and gapped:
        spans = draw_spans(rng, n, closed, config)
    elif mode == "mask":
        spans = sample_spans(rng, n, config, [(0, closed)], single=rng.random() < config.single_span_share)
    elif mode == "sentence":
        candidates = sentences(np.isin(tokens, sentence_ends), 0, n, tail=complete)
        spans = sample_sentences(rng, candidates, max(1, int(config.mask_ratio * n)))
    if spans is not None:
        return spans, mode
    inside = (0, closed) if closed > 0 and rng.random() < config.gmask_infill_share else None
    return sample_long_span(rng, n, max(1, int(config.gmask_min_ratio * n)), n, inside), "gmask"


def infill(
    rng: np.random.Generator,
    tokens: Ints,
    config: InfillingConfig,
    special: SpecialTokens,
    *,
    span_positions: str,
    complete: bool,
    sentence_ends: Sequence[int] | Ints = (),
    room: int | None = None,
) -> Sample | None:
    """Draw mode, spans and their order for one piece of text and build its sample of at most `room` tokens.

    complete: the piece ends where its document ends, so a span that reaches the end is closed by <eop>; the end of any
    other piece teaches none.
    A sample is longer than its text (two tokens per span); what would not fit is cut off the piece before spans are
    drawn. None: no room for any text.
    """
    mode = draw_mode(rng, config)
    if room is not None and len(tokens) >= room:
        tokens, complete = tokens[: max(0, room - 1)], False
    while len(tokens):
        spans, drawn = _draw_spans(rng, tokens, mode, complete, config, sentence_ends, span_positions == "gapped")
        suffix = drawn == "gmask" and not complete and spans[0, 1] == len(tokens)
        extra = 2 * len(spans) - suffix + (span_positions == "gapped" and drawn != "gmask")
        over = 0 if room is None else len(tokens) + extra - room
        if over <= 0:
            return _build(rng, tokens, spans, drawn, suffix, config, special, span_positions)
        if over >= len(tokens):  # more spans than so little room can hold
            mode, over = "gmask", 0
        tokens, complete = tokens[: len(tokens) - over], False
    return None


def _build(
    rng: np.random.Generator,
    tokens: Ints,
    spans: Ints,
    mode: str,
    suffix: bool,
    config: InfillingConfig,
    special: SpecialTokens,
    span_positions: str,
) -> Sample:
    order = rng.permutation(len(spans)) if config.shuffle_spans and len(spans) > 1 else np.arange(len(spans))
    hidden: Ints | tuple = ()
    if mode == "mask" and config.dblock_probability > 0:
        covered = int((spans[:, 1] - spans[:, 0]).sum())
        drawn = rng.random(covered + len(spans)) < config.dblock_probability
        hidden = np.flatnonzero(drawn) + len(tokens) - covered + len(spans)
    mask_id = {"mask": special.mask, "sentence": special.smask, "gmask": special.gmask}[mode]
    if span_positions == "gapped" and mode != "gmask":
        return build_gapped(tokens, spans, order, special, mask_id)
    pin = span_positions == "pinned" or (span_positions == "pinned_mask" and mode != "gmask")
    return build_sample(tokens, spans, order, mask_id, special, suffix=suffix, pin=pin, dblock_at=hidden)
