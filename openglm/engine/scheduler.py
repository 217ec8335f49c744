"""Which requests take part in the next step, with how many tokens each. First come, first served.

Running requests are always older than waiting ones. When blocks run out, the youngest gives up its own and waits at
the front; its tokens are kept and computed again later, so that its answer goes on as if nothing had happened.
"""

from collections import deque
from collections.abc import Hashable

from openglm.config import EngineConfig
from openglm.engine.blocks import BlockPool
from openglm.engine.request import Request


class Scheduler:
    def __init__(self, pool: BlockPool, config: EngineConfig) -> None:
        self.pool, self.config = pool, config
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []

    def plan(self) -> list[tuple[Request, int]]:
        """The next step: requests, and how many tokens of each are computed, drafts included. Their blocks are theirs
        already."""
        self.chunks: dict[Request, int] = {}
        self.coming: set[tuple[Hashable, tuple[int, ...]]] = set()  # blocks that this step works on
        self.budget, self.reading = self.config.step_tokens, False
        # Answers that grow come first: their readers wait for every token.
        for request in [s for s in self.running if s.left == 1] + [s for s in self.running if s.left > 1]:
            if request.blocks and (count := self._chunk(request)) and self._reserve(request, request.cached + count):
                self._take(request, count)
        while self.waiting and len(self.running) < self.config.max_sequences and self.budget > 0:
            if not self._admit(self.waiting[0]):
                break
        for request in self.chunks:
            self._extend_by_draft(request)
        return [(request, count + len(request.draft)) for request, count in self.chunks.items()]

    def _take(self, request: Request, count: int) -> None:
        self.chunks[request] = count
        self.budget -= count
        self.reading |= request.left > 1
        self.coming.add(self._next_block(request.node, request.ids, request.shared))

    def _next_block(self, node: Hashable, ids: list[int], blocks: int) -> tuple[Hashable, tuple[int, ...]]:
        """As the pool knows it, the block behind the first `blocks`, the last of which is `node`."""
        start = blocks * self.pool.block_size
        return node, tuple(ids[start : start + self.pool.block_size])

    def _chunk(self, request: Request) -> int:
        """Tokens for this request: what is left of it and of the step. Part A of a prefix model is read in one piece,
        if need be beyond the budget."""
        count = min(request.left, max(self.budget, 0))
        unread = request.visible - request.cached
        if count < unread:
            return 0 if self.reading else unread
        return count

    def _admit(self, request: Request) -> bool:
        """Start the first in line if its whole text finds room, and one block for each that runs: else it would soon be
        preempted again. It waits, too, for a block that it begins with and that another computes in this step: answers
        to one question come in groups."""
        size = self.pool.block_size
        most = (
            (len(request.ids) - 1) // size if self.config.share_prefixes else 0
        )  # one token at least is computed, for its logits
        blocks, node = self.pool.match(request.root, request.ids, most)
        missing = -(-len(request.ids) // size) - len(blocks)
        awaited = len(blocks) < most and self._next_block(node, request.ids, len(blocks)) in self.coming
        request.stored = len(blocks) * size
        request.cached = max(request.stored, request.virtual)  # virtual tokens are put in place, not computed
        has_room = missing + len(self.running) <= self.pool.available
        count = self._chunk(request) if has_room and not awaited else 0
        if count == 0:
            self.pool.release(blocks)
            request.forget()
            return False
        request.blocks = blocks + [self.pool.take() for _ in range(missing)]
        request.node, request.shared = node, len(blocks)
        request.hits = request.stored if request.hits is None else request.hits
        self.running.append(self.waiting.popleft())
        self._take(request, count)
        return True

    def _reserve(self, request: Request, length: int) -> bool:
        """Blocks for `length` tokens, if need be those of the youngest; False where that was the request itself."""
        while (missing := -(-length // self.pool.block_size) - len(request.blocks)) > self.pool.available:
            youngest = self.running[-1]
            self._preempt(youngest)
            if youngest is request:
                return False
        request.blocks += [self.pool.take() for _ in range(missing)]
        return True

    def _extend_by_draft(self, request: Request) -> None:
        """Room for drafted tokens where there is some to spare; nobody is preempted for a draft."""
        spare = (self.pool.available + len(request.blocks)) * self.pool.block_size - len(request.ids)
        del request.draft[max(0, min(self.budget, spare)) :]
        if request.draft:
            self.budget -= len(request.draft)
            self._reserve(request, len(request.ids) + len(request.draft))

    def reserve_ahead(self, steps: int) -> int:
        """Blocks for so many steps of all that the plan holds, or for one where there are not enough: nobody is
        preempted for steps to come."""
        if len(self.chunks) * -(-steps // self.pool.block_size) > self.pool.available:
            return 1
        for request in self.chunks:
            self._reserve(request, len(request.ids) - 1 + steps)
        return steps

    def _preempt(self, request: Request) -> None:
        self.chunks.pop(request, None)
        self.remove(request)
        self.waiting.appendleft(request)

    def remove(self, request: Request) -> None:
        """Take a request out, wherever it is; its blocks are free at once."""
        (self.running if request.blocks else self.waiting).remove(request)
        self.pool.release(request.blocks)
        request.forget()

    def commit(self, request: Request, cached: int) -> None:
        """Keys and values of the first `cached` tokens are final: full blocks become known to later requests."""
        request.cached = cached
        size = self.pool.block_size
        while self.config.share_prefixes and (end := (request.shared + 1) * size) <= cached:
            request.node = self.pool.remember(
                request.blocks[request.shared], request.node, request.ids[end - size : end]
            )
            request.shared += 1
