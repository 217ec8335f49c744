"""Which tokens can come first in an answer that must begin with given bytes: those taken back from the end of a
prompt (token healing)."""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence

import numpy as np


class Openings:
    """The texts of a vocabulary in alphabetical order, so that all tokens with a common beginning lie side by side."""

    def __init__(self, tokens: Sequence[bytes], special: Collection[int]) -> None:
        """tokens: bytes by id. special: ids that are no text."""
        texts = sorted((text, number) for number, text in enumerate(tokens) if text and number not in special)
        self._texts = [text for text, _ in texts]
        self.ids = np.array([number for _, number in texts], np.int64)
        """all tokens that have text"""

    def able(self, demanded: bytes) -> np.ndarray:
        """Ids of tokens that begin with these bytes, or that are their beginning and leave a rest that tokens can
        spell; all with text where none are demanded."""
        if not demanded:
            return self.ids
        size = len(demanded)
        spelled = [False] * size + [True]  # whether tokens can spell demanded[start:], or begin with it
        for start in range(size - 1, 0, -1):
            spelled[start] = len(self._starting(demanded[start:])) > 0 or any(
                spelled[end] and len(self._equal(demanded[start:end])) > 0 for end in range(start + 1, size)
            )
        shorter = [self._equal(demanded[:end]) for end in range(1, size) if spelled[end]]
        return np.concatenate([self._starting(demanded), *shorter])

    def _starting(self, text: bytes) -> np.ndarray:
        def beginning(token: bytes) -> bytes:
            return token[: len(text)]

        low = bisect_left(self._texts, text, key=beginning)
        return self.ids[low : bisect_right(self._texts, text, lo=low, key=beginning)]

    def _equal(self, text: bytes) -> np.ndarray:
        low = bisect_left(self._texts, text)
        return self.ids[low : bisect_right(self._texts, text, lo=low)]
