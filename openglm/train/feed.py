"""This process's share of a run's batches, in order and prepared ahead."""

from collections.abc import Callable, Generator
from contextlib import closing

import torch

from openglm.data.mixture import Rows, batches
from openglm.train.interrupt import signals_held
from openglm.train.objective import Batch
from openglm.train.run import Session
from openglm.train.stability import Guard


class Feed:
    """This process's share of the batches of a run, prepared ahead; where the data cursor has jumped, they are opened
    again."""

    def __init__(self, session: Session, guard: Guard) -> None:
        self.session, self.guard, self.at = session, guard, (-1, 0)
        self.stream: Generator[Batch, None, None] | None = None  # opened by the first call

    def take(self, start: int) -> Batch:
        jumped = self.guard.memory.jumped
        # What was jumped over counts in the size of batches, also where the next is the one that would have come.
        if self.stream is None or (start, jumped) != self.at:
            self.close()
            self.stream = stream_batches(
                self.session, self.session.run.rows, start, self.guard.rows_at, self.session.run.workers
            )
        self.at = start + self.guard.rows_at(start), jumped
        return next(self.stream)

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()


def stream_batches(
    session: Session, rows: Rows, start: int, size: int | Callable[[int], int], workers: int
) -> Generator[Batch, None, None]:
    """This process's share of the batches of `size` rows, in order. The loader draws a seed when it starts; training's
    own random numbers must not notice."""
    share = session.group.rank("data"), session.group.size("data")
    with closing(batches(rows, start, size, workers, share)) as stream:
        with torch.random.fork_rng(devices=[]), signals_held():
            first = next(stream)
        yield first
        yield from stream
