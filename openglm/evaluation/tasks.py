"""The tasks of tasks.toml: where a task's questions lie, what a prompt looks like, how answers are judged."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import permutations
from pathlib import Path
from typing import Any, Literal

from openglm.config import require
from openglm.data.readers import own_files, own_texts
from openglm.evaluation import items as readers
from openglm.evaluation.items import LETTERS, Item, read_items, subject

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LANGUAGES = {
    **{"python": "Python", "cpp": "C++", "java": "Java"},
    **{"js": "JavaScript", "go": "Go", "rust": "Rust"},
}
"""name of HumanEval-X's file: what people call it"""


@dataclass(frozen=True)
class Task:
    """A row of tasks.toml; see there."""

    files: tuple[str, ...] = ()
    read: str = ""
    prompt: str = "{text}"
    options: Mapping[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    """names of a CSV's columns, where its first line does not name them"""
    kind: Literal["choice", "word", "bias", "write", "code", "text"] = "choice"
    """choice: the likeliest of the choices; word: whether the answer is what the model would write; bias: how often the
    first choice is likelier than the second; write: a scorer judges what it writes; code: tests judge it; text: how
    well it foretells a text"""
    answer: str = " {letter}"
    after: str = ""
    """what follows the answer"""
    header: str = ""
    shots: int = 0
    shot_files: str = ""
    """questions with answers to show before: a pattern"""
    scorer: str = "exact"
    stop: tuple[str, ...] = ("\n",)
    max_tokens: int = 32
    language: str = ""
    """of a program"""
    source: str = ""
    """the language that a program is translated from"""

    def ask(self, item: Item) -> str:
        options = "\n".join(f"{LETTERS[n]}. {choice}" for n, choice in enumerate(item.choices))
        return self.prompt.format_map({**item.fields, "options": options, "category": item.category}).lstrip("\n")

    def answers(self, item: Item) -> list[str]:
        """The text of each choice as it stands behind the prompt."""
        named = enumerate(item.choices)
        return [self.answer.format_map({**item.fields, "letter": LETTERS[n], "text": text}) for n, text in named]

    def follows(self, item: Item) -> str:
        return self.after.format_map(item.fields)

    def shown(self, item: Item) -> str:
        """A question with its answer."""
        if item.choices:
            return self.ask(item) + self.answers(item)[int(item.right[0])] + self.follows(item)
        return f"{self.ask(item)} {item.fields.get('solution', item.right[0])}"


def _table() -> dict[str, Any]:
    table = tomllib.loads(Path(__file__).with_name("tasks.toml").read_text(encoding="utf-8"))
    for row in table.pop("each"):
        names = row.pop("names")
        for name in names:
            each = json.loads(json.dumps(row).replace("{name}", name))
            table["tasks"][each.pop("task")] = each
    return table


_TABLE = _table()


def _task(row: Mapping[str, Any]) -> Task:
    told: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return Task(**told | ({"stop": tuple(_TABLE["stop"][row["language"]])} if "language" in row else {}))


TASKS = {name: _task(row) for name, row in _TABLE["tasks"].items()}
for _from, _to in permutations(LANGUAGES, 2):  # the prompt of CodeGeeX
    _prompt = f"code translation\n{LANGUAGES[_from]}:\n{{source}}\n{LANGUAGES[_to]}:\n{{prompt}}"
    TASKS[f"translate/{_from}-{_to}"] = replace(TASKS[f"humaneval-x/{_to}"], prompt=_prompt, source=_from)
PUBLISHED: Mapping[str, Mapping[str, float]] = _TABLE["published"]
PACKAGES: Mapping[str, Mapping[str, str]] = _TABLE["packages"]
SUITES = {
    suite: [name for one in patterns for name in TASKS if fnmatchcase(name, one)]
    for suite, patterns in _TABLE["suites"].items()
}


def find(task: Task, folder: Path) -> tuple[list[Item], list[Item]]:
    """Its questions in a folder, and those to show before. The folder holds one for each benchmark, or is that of one.
    Raises FileNotFoundError where there are none, ValueError where they are wrong."""
    if task.kind == "text":
        return [Item({"text": text}) for file in own_files(folder) for text in own_texts(file)], []
    for pattern in task.files:
        paths = _matching(folder, pattern)
        if paths:
            found = _of(paths, task)
            require(bool(found), "data", str(paths[0]), "has no question with a right answer")
            shown = _of(_matching(folder, task.shot_files), task) if task.shot_files else []
            return (_translated(found, task, folder) if task.source else found), shown
    raise FileNotFoundError(f"data = {str(folder)!r}: has no {' or '.join(task.files)}")


def _matching(folder: Path, pattern: str) -> list[Path]:
    inside = folder.resolve()
    if pattern.startswith(f"{inside.name}/"):
        inside = inside.parent
    return sorted(path for path in inside.glob(pattern) if path.is_file())


def _of(paths: list[Path], task: Task) -> list[Item]:
    found = []
    for path in paths:
        items = read_items(path, getattr(readers, task.read), task.options, task.columns)
        found += [replace(item, category=subject(path)) for item in items] if len(paths) > 1 else items
    return found


def _translated(items: list[Item], task: Task, folder: Path) -> list[Item]:
    """Programs to be written after those of another language, without what they are to do being said."""
    others = find(TASKS[f"humaneval-x/{task.source}"], folder)[0]
    by_number = {one.fields["task_id"].partition("/")[2]: one.fields for one in others}
    found = []
    for fields in (item.fields for item in items):
        number = fields["task_id"].partition("/")[2]
        require(number in by_number, "data", fields["task_id"], f"has no counterpart in {task.source}")
        known = by_number[number]
        whole = f"{known['declaration']}\n{known['canonical_solution'].rstrip()}"
        found.append(Item({**fields, "prompt": fields["declaration"], "source": whole}))
    return found
