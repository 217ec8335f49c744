"""Blank infilling for models that read forward: every token of a row is trained, those around the blanks too.

Part A is the text with [MASK] in place of each span; it is read and trained left to right, so nothing is lost for plain reading. Part B holds the
spans in random order, each as `<sop> span` with the target `span <eop>`, and sees all of part A: what stands behind a blank too. A blank leaves
a gap of positions, so that a span goes on from its left neighbour just as plain text would, with what follows some places ahead
(`span_positions = "gapped"`, `model.positions`). The gap does not tell how long the span is.

After GLM (arXiv 2103.10360) and the models that fill in the middle with the loss kept on everything (arXiv 2207.14255, section 4).
Legend: n tokens of a piece, k spans [start, end), a tokens of part A.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from openglm.config import SPAN_GAP, InfillingConfig, SpecialTokens
from openglm.data.samples import Ints, Sample


def draw_spans(rng: np.random.Generator, length: int, closed: int, config: InfillingConfig) -> Ints | None:
    """Spans [k, 2] in a text of `length` tokens, none reaching beyond `closed`; None if there is no text.

    A piece draws the share of its tokens that is cut out, uniformly from mask_ratio to mask_ratio_max, and the mean of the geometric distribution
    of its span lengths, log-uniformly from mean_span to mean_span_max: some pieces have many holes of a word, some a few of a sentence.
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
    free = closed - int(lengths.sum()) - len(lengths) + 1
    begins = np.sort(rng.integers(0, free + 1, len(lengths))) + np.cumsum(lengths + 1) - lengths - 1
    return np.stack((begins, begins + lengths), axis=1)


def build_gapped(
    tokens: Ints, spans: Ints, order: Sequence[int] | Ints, special: SpecialTokens, mask_id: int
) -> Sample:
    """Lay out `tokens` [n] with `spans` [k, 2], sorted and disjoint, cut out; part B holds span order[0] first.

    A span and its <sop> that are longer than SPAN_GAP get a multiple of it. Targets of part A are its own next tokens, but for [MASK], which nothing
    predicts, and for what would follow its last token.
    """
    inputs, position, left = [], [], []
    at, place = 0, 1  # one further on: a blank that opens the text has a left neighbour's position, though no neighbour
    for start, end in spans.tolist():
        room = SPAN_GAP * -(-(end - start + 1) // SPAN_GAP)
        inputs += [*tokens[at:start].tolist(), mask_id]
        left.append(place + start - at - 1)
        position += [*range(place, place + start - at), left[-1] + room]
        at, place = end, left[-1] + room + 1
    inputs += tokens[at:].tolist()
    position += range(place, place + len(tokens) - at)
    context = len(inputs)
    targets = [*inputs[1:], special.pad]
    loss = [float(target != mask_id) for target in targets[:-1]] + [0.0]
    for number in order:
        span = tokens[spans[number, 0] : spans[number, 1]].tolist()
        inputs += [special.sop, *span]
        targets += [*span, special.eop]
        position += range(left[number], left[number] + len(span) + 1)
        loss += [1.0] * (len(span) + 1)
    seen = np.ones(len(inputs), np.int64)  # no part A that is read both ways
    arrays = (np.array(inputs), np.array(targets), np.array(loss, np.float32), np.array(position), seen)
    return Sample(*arrays, context_length=context)
