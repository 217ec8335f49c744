"""The report of an alignment run: one HTML file with its curves, and answers before and after side by side.

It reads log.jsonl alone, so it can be made anew from any run; curves are plain SVG and need no other file.
"""

import html
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openglm.files import write_file
from openglm.runtime import say

_WIDTH, _HEIGHT, _EDGE = 320, 120, 6
_STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 1040px; margin: 2em auto; color: #222 }
figure { display: inline-block; margin: 0 12px 12px 0 } figcaption { font-size: 13px; color: #555 }
svg { background: #f6f7f9; border-radius: 4px } polyline { fill: none; stroke: #3b6ea5; stroke-width: 1.5 }
table { border-collapse: collapse; width: 100% } td, th { border-top: 1px solid #ddd; padding: 6px; text-align: left;
vertical-align: top; white-space: pre-wrap }"""

Series = dict[str, list[tuple[int, float]]]


def write_report(out: Path) -> Path:
    """Write report.html into the run's folder `out`, from its log.jsonl, and say so."""
    title = out.resolve().name
    records = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    curves = "".join(_figure(name, points) for name, points in series(records).items() if len(points) > 1)
    answers = _answers([record for record in records if "answers" in record])
    text = (
        f'<!DOCTYPE html>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n'
        f"<h1>{html.escape(title)}</h1>\n<h2>Curves</h2>\n{curves}\n{answers}"
    )
    write_file(out / "report.html", text)
    say(f"curves{' and answers' if answers else ''}: {out / 'report.html'}")
    return out / "report.html"


def series(records: Sequence[dict[str, Any]]) -> Series:
    """The numbers of a log by name, each with its steps."""
    found: Series = defaultdict(list)
    for record in records:
        for name, value in record.items():
            inner = value.items() if isinstance(value, dict) and name != "wall" else ()
            for key, number in [(name, value), *((f"{name}/{key}", number) for key, number in inner)]:
                if key != "step" and isinstance(number, int | float):
                    found[key.removeprefix("metrics/")].append((record["step"], number))
    return found


def _figure(name: str, points: list[tuple[int, float]]) -> str:
    steps, values = zip(*points, strict=True)
    low, high = min(values), max(values)
    across, up = (_WIDTH - 2 * _EDGE) / max(steps[-1] - steps[0], 1), (_HEIGHT - 2 * _EDGE) / (high - low or 1)
    line = " ".join(
        f"{_EDGE + (step - steps[0]) * across:.1f},{_HEIGHT - _EDGE - (value - low) * up:.1f}" for step, value in points
    )
    return (
        f'<figure><svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{html.escape(name)}">'
        f'<polyline points="{line}"/></svg><figcaption><b>{html.escape(name)}</b>: {values[0]:.4g} → {values[-1]:.4g}'
        f" (from {low:.4g} to {high:.4g})</figcaption></figure>\n"
    )


def _answers(records: Sequence[dict[str, Any]]) -> str:
    """A table of the first and the last answers to the same prompts."""
    if not records:
        return ""
    first, last = records[0]["answers"], records[-1]["answers"]
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in (asked, *before, *after)) + "</tr>\n"
        for (asked, *before), (_, *after) in zip(first, last, strict=True)
    )
    head = "<tr><th>prompt<th>before<th>reward<th>after<th>reward</tr>\n"
    return f"<h2>The first held-out prompts, before and after</h2>\n<table>{head}{rows}</table>\n"
