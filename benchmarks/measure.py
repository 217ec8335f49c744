"""What measurements share: contenders that take turns, medians and the medians of the rounds' ratios, Markdown tables, files of figures."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def seconds(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    run()
    return clock() - start


def in_turn(contenders: Mapping[str, Callable[[int], T]], rounds: int) -> dict[str, list[T]]:
    """What each contender returns for each round's number, 1 and up. Every second round begins with the last one: none is always first."""
    found: dict[str, list[T]] = {name: [] for name in contenders}
    for number in range(1, rounds + 1):
        for name in list(contenders)[:: 1 if number % 2 else -1]:
            found[name].append(contenders[name](number))
    return found


def ratio(of: Sequence[float], to: Sequence[float]) -> float:
    """The median of the rounds' ratios: whatever slows the machine for longer than a round slows both."""
    return statistics.median(a / b for a, b in zip(of, to, strict=True))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows))


def write_json(path: str | Path | None, found: object) -> None:
    """Where a path was asked for."""
    if path:
        Path(path).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
