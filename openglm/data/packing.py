"""Whole pieces packed into rows, in a new order each epoch."""

import numpy as np

from openglm.data.samples import Ints


class PackedEpochs:
    """Pieces of these lengths in rows of `size`: every epoch holds each piece once, and has the same number of rows."""

    def __init__(self, lengths: Ints, size: int, key: tuple[int, ...]) -> None:
        self._lengths, self._key = lengths, key
        self._slots = fill_rows(lengths, size)
        self._epoch: tuple[int, Ints, Ints] = (-1, lengths, lengths)

    @property
    def rows(self) -> int:
        """In an epoch."""
        return len(self._slots)

    def items(self, number: int) -> Ints:
        """Numbers of the pieces in row `number`, counted over all epochs."""
        epoch, row = divmod(number, self.rows)
        if self._epoch[0] != epoch:
            shuffle = np.random.default_rng((*self._key, epoch))
            # Slots are sorted by length, and equal lengths may trade places.
            order = np.lexsort((shuffle.random(len(self._lengths)), -self._lengths))
            self._epoch = epoch, order, shuffle.permutation(self.rows)
        _, order, rows = self._epoch
        return order[self._slots[rows[row]]]


def fill_rows(lengths: Ints, size: int) -> list[Ints]:
    """Pack lengths into rows of `size`, best fit, longest first. Row -> numbers of its slots; slot j is the j-th
    longest.
    """
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(size + 1)]  # rows with so many free places
    rooms = 0  # bit r is set where by_room[r] is not empty
    for slot, length in enumerate(sorted(lengths.tolist(), reverse=True)):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            rooms &= ~(1 << room) if not by_room[room] else -1
        else:
            room, row = size, len(rows)
            rows.append([])
        rows[row].append(slot)
        by_room[room - length].append(row)
        rooms |= 1 << (room - length)
    return [np.array(row) for row in rows]
