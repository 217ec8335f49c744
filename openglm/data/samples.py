"""One piece of text as the network sees it, whatever objective laid it out."""

from __future__ import annotations

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
