"""One piece of text as the network sees it, whatever objective laid it out; and where spans of one may lie."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """One piece as the network sees it; five arrays of equal length.

    `targets[t]` is what has to be predicted at t (already shifted).
    """

    tokens: Ints
    targets: Ints
    loss_mask: NDArray[np.float32]
    position: Ints
    block_position: Ints  # 0 in part A, 1.. in every span of part B
    context_length: int  # tokens of part A

    def __len__(self) -> int:
        return len(self.tokens)


def place_spans(rng: np.random.Generator, lengths: Ints, start: int, stop: int) -> Ints | None:
    """Spans [k, 2] of these lengths, in this order, anywhere in [start, stop) with at least one token between them;
    None if they do not fit.
    """
    free = stop - start - int(lengths.sum()) - len(lengths) + 1
    if free < 0:
        return None
    begins = start + np.sort(rng.integers(0, free + 1, len(lengths))) + np.cumsum(lengths + 1) - lengths - 1
    return np.stack((begins, begins + lengths), axis=1)
