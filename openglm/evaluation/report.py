"""Results for people: a table in Markdown, bars as a picture, and one HTML page with everything."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from openglm.config import require
from openglm.evaluation.metrics import paired
from openglm.evaluation.tasks import PUBLISHED

_STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 1040px; margin: 2em auto; color: #222 }
td, th { border-top: 1px solid #ddd; padding: 4px 10px; text-align: left; vertical-align: top }
pre { white-space: pre-wrap; background: #f6f7f9; padding: 8px }"""
_OURS, _THEIRS = ("#3b6ea5", "#d98032", "#4f9d69", "#8b5fa8"), "#c4c8cd"
_LEFT, _WIDTH, _ROW = 200, 460, 15
_SHOWN = (
    *("letters", "unread_answers", "shots", "categories", "robustness", "calibration"),
    *("toxicity", "language_score", "icat", "pass@10", "pass@100", "perplexity", "bleu"),
)

Result = Mapping[str, Any]


def table(result: Result) -> str:
    """Markdown, in percent."""
    lines = [
        "| task | metric | value | 95 % | chance | questions | letters answered |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in result["tasks"].items():
        scale, missing = 1 if one["metric"] == "bits a byte" else 100, one["value"] is None
        cells = [f"{scale * one[key]:.{2 if scale == 1 else 1}f}" for key in ("value", "low", "high") if not missing]
        whole, ends = (cells[0], f"{cells[1]} to {cells[2]}") if cells else ("none: answers are missing", "")
        answered = " ".join(f"{letter} {count}" for letter, count in one.get("letters", {}).items())
        cells = [name, one["metric"], whole, ends, f"{100 * one['chance']:.1f}", str(one["items"]), answered]
        lines.append(f"| {' | '.join(cells)} |")
    for name, one in result.get("suites", {}).items():
        whole = "none" if one["value"] is None else f"{100 * one['value']:.1f} ± {196 * one['stderr']:.1f}"
        without = f"without {', '.join(one['without'])}" if one["without"] else ""
        lines.append(f"| **{name}** | mean | {whole} | | | {without} | |")
    return "\n".join(lines)


def chart(results: Sequence[Result]) -> str:
    """SVG: for each task a bar of each model with its 95 % interval, published figures in grey, and a line at chance."""
    drawn, top = [], 24
    for number, result in enumerate(results):
        drawn += [_text(_LEFT + 150 * number, 12, result["model"][-20:], f'fill="{_OURS[number % len(_OURS)]}"')]
    names = dict.fromkeys(
        name for result in results for name, one in result["tasks"].items() if one["metric"] != "bits a byte"
    )
    for name in names:
        mine = [(number, result["tasks"][name]) for number, result in enumerate(results) if name in result["tasks"]]
        rows = [(_OURS[n % len(_OURS)], 100 * one["value"], "", one) for n, one in mine if one["value"] is not None]
        rows += [(_THEIRS, value, model, None) for model, value in PUBLISHED.get(name, {}).items()]
        chance, bottom = _LEFT + mine[0][1]["chance"] * _WIDTH, top + _ROW * len(rows)
        drawn.append(_text(0, top + 11, name))
        for place, (colour, value, model, one) in enumerate(rows):
            drawn += _bar(top + place * _ROW, colour, value, model, one)
        drawn.append(f'<path d="M{chance:.1f} {top}V{bottom}" stroke="#c33" stroke-dasharray="3"/>')
        top = bottom + 8
    legend = _text(_LEFT, top + 8, "percent; red: chance; black: 95 % interval; grey: published")
    size = f'width="{_LEFT + _WIDTH + 200}" height="{top + 16}"'
    style = 'font-family="system-ui, sans-serif" font-size="12"'
    back = '<rect width="100%" height="100%" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{back}{"".join(drawn)}{legend}</svg>\n'


def _bar(top: int, colour: str, value: float, model: str, one: Result | None) -> list[str]:
    wide = value * _WIDTH / 100
    drawn = [f'<rect x="{_LEFT}" y="{top + 2}" width="{wide:.1f}" height="{_ROW - 3}" fill="{colour}"/>']
    end = wide
    if one:
        low, high = (one[key] * _WIDTH for key in ("low", "high"))
        drawn.append(f'<path d="M{_LEFT + low:.1f} {top + 8}H{_LEFT + high:.1f}" stroke="#222"/>')
        end = max(wide, high)
    return [*drawn, _text(_LEFT + end + 6, top + 12, f"{value:.1f} {model}")]


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y}" {more}>{html.escape(text)}</text>'


def page(results: Sequence[Result]) -> str:
    """Several models side by side, as one HTML file that needs no other."""
    parts = [f"<h1>{html.escape(', '.join(result['model'] for result in results))}</h1>", chart(results)]
    for name in dict.fromkeys(name for result in results for name in result["tasks"]):
        mine = {result["model"]: result["tasks"][name] for result in results if name in result["tasks"]}
        first = next(iter(mine.values()))
        parts.append(f"<h2>{html.escape(name)}</h2><p>{first['metric']}, {first['items']} questions</p>")
        for model, one in mine.items():
            rows = [f"<tr><th>{key}<td>{html.escape(_words(one[key]))}" for key in _SHOWN if one.get(key)]
            parts.append(f"<table><tr><th>{html.escape(model)}<td>{''.join(rows)}</table>")
            parts += [_diagram(one["calibration"]["bins"])] if "calibration" in one else []
        prompt = html.escape(first["prompt"])
        parts.append(f"<details><summary>the first prompt</summary><pre>{prompt}</pre></details>")
    head = f'<!DOCTYPE html>\n<meta charset="utf-8">\n<title>glm eval</title>\n<style>{_STYLE}</style>\n'
    return head + "\n".join(parts) + "\n"


def _diagram(bins: Sequence[Result]) -> str:
    """Reliability: how often right, over how sure; on the line they are the same."""
    dots = "".join(
        f'<circle cx="{160 * b["confidence"]:.1f}" cy="{160 - 160 * b["accuracy"]:.1f}" r="4"/>' for b in bins
    )
    line = '<path d="M0 160L160 0" stroke="#c33" stroke-dasharray="3"/>'
    return f'<svg width="160" height="160" style="background: #f6f7f9; overflow: visible">{line}{dots}</svg>'


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return "; ".join(map(_words, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


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
        values = [f"{100 * value:.1f}" for value in (one["value"], other["value"], found["value"])]
        ends = f"{100 * found['low']:.1f} to {100 * found['high']:.1f}"
        lines.append(f"| {name} | {' | '.join(values)} | {ends} | {found['p']:.3g} |")
    return "\n".join(lines)
