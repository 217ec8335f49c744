"""The tools that every registry begins with, by the names that a model calls them by. They run in worker.py."""

from __future__ import annotations

from collections.abc import Callable

from openglm.tools.algebra import add_up, calc, diff, integrate, limit, simplify, solve
from openglm.tools.dates import date
from openglm.tools.units import convert

BUILT_IN: dict[str, Callable[..., str]] = {
    "Solve": solve,
    "Calc": calc,
    "Simplify": simplify,
    "Diff": diff,
    "Integrate": integrate,
    "Limit": limit,
    "Sum": add_up,
    "Convert": convert,
    "Date": date,
}
