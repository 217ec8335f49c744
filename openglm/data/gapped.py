"""Blank infilling for models that read forward: every token of a row is trained, those around the blanks too.

Part A is the text with [MASK] in place of each span. It is read and trained left to right, so nothing is lost for plain
reading. Part B holds the spans in random order and sees all of part A, what stands behind a blank too. It opens with
<sop>; a span begins with its left neighbour once more, and goes on from it as plain text would: the target is
`span <eop>`. Positions say where: a blank leaves a gap of them, in which its span runs on, with what follows some way
ahead (`span_positions = "gapped"`, `model/positions.py`). The gap does not tell how long the span is.

After GLM (arXiv 2103.10360) and models that fill in the middle with the loss kept on everything (arXiv 2207.14255,
section 4). Legend: n tokens of a piece, k spans [start, end).
"""

import math
from collections.abc import Sequence

import numpy as np

from openglm.config import SPAN_GAP, InfillingConfig, SpecialTokens, require
from openglm.data.samples import Ints, Sample, place_spans


def check_options(config: InfillingConfig, gapped: bool) -> None:
    """Raises ValueError for options that would have no effect."""
    for name in ("dblock_probability",) if gapped else ("mask_ratio_max", "mean_span_max"):
        value = getattr(config, name)
        kind = "gapped" if gapped else "these"
        require(value == 0, f"infilling.{name}", value, f"has no effect with {kind} span positions; set it to 0")


def draw_spans(rng: np.random.Generator, length: int, closed: int, config: InfillingConfig) -> Ints | None:
    """Spans [k, 2] in a text of `length` tokens, none reaching beyond `closed`; None if there is no text.

    A piece draws the share of its tokens that is cut out, uniformly from mask_ratio to mask_ratio_max, and the mean of
    the geometric distribution of its span lengths, log-uniformly from mean_span to mean_span_max: some pieces have many
    holes of a word, some a few of a sentence.
    """
    if closed < 1:
        return None
    share = rng.uniform(config.mask_ratio, max(config.mask_ratio, config.mask_ratio_max))
    mean = math.exp(rng.uniform(math.log(config.mean_span), math.log(max(config.mean_span, config.mean_span_max))))
    wanted = max(1, int(share * length))
    lengths = np.minimum(rng.geometric(min(1.0, 1 / mean), wanted), min(config.max_span - 1, closed))
    lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), wanted)) + 1]
    while int(lengths.sum()) + len(lengths) - 1 > closed:  # a token at least stays between two spans
        lengths = lengths[:-1]
    return place_spans(rng, lengths, 0, closed)


def build_gapped(
    tokens: Ints, spans: Ints, order: Sequence[int] | Ints, special: SpecialTokens, mask_id: int
) -> Sample:
    """Lay out `tokens` [n] with `spans` [k, 2], sorted and disjoint, cut out; part B holds span order[0] first.

    A span that is longer than SPAN_GAP gets a multiple of it. Not trained are [MASK] as a target, what would follow the
    last token of part A, and the neighbour behind <sop>.
    """
    inputs: list[int] = []
    position: list[int] = []
    left: list[int] = []  # positions of the left neighbours
    at, place = 0, 0
    for start, end in spans.tolist():
        inputs += [*tokens[at:start].tolist(), mask_id]
        left.append(place + start - at - 1)
        mask_at = left[-1] + SPAN_GAP * -(-(end - start + 1) // SPAN_GAP)
        position += [*range(place, place + start - at), mask_at]
        at, place = end, mask_at + 1
    inputs += tokens[at:].tolist()
    position += range(place, place + len(tokens) - at)
    context = len(inputs)
    targets = [*inputs[1:], special.pad]
    loss = [float(target != mask_id) for target in targets[:-1]] + [0.0]
    for number in order:
        start, end = spans[number].tolist()
        span = tokens[start:end].tolist()
        opening = [int(tokens[start - 1])] if start else [special.sop]
        if start and len(inputs) == context:
            opening = [special.sop, *opening]
        extra = len(opening) - 1
        inputs += [*opening, *span]
        targets += [*opening[1:], *span, special.eop]
        position += range(left[number] - extra, left[number] + len(span) + 1)
        loss += [0.0] * extra + [1.0] * (len(span) + 1)
    forward = np.ones(len(inputs), np.int64)  # there is no part A that is read both ways
    return Sample(np.array(inputs), np.array(targets), np.array(loss, np.float32), np.array(position), forward, context)
