"""This process's share of a run's batches, in order and prepared ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import torch

from openglm.data.mixture import batches
from openglm.train.interrupt import signals_held
from openglm.train.passes import Batch
from openglm.train.run import Rows, Run
from openglm.train.stability import Guard


class Feed:
    """This process's share of the batches of a run, prepared ahead; where the data cursor has jumped, they are opened again."""

    def __init__(self, run: Run, guard: Guard) -> None:
        self.run, self.guard, self.stream, self.at = run, guard, None, (-1, 0)

    def take(self, start: int) -> Batch:
        jumped = self.guard.memory.jumped
        if (
            (start, jumped) != self.at
        ):  # what was jumped over counts in the size of batches, also where the next is the one that would have come
            self.close()
            self.stream = stream_batches(self.run, self.run.rows, start, self.guard.rows_at, self.run.workers)
        self.at = start + self.guard.rows_at(start), jumped
        return next(self.stream)

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()


def stream_batches(run: Run, rows: Rows, start: int, size: int | Callable[[int], int], workers: int) -> Iterator[Batch]:
    """This process's share of the batches of `size` rows, in order. The loader draws a seed when it starts; training's own random numbers must not notice."""
    share = run.group.rank("data"), run.group.size("data")
    with closing(batches(rows, start, size, workers, share)) as stream:
        with torch.random.fork_rng(devices=[]), signals_held():
            first = next(stream)
        yield first
        yield from stream
