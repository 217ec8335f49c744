"""Drafts of the next tokens: what followed the last time that the text read like this. No second network."""

_GRAM = 3  # tokens that must agree; two agree too often by chance


class PromptLookup:
    """Where each run of three tokens was last seen, in constant time per token."""

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

    def draft(self, ids: list[int], most: int, never: int | None) -> list[int]:
        """Up to `most` tokens that may come next, none of them `never`."""
        self.follow(ids)
        start = self.seen.get(tuple(ids[-_GRAM:]))
        found: list[int] = []
        if start is None:
            return found
        for index in range(start, start + min(most, self.length)):
            token = ids[index] if index < len(ids) else found[index - len(ids)]  # a loop goes on as a loop
            if token == never:
                break
            found.append(token)
        return found

    def learn(self, accepted: int) -> None:
        """Draft further ahead after success, and less after failure: wrong drafts cost computing."""
        self.length = min(self.most, 2 * accepted + 1)
