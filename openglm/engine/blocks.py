"""Who owns which block of the cache, and which blocks hold a beginning that a later request may share.

Only full blocks are shared, and a full block is never written again, so nothing is ever copied. A block is known by its
tokens and by the node before it: the chain of nodes is a tree of beginnings. The dictionary compares the tokens
themselves, so that two beginnings with the same hash stay apart.
"""

from collections.abc import Hashable, Sequence


class BlockPool:
    """Numbers 0 .. blocks - 1. A block is free, or counted as often as sequences use it, or idle: unused, but known and
    kept while there is room."""

    def __init__(self, blocks: int, block_size: int) -> None:
        self.blocks, self.block_size = blocks, block_size
        self.counts = [0] * blocks
        self._free = list(range(blocks - 1, -1, -1))
        self._idle: dict[int, None] = {}  # in the order they fell idle
        self._nodes: dict[tuple[Hashable, tuple[int, ...]], tuple[int, int]] = {}  # (parent, tokens) -> (block, node)
        self._known_as: dict[int, tuple[Hashable, tuple[int, ...]]] = {}
        self._next_node = 0

    @property
    def available(self) -> int:
        """Blocks that `take` can still give."""
        return len(self._free) + len(self._idle)

    def take(self) -> int:
        """A block for new tokens. The one idle for longest is forgotten when no other is free."""
        if self._free:
            block = self._free.pop()
        else:
            block = next(iter(self._idle))
            del self._idle[block]
            del self._nodes[self._known_as.pop(block)]
        self.counts[block] = 1
        return block

    def match(self, root: Hashable, ids: Sequence[int], most: int) -> tuple[list[int], Hashable]:
        """Use the known blocks with which `ids` begin, at most so many; returns them and the node of the last."""
        node, found = root, []
        for start in range(0, most * self.block_size, self.block_size):
            entry = self._nodes.get((node, tuple(ids[start : start + self.block_size])))
            if entry is None:
                break
            block, node = entry
            self._idle.pop(block, None)
            self.counts[block] += 1
            found.append(block)
        return found, node

    def remember(self, block: int, parent: Hashable, tokens: Sequence[int]) -> Hashable:
        """Let later requests find a block that is full and computed; returns its node, or that of an earlier block of
        the same content."""
        assert len(tokens) == self.block_size, (len(tokens), self.block_size)
        key = (parent, tuple(tokens))
        if key not in self._nodes:
            self._nodes[key], self._known_as[block] = (block, self._next_node), key
            self._next_node += (
                1  # never used again, so that a forgotten block's followers cannot be found under another
            )
        return self._nodes[key][1]

    def release(self, blocks: list[int]) -> None:
        """Give up a sequence's blocks. Last ones first: a beginning outlives what follows it, which is useless
        alone."""
        for block in reversed(blocks):
            self.counts[block] -= 1
            assert self.counts[block] >= 0, (block, self.counts[block])
            if self.counts[block] == 0:
                if block in self._known_as:
                    self._idle[block] = None
                else:
                    self._free.append(block)
