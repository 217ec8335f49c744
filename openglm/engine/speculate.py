"""Guesses of the next tokens: what followed the last time that the text read like this. No second network."""

from __future__ import annotations

_GRAM = 3  # tokens that must agree; two agree too often by chance


class Lookup:
    """The places of all runs of three tokens, in constant time per token."""

    def __init__(self, ids: list[int], most: int) -> None:
        self.most, self.length = most, most
        self.seen: dict[tuple[int, ...], int] = {}
        self.done = _GRAM
        self.follow(ids)

    def follow(self, ids: list[int]) -> None:
        """Learn the new tokens. The run at the very end is left out: it is what will be looked up."""
        for end in range(self.done, len(ids)):
            self.seen[tuple(ids[end - _GRAM : end])] = end
        self.done = max(self.done, len(ids))

    def propose(self, ids: list[int], most: int, never: int | None) -> list[int]:
        """Up to `most` tokens that may come next, none of them `never`."""
        self.follow(ids)
        start = self.seen.get(tuple(ids[-_GRAM:]))
        draft: list[int] = []
        if start is None:
            return draft
        for place in range(start, start + min(most, self.length)):
            token = ids[place] if place < len(ids) else draft[place - len(ids)]  # a loop goes on as a loop
            if token == never:
                break
            draft.append(token)
        return draft

    def learn(self, accepted: int) -> None:
        """Guess further ahead after success, and less after failure: wrong guesses cost computing."""
        self.length = min(self.most, 2 * accepted + 1)
