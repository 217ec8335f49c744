"""Which sequences take part in the next step, with how many tokens each. First come, first served.

Running sequences are always older than waiting ones. When blocks run out, the youngest gives up its own and waits at
the front; its tokens are kept and computed again later, so that its answer goes on as if nothing had happened.
"""

from __future__ import annotations

from collections import deque

from openglm.config import EngineConfig
from openglm.engine.blocks import BlockPool
from openglm.engine.sequence import Sequence


class Scheduler:
    def __init__(self, pool: BlockPool, config: EngineConfig) -> None:
        self.pool, self.config = pool, config
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    def plan(self) -> list[tuple[Sequence, int]]:
        """The next step: sequences, and how many tokens of each are computed, drafts included. Their blocks are theirs
        already."""
        self.chunks: dict[Sequence, int] = {}
        self.budget, self.reading = self.config.step_tokens, False
        # Answers that grow come first: their readers wait for every token.
        for sequence in [s for s in self.running if s.left == 1] + [s for s in self.running if s.left > 1]:
            if (
                sequence.blocks
                and (count := self._chunk(sequence))
                and self._reserve(sequence, sequence.cached + count)
            ):
                self._take(sequence, count)
        while self.waiting and len(self.running) < self.config.max_sequences and self.budget > 0:
            if not self._admit(self.waiting[0]):
                break
        for sequence in self.chunks:
            self._extend_by_draft(sequence)
        return [(sequence, count + len(sequence.draft)) for sequence, count in self.chunks.items()]

    def _take(self, sequence: Sequence, count: int) -> None:
        self.chunks[sequence] = count
        self.budget -= count
        self.reading |= sequence.left > 1

    def _chunk(self, sequence: Sequence) -> int:
        """Tokens for this sequence: what is left of it and of the step. Part A of a prefix model is read in one piece,
        if need be beyond the budget."""
        count = min(sequence.left, max(self.budget, 0))
        unread = sequence.visible - sequence.cached
        if count < unread:
            return 0 if self.reading else unread
        return count

    def _admit(self, sequence: Sequence) -> bool:
        """Start the first in line if its whole text finds room, and one block for each that runs: else it would soon be
        put off again."""
        size = self.pool.block_size
        most = (
            (len(sequence.ids) - 1) // size if self.config.share_prefixes else 0
        )  # one token at least is computed, for its logits
        blocks, node = self.pool.match(sequence.root, sequence.ids, most)
        missing = -(-len(sequence.ids) // size) - len(blocks)
        sequence.stored = len(blocks) * size
        sequence.cached = max(sequence.stored, sequence.virtual)  # virtual tokens are put in place, not computed
        count = self._chunk(sequence) if missing + len(self.running) <= self.pool.available else 0
        if count == 0:
            self.pool.release(blocks)
            sequence.forget()
            return False
        sequence.blocks = blocks + [self.pool.take() for _ in range(missing)]
        sequence.node, sequence.shared = node, len(blocks)
        sequence.hits = sequence.stored if sequence.hits is None else sequence.hits
        self.running.append(self.waiting.popleft())
        self._take(sequence, count)
        return True

    def _reserve(self, sequence: Sequence, length: int) -> bool:
        """Blocks for `length` tokens, if need be those of the youngest; False where that was the sequence itself."""
        while (missing := -(-length // self.pool.block_size) - len(sequence.blocks)) > self.pool.available:
            youngest = self.running[-1]
            self._put_off(youngest)
            if youngest is sequence:
                return False
        sequence.blocks += [self.pool.take() for _ in range(missing)]
        return True

    def _extend_by_draft(self, sequence: Sequence) -> None:
        """Room for guessed tokens where there is some to spare; nobody is put off for a guess."""
        spare = (self.pool.available + len(sequence.blocks)) * self.pool.block_size - len(sequence.ids)
        del sequence.draft[max(0, min(self.budget, spare)) :]
        if sequence.draft:
            self.budget -= len(sequence.draft)
            self._reserve(sequence, len(sequence.ids) + len(sequence.draft))

    def _put_off(self, sequence: Sequence) -> None:
        self.chunks.pop(sequence, None)
        self.remove(sequence)
        self.waiting.appendleft(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is; its blocks are free at once."""
        (self.running if sequence.blocks else self.waiting).remove(sequence)
        self.pool.release(sequence.blocks)
        sequence.forget()

    def commit(self, sequence: Sequence, cached: int) -> None:
        """Keys and values of the first `cached` tokens are final: full blocks become known to later requests."""
        sequence.cached = cached
        size = self.pool.block_size
        while self.config.share_prefixes and (end := (sequence.shared + 1) * size) <= cached:
            sequence.node = self.pool.remember(
                sequence.blocks[sequence.shared], sequence.node, sequence.ids[end - size : end]
            )
            sequence.shared += 1
