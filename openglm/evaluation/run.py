"""Asks a model the questions of some tasks and says how it did, question by question and as figures."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from openglm.config import require
from openglm.evaluation import code, metrics
from openglm.evaluation.items import LETTERS, Item
from openglm.evaluation.models import Answered, Model, Query, Writing
from openglm.evaluation.perturb import PERTURBATIONS, perturbed
from openglm.evaluation.scorers import SCORERS, said_letter
from openglm.evaluation.tasks import TASKS, Task, find
from openglm.runtime import progress, say


@dataclass(frozen=True)
class Options:
    """How tasks are run."""

    data: Path
    limit: int = 0
    """questions of each task, evenly chosen; 0: all"""
    shots: int | None = None
    """questions with answers that are shown before; None: as many as the task's authors show"""
    written: bool = False
    """the model writes the letter of its choice, which is read out of its answer"""
    axes: bool = False
    """also measure robustness and calibration"""
    samples: int = 1
    """programs for each coding problem"""


@dataclass
class Row:
    """One question as it was asked and answered. score: None where no answer came."""

    item: Item
    prompt: str
    shots: int
    score: float | None = None
    answer: Any = None
    """number of the choice, or the text"""
    scores: list[float] = field(default_factory=list)
    """log-probability of each choice"""


def evaluate(model: Model, names: Sequence[str], options: Options) -> dict[str, dict[str, Any]]:
    """Task -> figures. Raises ValueError for an unknown task, or one whose questions are not there."""
    unknown = [name for name in names if name not in TASKS]
    require(not unknown, "tasks", unknown, f"known: {', '.join(TASKS)}")
    return {name: _one(model, name, TASKS[name], options) for name in names}


def _one(model: Model, name: str, task: Task, options: Options) -> dict[str, Any]:
    items, shown = find(task, options.data)
    if task.kind == "code":
        return code.evaluate(model, name, task, _some(items, options.limit), options.samples)
    wanted = task.shots if options.shots is None else options.shots
    if wanted and not shown:
        say(f"{name}: no {task.shot_files or 'questions to show'} in the data, so none is shown before a question")
    rows = [_row(model, task, item, shown, wanted) for item in _some(items, options.limit)]
    fewer = Counter(row.shots for row in rows if shown and row.shots < wanted)
    for shots, count in sorted(fewer.items()):
        say(f"{name}: {count} questions are asked with {shots} shots instead of {wanted}: no more fit the context")
    _answer(model, name, task, rows, options)
    figures = summary(task, rows, options)
    if options.axes and not figures["missing"]:
        figures["robustness"] = _robustness(model, name, task, rows, shown, options)
    return figures


def _some(items: Sequence[Item], limit: int) -> Sequence[Item]:
    return items[:: max(1, len(items) // limit)][:limit] if limit else items


def _row(model: Model, task: Task, item: Item, shown: Sequence[Item], wanted: int) -> Row:
    """The prompt with as many shots as fit, of the same category where there are categories."""
    alike = [one for one in shown if one.category == item.category][:wanted]
    header = task.header.format(category=item.category) if item.category else ""
    asked, longest = task.ask(item), max([*task.answers(item), "x" * task.max_tokens], key=len)
    for count in range(len(alike), 0, -1):
        prompt = "\n\n".join([header.strip(), *map(task.shown, alike[:count]), asked]).lstrip("\n")
        if model.fits(prompt + longest, 1):
            return Row(item, prompt, count)
    return Row(item, header + asked, 0)


def _answer(model: Model, name: str, task: Task, rows: Sequence[Row], options: Options) -> None:
    """Fill in answers and scores."""
    if task.kind == "write" or (task.kind == "choice" and options.written):
        _write(model, name, task, rows)
        return
    queries, owners = [], []
    for number, row in enumerate(rows):
        for answer in task.answers(row.item):
            queries.append(Query(row.prompt, answer, task.after.format_map(row.item.fields), task.kind == "choice"))
            owners.append(number)
    found = _collect(name, model.likelihoods(queries), len(queries))
    for number, row in enumerate(rows):
        mine = [one for owner, one in zip(owners, found, strict=True) if owner == number]
        if None in mine:
            continue
        row.scores = [one.logprob for one in mine]
        row.answer = int(np.argmax(row.scores[:2] if task.kind == "bias" else row.scores))
        row.score = float(mine[0].greedy if task.kind == "word" else row.answer in row.item.right)


def _write(model: Model, name: str, task: Task, rows: Sequence[Row]) -> None:
    for row in rows if task.kind == "choice" else ():
        row.prompt = row.prompt.removesuffix(task.ask(row.item)) + _written(task, row.item)
    found = _collect(name, model.write([Writing(r.prompt, task.stop, task.max_tokens) for r in rows]), len(rows))
    for row, text in zip(rows, found, strict=True):
        if text is None:
            continue
        row.answer = text
        if task.kind == "choice":
            letter = said_letter(text)
            row.answer = LETTERS.index(letter) if letter else None
            row.score = float(row.answer in row.item.right)
        else:
            row.score = SCORERS[task.scorer](text, [str(one) for one in row.item.right])


def _written(task: Task, item: Item) -> str:
    """A question to which a letter is to be written, in AGIEval's words."""
    last, chinese = LETTERS[len(item.choices) - 1], "：" in task.prompt
    asked = (
        task.ask(item) if "{options}" in task.prompt else replace(task, prompt=task.prompt + "\n{options}\n").ask(item)
    )
    said = f"答案：从A到{last}, 我们应选择" if chinese else f"Answer: Among A through {last}, the answer is"
    return f"{asked.removesuffix('Answer:').removesuffix('答案：').rstrip()}\n{said}"


def _collect(what: str, answered: Answered, count: int) -> list[Any]:
    found: list[Any] = [None] * count
    with progress(what, count, "answers") as advance:
        for number, answer in answered:
            found[number] = answer
            advance()
    return found


def summary(task: Task, rows: Sequence[Row], options: Options) -> dict[str, Any]:
    """All that the answers say. Where one is missing there is no average: it would look like that of the whole."""
    missing = [number for number, row in enumerate(rows) if row.score is None]
    scores = [row.score for row in rows if row.score is not None]
    metric = {"bias": "stereotypes preferred", "write": task.scorer}.get(task.kind, "accuracy")
    whole = metrics.mean(scores)._asdict() if scores and not missing else dict.fromkeys(metrics.Estimate._fields)
    found: dict[str, Any] = {
        "metric": metric,
        **whole,
        "chance": _chance(task, rows),
        "items": len(rows),
        "missing": missing,
    }
    found |= {
        "shots": dict(Counter(row.shots for row in rows)),
        "prompt": rows[0].prompt,
        "questions": hashlib.sha256(repr([row.item for row in rows]).encode()).hexdigest(),
        "scores": [row.score for row in rows],
    }
    groups = defaultdict(list)
    for row in rows:
        groups[row.item.category].append(row.score or 0.0)
    if len(groups) > 1 and not missing:
        found["categories"] = {name: metrics.mean(group)._asdict() for name, group in sorted(groups.items())}
    if task.kind == "choice":
        found["letters"] = _letters(row.answer for row in rows)
        found["right_letters"] = _letters(row.item.right[0] for row in rows)
        found["unread_answers"] = sum(row.answer is None and row.score is not None for row in rows)
    if task.kind == "choice" and options.axes and not missing and not options.written:
        found["calibration"] = calibration(rows)
    return found


def questions_hash(items: Sequence[Item]) -> str:
    """The same for the same questions, however they are asked."""
    told = "\0".join(text for item in items for text in (*item.fields.values(), *item.choices))
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _chance(task: Task, rows: Sequence[Row]) -> float:
    if task.kind == "bias":
        return 0.5
    return float(np.mean([len(r.item.right) / len(r.item.choices) if len(r.item.choices) > 1 else 0.0 for r in rows]))


def _letters(numbers: Any) -> dict[str, int]:
    return dict(sorted(Counter(LETTERS[n] for n in numbers if n is not None).items()))


def calibration(rows: Sequence[Row]) -> dict[str, Any]:
    """HELM's: how sure the model is of what it chose, among the choices, against how often it is right."""
    shares = [np.exp(np.asarray(row.scores) - np.logaddexp.reduce(row.scores)).max() for row in rows]
    right = [row.score or 0.0 for row in rows]
    if len(rows) < 300:
        say(f"calibration over {len(rows)} questions says little; HELM asks for 300")
    return {
        "ece": metrics.calibration_error(shares, right),
        "selective_accuracy_10": metrics.selective_accuracy(shares, right),
        "bins": [one._asdict() for one in metrics.reliability(shares, right)],
    }


def _robustness(
    model: Model, name: str, task: Task, rows: Sequence[Row], shown: Sequence[Item], options: Options
) -> dict[str, Any]:
    """The worst score of each question over itself and its perturbed forms; choices and answers stay as they are."""
    worst = mixed = [row.score or 0.0 for row in rows]
    each: dict[str, float] = {}
    for change in PERTURBATIONS:
        items = [
            replace(row.item, fields={k: perturbed(v, change, name) for k, v in row.item.fields.items()})
            for row in rows
        ]
        if all(item.fields == row.item.fields for item, row in zip(items, rows, strict=True)):
            continue
        again = [_row(model, task, item, shown, row.shots) for item, row in zip(items, rows, strict=True)]
        _answer(model, f"{name}, {change}", task, again, options)
        scores = [row.score or 0.0 for row in again]
        each[change] = metrics.mean(scores).value
        worst = [min(pair) for pair in zip(worst, scores, strict=True)]
        mixed = [min(pair) for pair in zip(mixed, scores, strict=True)] if change == "mild_mix" else mixed
    return {**metrics.mean(worst)._asdict(), "helm": metrics.mean(mixed).value, "perturbations": each}
