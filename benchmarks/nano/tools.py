"""How well a model works with tools: on problems it has not seen, on wordings it has not seen, and where none is needed.

    python recipes/nano/tool_data.py --out runs/nano/tools
    python benchmarks/nano/tools.py --model runs/nano/sft/model --data runs/nano/tools --json tools.json

Each problem is answered three ways by the same model: with its tools; without them, the token that opens a call being
forbidden; and behind the calls and results of the worked answer, the oracle's. Counted apart: whether the calls are
valid (the tool took them), whether their arguments are right (they give the oracle's results), and whether the results
are used (of answers whose arguments are right, those that end right). Greedy; 95 % intervals are Wilson's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "recipes" / "nano"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from blanks import wilson
from measure import table, write_json
from tool_data import is_right

from openglm.assistant import Assistant, SamplingParams
from openglm.runtime import progress
from openglm.text.steps import BEGIN, GEN
from openglm.tools.registry import Tools

SETS = {"seen kinds": "tools-heldout", "held-out wordings": "tools-templates"}
DIGITS = {"0 to 1": 1, "2": 2, "3": 3, "4 to 5": 5, "6 to 9": 9, "10 and more": 1000}
LONGEST = 200
"""tokens of an answer"""
COLUMNS = ("with tools", "without", "oracle's calls", "valid", "right arguments", "used")
Item = dict[str, Any]


def read(path: Path) -> list[Item]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def with_tools(assistant: Assistant, item: Item) -> Item:
    """The model's own answer, and what its calls are worth."""
    question, worked = item["messages"]
    reply = assistant.reply([question], max_tokens=LONGEST, temperature=0.0)
    calls, wanted = [(step.name, step.arguments, step.result) for step in reply.steps], worked["steps"]
    return {
        "text": reply.text,
        "calls": calls,
        "with tools": is_right(item["answer"], reply.text),
        "called": bool(calls),
        "valid": bool(calls) and not any(step.failed for step in reply.steps),
        "right arguments": [result for *_, result in calls] == [step["result"] for step in wanted],
        "same letters": [arguments for _, arguments, _ in calls] == [step["arguments"] for step in wanted],
    }


def without_tools(assistant: Assistant, items: Sequence[Item]) -> list[str]:
    prompts = [assistant.chat_prompt(item["messages"][:1])[0] for item in items]
    begin = assistant.tokenizer.special[BEGIN]
    params = SamplingParams(LONGEST, logit_bias={begin: -1e9})
    return [result.text for result in assistant.engine.generate(prompts, [params] * len(prompts))]


def with_oracle(assistant: Assistant, items: Sequence[Item]) -> list[str]:
    """What the model writes behind the last result of the worked answer."""
    prompts, gen = [], assistant.tokenizer.special[GEN]
    for item in items:
        ids, _ = assistant.tokenizer.render(item["messages"])
        prompts.append(ids[: len(ids) - ids[::-1].index(gen)])
    params = SamplingParams(LONGEST)
    return [result.text for result in assistant.engine.generate(prompts, [params] * len(prompts))]


def solve(assistant: Assistant, items: Sequence[Item], name: str) -> list[Item]:
    """One row for each problem."""
    rows = []
    with progress(name, len(items)) as advance:
        for item in items:
            rows.append({**item, **with_tools(assistant, item)})
            advance()
    for row, alone, behind in zip(rows, without_tools(assistant, items), with_oracle(assistant, items), strict=True):
        row["without"] = is_right(row["answer"], alone)
        row["oracle's calls"] = is_right(row["answer"], behind)
        row["used"] = row["with tools"] if row["right arguments"] else None
    return rows


def relevance(assistant: Assistant, items: Sequence[Item]) -> list[Item]:
    """Whether messages that need no tool are answered without one."""
    rows = []
    for item in items:
        reply = assistant.reply(item["messages"][:1], max_tokens=LONGEST, temperature=0.0)
        called = [step.arguments for step in reply.steps]
        rows.append({"prompt": item["messages"][0]["content"], "text": reply.text, "calls": called})
    return rows


def share(hits: Iterable[bool | None]) -> dict[str, float]:
    """Of those that count, which are not None."""
    counted = [hit for hit in hits if hit is not None]
    low, high = wilson(sum(counted), len(counted))
    return {"right": sum(counted), "of": len(counted), "low": low, "high": high}


def group(rows: Sequence[Item], of: Callable[[Item], str]) -> dict[str, dict[str, dict[str, float]]]:
    names = dict.fromkeys(map(of, rows))
    mine = {name: [row for row in rows if of(row) == name] for name in names}
    return {name: {column: share(row[column] for row in part) for column in COLUMNS} for name, part in mine.items()}


def by_kind(rows: Sequence[Item]) -> dict[str, dict[str, dict[str, float]]]:
    return group(sorted(rows, key=lambda row: row["task"]), lambda row: row["task"])


def digits_of(row: Item) -> str:
    return next(name for name, most in DIGITS.items() if row["digits"] <= most)


def shown(figures: dict[str, float]) -> str:
    if not figures["of"]:
        return "–"
    percent = 100 * figures["right"] / figures["of"]
    return f"{percent:.1f} % ({100 * figures['low']:.0f} to {100 * figures['high']:.0f})"


def tables(found: dict[str, Any]) -> str:
    parts = []
    for title, groups in found["tables"].items():
        rows = [
            [name, str(columns["with tools"]["of"]), *(shown(columns[column]) for column in COLUMNS)]
            for name, columns in groups.items()
        ]
        parts.append(table((title, "problems", *COLUMNS), rows))
    needless = found["needless calls"]
    parts.append(f"Needless calls: {needless['right']} of {needless['of']}, {shown(needless)}")
    return "\n\n".join(parts)


def measured(assistant: Assistant, data: Path) -> dict[str, Any]:
    sets = {name: solve(assistant, read(data / f"{file}.jsonl"), name) for name, file in SETS.items()}
    talk = relevance(assistant, read(data / "tools-talk.jsonl"))
    every = [{**row, "set": name} for name, rows in sets.items() for row in rows]
    return {
        "tables": {
            "set": group(every, lambda row: row["set"]),
            **{f"{name}, by kind": by_kind(rows) for name, rows in sets.items()},
            "digits of the longest number": group(sorted(every, key=lambda row: row["digits"]), digits_of),
            "language": group(every, lambda row: row["language"]),
        },
        "needless calls": share(bool(row["calls"]) for row in talk),
        "rows": every,
        "talk": talk,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="folder or bundled name")
    parser.add_argument("--data", type=Path, default=Path("runs/nano/tools"), help="folder that tool_data.py wrote")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--json", help="write all figures and answers here")
    args = parser.parse_args()
    assistant = Assistant(args.model, device=args.device, tools=Tools())
    if BEGIN not in assistant.tokenizer.special:
        parser.error(f"--model = {args.model!r}: its tokenizer has no token {BEGIN}; give a model tuned for tools")
    found = measured(assistant, args.data)
    print(tables(found))
    write_json(args.json, found)


if __name__ == "__main__":
    main()
