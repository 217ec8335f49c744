"""Results for people: a table in Markdown, and one HTML page with bars beside published figures and chance."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from openglm.config import require
from openglm.evaluation.metrics import paired
from openglm.evaluation.suites import PUBLISHED

_STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 1040px; margin: 2em auto; color: #222 }
td, th { border-top: 1px solid #ddd; padding: 4px 10px; text-align: left; vertical-align: top }
pre { white-space: pre-wrap; background: #f6f7f9; padding: 8px } text { font: 12px system-ui, sans-serif }"""
_LEFT, _WIDTH, _ROW = 220, 420, 20

Result = Mapping[str, Any]


def table(result: Result) -> str:
    """Markdown, in percent."""
    lines = [
        "| task | metric | value | 95 % | chance | questions | letters answered |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in result["tasks"].items():
        whole = "none: answers are missing" if one["value"] is None else f"{100 * one['value']:.1f}"
        ends = "" if one["value"] is None else f"{100 * one['low']:.1f} to {100 * one['high']:.1f}"
        answered = " ".join(f"{letter} {count}" for letter, count in one.get("letters", {}).items())
        lines.append(
            f"| {name} | {one['metric']} | {whole} | {ends} | {100 * one['chance']:.1f} | {one['items']} | {answered} |"
        )
    for name, one in result.get("suites", {}).items():
        whole = "none" if one["value"] is None else f"{100 * one['value']:.1f} ± {196 * one['stderr']:.1f}"
        lines.append(f"| **{name}** | mean | {whole} | | | | |")
    return "\n".join(lines)


def page(results: Sequence[Result]) -> str:
    """Several models side by side, as one HTML file that needs no other."""
    names = list(dict.fromkeys(name for result in results for name in result["tasks"]))
    parts = [f"<h1>{_text(', '.join(result['model'] for result in results))}</h1>"]
    for name in names:
        mine = {result["model"]: result["tasks"][name] for result in results if name in result["tasks"]}
        first = next(iter(mine.values()))
        parts.append(
            f"<h2>{_text(name)}</h2><p>{_text(first['metric'])}, {first['items']} questions</p>{_bars(name, mine)}"
        )
        parts += [_details(model, one) for model, one in mine.items()]
        parts.append(f"<details><summary>the first prompt</summary><pre>{_text(first['prompt'])}</pre></details>")
    return f'<!DOCTYPE html>\n<meta charset="utf-8">\n<title>glm eval</title>\n<style>{_STYLE}</style>\n' + "\n".join(
        parts
    )


def _bars(name: str, mine: Mapping[str, Result]) -> str:
    """Our bars with their intervals, published ones in grey, and a line at chance."""
    rows: list[tuple[str, float, str, Result | None]]
    rows = [(model, 100 * one["value"], "#3b6ea5", one) for model, one in mine.items() if one["value"] is not None]
    rows += [(model, value, "#bbb", None) for model, value in PUBLISHED.get(name, {}).items()]
    scale, height = _WIDTH / 100, _ROW * len(rows)
    drawn = []
    for number, (model, value, colour, one) in enumerate(rows):
        top = number * _ROW
        drawn.append(f'<text x="0" y="{top + 14}">{_text(model[-34:])}</text>')
        drawn.append(f'<rect x="{_LEFT}" y="{top + 3}" width="{value * scale:.1f}" height="14" fill="{colour}"/>')
        drawn.append(f'<text x="{_LEFT + _WIDTH + 6}" y="{top + 14}">{value:.1f}</text>')
        if one:
            low, high = (_LEFT + 100 * one[end] * scale for end in ("low", "high"))
            drawn.append(f'<path d="M{low:.1f} {top + 10}H{high:.1f}" stroke="#222"/>')
    chance = _LEFT + 100 * next(iter(mine.values()))["chance"] * scale
    drawn.append(f'<path d="M{chance:.1f} 0V{height}" stroke="#c33" stroke-dasharray="3"/>')
    return f'<svg width="{_LEFT + _WIDTH + 60}" height="{height}">{"".join(drawn)}</svg>'


def _details(model: str, one: Result) -> str:
    """Letters, categories and the axes of one model, as rows."""
    shown = (
        "letters",
        "right_letters",
        "unread_answers",
        "shots",
        "missing",
        "categories",
        "robustness",
        "calibration",
    )
    rows = [f"<tr><th>{_text(key)}<td>{_text(_words(one[key]))}" for key in shown if one.get(key)]
    return f"<table><tr><th>{_text(model)}<td>{''.join(rows)}</table>"


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return "; ".join(map(_words, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _text(value: object) -> str:
    return html.escape(str(value))


def compare(first: Result, second: Result) -> str:
    """By how much the second model does better on the same questions. Raises ValueError where they are others."""
    shared = [name for name in first["tasks"] if name in second["tasks"]]
    require(bool(shared), "compare", [*second["tasks"]], f"no task of {', '.join(first['tasks'])} is in both")
    lines = [f"| task | {first['model']} | {second['model']} | difference | 95 % | p |", "|---|---|---|---|---|---|"]
    for name in shared:
        one, other = first["tasks"][name], second["tasks"][name]
        known = "scores" in one and "scores" in other
        require(known, "compare", name, "lm-eval's tasks keep no score of each question; compare others")
        same = one["questions"] == other["questions"]
        require(same, "compare", name, "asked other questions in each; run both on the same data with the same --limit")
        require(not one["missing"] + other["missing"], "compare", name, "answers are missing; run it again")
        found = paired(one["scores"], other["scores"])
        values = [f"{100 * value:.1f}" for value in (one["value"], other["value"], found.value)]
        ends = f"{100 * found.low:.1f} to {100 * found.high:.1f}"
        lines.append(f"| {name} | {' | '.join(values)} | {ends} | {found.p:.3g} |")
    return "\n".join(lines)
