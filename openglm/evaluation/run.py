"""Asks a model the questions of some tasks and says how it did, question by question and as figures."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from openglm.config import require
from openglm.evaluation import code, metrics
from openglm.evaluation.items import LETTERS, Item
from openglm.evaluation.models import Model, Query, Writing, collect
from openglm.evaluation.perturb import PERTURBATIONS, perturbed
from openglm.evaluation.scorers import bleu, said_letter, scorer
from openglm.evaluation.tasks import TASKS, Task, find
from openglm.runtime import say
from openglm.sandbox.languages import toolchain

STEREOTYPES = "stereotypes preferred"
"""a metric of which one half is best"""


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
    """also measure robustness, calibration and toxicity"""
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
    """number of the choice, the text, or how many programs were right"""
    scores: list[float] = field(default_factory=list)
    """log-probability of each choice"""


def evaluate(model: Model, name: str, task: Task, options: Options) -> dict[str, Any]:
    """A task's figures. Raises FileNotFoundError where its questions are not there, ValueError where they are wrong or a
    compiler is missing."""
    if task.language:
        toolchain(code.SANDBOX_NAMES.get(task.language, task.language))
    items, shown = find(task, options.data)
    absent = [item.fields["task_id"] for item in items if task.kind == "code" and not code.runs_here(item.fields)]
    if absent:
        say(f"{name}: left out, for they need packages that are not here: {', '.join(absent)}")
        items = [item for item in items if item.fields["task_id"] not in absent]
    wanted = task.shots if options.shots is None else options.shots
    if wanted and not shown:
        say(f"{name}: no {task.shot_files or 'questions to show'} in the data, so none is shown before a question")
    rows = [_row(model, task, item, shown, wanted) for item in _some(items, options.limit)]
    if any(row.shots < wanted for row in rows if shown):
        counts = dict(Counter(row.shots for row in rows))
        say(f"{name}: {wanted} shots do not always fit the context; shots and how often they are shown: {counts}")
    _answer(model, name, task, rows, options)
    figures = _summary(task, rows, options)
    if options.axes and not figures["missing"] and task.kind in ("choice", "word", "write"):
        figures["robustness"] = _robustness(model, name, task, rows, shown, options)
    return figures


def _some(items: Sequence[Item], limit: int) -> Sequence[Item]:
    return [items[n * len(items) // limit] for n in range(limit)] if 0 < limit < len(items) else items


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
    if task.kind == "text":
        for row, found in zip(rows, collect(name, model.nats([row.prompt for row in rows]), len(rows)), strict=True):
            row.answer, size = found, len(row.prompt.encode())
            row.score = found and found[0] / math.log(2) / max(size, 1)
    elif task.kind == "code":
        _program(model, name, task, rows, options)
    else:
        written = task.kind == "write" or (task.kind == "choice" and options.written)
        _write(model, name, task, [row for row in rows if written or not row.item.choices])
        _choose(model, name, task, [row for row in rows if not written and row.item.choices])


def _choose(model: Model, name: str, task: Task, rows: Sequence[Row]) -> None:
    blank, asked = task.kind == "choice", [(row, answer) for row in rows for answer in task.answers(row.item)]
    queries = [Query(row.prompt, answer, task.follows(row.item), blank) for row, answer in asked]
    found = iter(collect(name, model.likelihoods(queries), len(queries)))
    for row in rows:
        mine = [next(found) for _ in row.item.choices]
        if None not in mine:
            row.scores = [one.logprob for one in mine]
            row.answer = int(np.argmax(row.scores[:2] if task.kind == "bias" else row.scores))
            row.score = float(mine[0].greedy if task.kind == "word" else row.answer in row.item.right)


def _write(model: Model, name: str, task: Task, rows: Sequence[Row]) -> None:
    judge = scorer(task.scorer) if task.kind == "write" else scorer("exact")
    for row in rows:
        if row.item.choices:
            row.prompt = row.prompt.removesuffix(task.ask(row.item)) + _written(task, row.item)
    asked = [Writing(row.prompt, stop=task.stop, max_tokens=task.max_tokens) for row in rows]
    for row, text in zip(rows, collect(name, model.write(asked), len(rows)), strict=True):
        if text is None:
            continue
        row.answer = text
        if row.item.choices:
            letter = said_letter(text)
            row.answer = LETTERS.index(letter) if letter else None
            row.score = float(row.answer in row.item.right)
        else:
            row.score = judge(text, [str(one) for one in row.item.right])


def _written(task: Task, item: Item) -> str:
    """A question to which a letter is to be written, in AGIEval's words."""
    last, chinese = LETTERS[len(item.choices) - 1], "：" in task.prompt
    listed = task if "{options}" in task.prompt else replace(task, prompt=task.prompt + "\n{options}\n")
    said = f"答案：从A到{last}, 我们应选择" if chinese else f"Answer: Among A through {last}, the answer is"
    return f"{listed.ask(item).removesuffix('Answer:').removesuffix('答案：').rstrip()}\n{said}"


def _program(model: Model, name: str, task: Task, rows: Sequence[Row], options: Options) -> None:
    """One program is the likeliest text; more are drawn as CodeGeeX drew them. One that did not come is no failure."""
    drawn = {"temperature": 0.2, "top_p": 0.95} if options.samples > 1 else {}
    stop = () if task.after else task.stop  # a blank has an end of its own
    asked = [
        Writing(row.prompt, task.follows(row.item), stop, task.max_tokens, seed=seed, **drawn)
        for row in rows
        for seed in range(options.samples)
    ]
    texts = iter(collect(name, model.write(asked), len(asked)))
    answered = [(row, [next(texts) for _ in range(options.samples)]) for row in rows]
    whole = [(row, found) for row, found in answered if None not in found]
    closed = code.closed if not task.after else lambda _, text: text
    sources = [
        code.program(task.language, row.item.fields, closed(task.language, text))
        for row, found in whole
        for text in found
    ]
    verdicts = iter(code.check_all(name, task.language, sources))
    for row, found in whole:
        row.answer = sum(next(verdicts) for _ in found)
        row.score = row.answer / options.samples


def _summary(task: Task, rows: Sequence[Row], options: Options) -> dict[str, Any]:
    """All that the answers say. Where one is missing there is no average: it would look like that of the whole."""
    missing = [number for number, row in enumerate(rows) if row.score is None]
    metrics_of = {"bias": STEREOTYPES, "write": task.scorer, "code": "pass@1", "text": "bits a byte"}
    found: dict[str, Any] = {
        "metric": metrics_of.get(task.kind, "accuracy"),
        "value": None,
        **({} if missing else metrics.mean([row.score or 0.0 for row in rows])),
        "chance": 0.5 if task.kind == "bias" else float(np.mean([_chance(row.item) for row in rows])),
        "items": len(rows),
        "missing": missing,
        "shots": dict(Counter(row.shots for row in rows)),
        "prompt": rows[0].prompt,
        "questions": hashlib.sha256(repr([row.item for row in rows]).encode()).hexdigest(),
        "scores": [row.score for row in rows],
    }
    if task.kind == "choice":
        found["letters"] = _letters(row.answer for row in rows if row.item.choices)
        found["unread_answers"] = sum(row.answer is None and row.score is not None for row in rows)
    return found if missing else found | _of_whole(task, rows, options)


def _of_whole(task: Task, rows: Sequence[Row], options: Options) -> dict[str, Any]:
    """What is said only of a task that was answered as a whole."""
    found: dict[str, Any] = {}
    groups = defaultdict(list)
    for row in rows:
        groups[row.item.category].append(row)
    if len(groups) > 1:
        found["categories"] = {
            name: metrics.mean([row.score or 0.0 for row in group]) for name, group in sorted(groups.items())
        }
    if task.kind == "choice" and options.axes and all(row.scores for row in rows):
        found["calibration"] = _calibration(rows)
    if task.kind == "bias" and len(rows[0].scores) == 3:
        found |= _stereoset(rows)
    if task.kind == "code":
        ks = [k for k in (1, 10, 100) if k <= options.samples]
        each = {k: [metrics.pass_at_k(options.samples, row.answer, k) for row in rows] for k in ks}
        found |= {f"pass@{k}": metrics.mean(scores)["value"] for k, scores in each.items()}
    if task.kind == "text":
        nats, tokens = (sum(column) for column in zip(*(row.answer for row in rows), strict=True))
        size = sum(len(row.prompt.encode()) for row in rows)
        found |= {"value": nats / math.log(2) / size, "perplexity": math.exp(nats / tokens), "tokens": tokens}
    if task.scorer == "chrf":
        right = [str(row.item.right[0]) for row in rows]
        found["bleu"] = bleu([row.answer for row in rows], right, task.options["target"] == "zh")
    if task.kind == "write" and options.axes and task.scorer != "toxicity":
        judge = scorer("toxicity")
        found["toxicity"] = metrics.mean([judge(row.answer, ()) for row in rows])
    return found


def _chance(item: Item) -> float:
    return len(item.right) / len(item.choices) if len(item.choices) > 1 else 0.0


def _letters(numbers: Iterable[Any]) -> dict[str, int]:
    return dict(sorted(Counter(LETTERS[n] for n in numbers if n is not None).items()))


def _stereoset(rows: Sequence[Row]) -> dict[str, float]:
    """Language modelling score and ICAT (arXiv 2004.09456): 1 for a model that knows the language and has no bias."""
    sense = float(np.mean([one > row.scores[2] for row in rows for one in row.scores[:2]]))
    bias = float(np.mean([row.score for row in rows]))
    return {"language_score": sense, "icat": sense * min(bias, 1 - bias) / 0.5}


def _calibration(rows: Sequence[Row]) -> dict[str, Any]:
    """HELM's: how sure the model is of what it chose, among the choices, against how often it is right."""
    shares = [np.exp(np.asarray(row.scores) - np.logaddexp.reduce(row.scores)).max() for row in rows]
    right = [row.score or 0.0 for row in rows]
    if len(rows) < 300:
        say(f"calibration over {len(rows)} questions says little; HELM asks for 300")
    return {
        "ece": metrics.calibration_error(shares, right),
        "selective_accuracy_10": metrics.selective_accuracy(shares, right),
        "bins": metrics.reliability(shares, right),
    }


def _robustness(
    model: Model, name: str, task: Task, rows: Sequence[Row], shown: Sequence[Item], options: Options
) -> dict[str, Any]:
    """The worst score of each question over itself and its perturbed forms; choices and answers stay as they are."""
    worst = mixed = [row.score or 0.0 for row in rows]
    each: dict[str, float] = {}
    for change in PERTURBATIONS:
        fields = [{key: perturbed(text, change, name) for key, text in row.item.fields.items()} for row in rows]
        if all(new == row.item.fields for new, row in zip(fields, rows, strict=True)):
            continue
        items = [replace(row.item, fields=new) for new, row in zip(fields, rows, strict=True)]
        again = [_row(model, task, item, shown, row.shots) for item, row in zip(items, rows, strict=True)]
        _answer(model, f"{name}, {change}", task, again, options)
        require(all(row.score is not None for row in again), "axes", change, "answers are missing; run it again")
        scores = [row.score or 0.0 for row in again]
        each[change] = metrics.mean(scores)["value"]
        worst = [min(pair) for pair in zip(worst, scores, strict=True)]
        mixed = [min(pair) for pair in zip(mixed, scores, strict=True)] if change == "mild_mix" else mixed
    return {**metrics.mean(worst), "helm": metrics.mean(mixed)["value"], "perturbations": each}


def run(model: Model, names: Sequence[str], options: Options, named: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Task -> figures. Of a suite, tasks without questions here or without a compiler are left out and said so; a task
    that is `named` itself is an error. Raises ValueError."""
    found = {}
    for name in names:
        try:
            found[name] = evaluate(model, name, TASKS[name], options)
        except (FileNotFoundError, ValueError) as error:
            absent = isinstance(error, FileNotFoundError) or str(error).startswith("language")
            if name in named or not absent:
                raise ValueError(f"{name}: {error}") from None
            say(f"{name} is left out: {error}")
    if not found:
        way_out = "run glm data eval-items, or give --data FOLDER"
        raise ValueError(f"data = {str(options.data)!r}: has nothing of {', '.join(named)}; {way_out}")
    return found
