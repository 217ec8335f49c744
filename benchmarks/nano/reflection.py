"""What `--reflect` is worth and what it costs: on the model's own answers, and on answers that are planted.

    python recipes/nano/tool_data.py --out runs/nano/tools
    python benchmarks/nano/reflection.py --model nano --data runs/nano/tools --limit 200

Planted is the worked answer, as it is and with its last number made wrong, as if the model had written it; it then goes
on by itself. Each is answered with and without reflection, by the model with its tools and without them. Counted: right
answers; answers of which something was found not to hold; tokens that were written; tokens that were read after the
question, which are results of tools, what is told of a mistake, and what stands before it of an answer that is cut anew.
Greedy; 95 % intervals are Wilson's.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "recipes" / "nano"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from measure import table, write_json
from tool_data import is_right
from tools import LONGEST, read, share, shown

from openglm.assistant import Assistant, SamplingParams
from openglm.tools.registry import Tools

Item = dict[str, Any]
_LAST_DIGIT = re.compile(r"\d(?=\D*$)")
PLANTS = ("own", "planted, wrong", "planted, right")


def spoiled(answer: str) -> str:
    """The answer with another last digit."""
    return _LAST_DIGIT.sub(lambda digit: str((int(digit[0]) + 3) % 10), answer)


def can_be_spoiled(item: Item) -> bool:
    answer = item["messages"][1]["content"]
    return is_right(item["answer"], answer) and not is_right(item["answer"], spoiled(answer))


def answered(assistant: Assistant, items: Sequence[Item], plant: str) -> list[Item]:
    """One row for each item, all asked together. A planted answer is none of the tokens that count."""
    turns = [assistant.turn(item["messages"][:1], SamplingParams(LONGEST)) for item in items]
    rows = [{"written": 0, "read": 0} for _ in items]
    known = [turn.request[0] for turn in turns]
    for place, (item, turn) in enumerate(zip(items, turns, strict=True)):
        if plant != PLANTS[0]:
            said = item["messages"][1]["content"]
            said = spoiled(said) if plant == PLANTS[1] else said
            ids = [*assistant.tokenizer.encode(said), assistant.tokenizer.tokens.eop]
            known[place] = [*turn.request[0], *ids]
            turn.advance(ids)
    while waiting := [place for place, turn in enumerate(turns) if not turn.over]:
        results = assistant.engine.generate(*zip(*(turns[place].request for place in waiting), strict=True))
        for place, result in zip(waiting, results, strict=True):
            prompt = turns[place].request[0]
            same = takewhile(lambda pair: pair[0] == pair[1], zip(prompt, known[place], strict=False))
            rows[place]["read"] += len(prompt) - len(list(same))
            rows[place]["written"] += len(result.ids)
            known[place] = [*prompt, *result.ids]
            turns[place].advance(result.ids)
    for row, turn, item in zip(rows, turns, items, strict=True):
        found = [step.arguments for step in turn.steps if step.name == "Check"]
        row |= {"text": turn.text, "right": is_right(item["answer"], turn.text), "found": bool(found)}
    return rows


def measured(assistant: Assistant, items: Sequence[Item]) -> list[Item]:
    """A line for each way of answering."""
    lines = []
    for tools in (assistant.tools, None):
        for plant in PLANTS:
            mine = [item for item in items if plant == PLANTS[0] or can_be_spoiled(item)]
            for reflect in (False, True):
                assistant.tools, assistant.reflect = tools, reflect
                rows = answered(assistant, mine, plant)
                lines.append({"tools": tools is not None, "answers": plant, "reflect": reflect, "rows": rows})
    return lines


def tables(lines: Sequence[Item]) -> str:
    head = ("tools", "answers", "--reflect", "of", "right", "found wrong", "tokens written", "tokens read")
    rows = []
    for line in lines:
        mean = {name: sum(row[name] for row in line["rows"]) / len(line["rows"]) for name in ("written", "read")}
        counted = [shown(share(row[name] for row in line["rows"])) for name in ("right", "found")]
        words = [{True: "yes", False: "no"}[line[name]] for name in ("tools", "reflect")]
        rows.append(
            [
                words[0],
                line["answers"],
                words[1],
                str(len(line["rows"])),
                *counted,
                *(f"{n:.1f}" for n in mean.values()),
            ]
        )
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="folder or bundled name")
    parser.add_argument("--data", type=Path, default=Path("runs/nano/tools"), help="folder that tool_data.py wrote")
    parser.add_argument("--limit", type=int, default=500, help="problems")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--json", help="write all answers here")
    args = parser.parse_args()
    assistant = Assistant(args.model, device=args.device, tools=Tools())
    lines = measured(assistant, read(args.data / "tools-heldout.jsonl")[: args.limit])
    print(tables(lines))
    write_json(args.json, lines)


if __name__ == "__main__":
    main()
