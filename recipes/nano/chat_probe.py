"""Ask a chat model a fixed list of prompts that are not in its training data, and check the answers by simple rules.

`python recipes/nano/chat_probe.py MODEL [--json]` prints passed/total for each skill and the answers. It measures that a skill is there,
not how good the answers are: a poem need only keep its metre and stop, a blank need only be filled.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from chat_text import fills, is_chinese, metre

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib


@dataclass(frozen=True)
class Prompt:
    skill: str
    text: str
    want: str = ""
    """what the rule of the skill needs: a word, a metre and line count, the sentence with its blank"""
    before: tuple[str, ...] = ()
    """earlier messages, user and assistant in turn"""


@dataclass(frozen=True)
class Outcome:
    skill: str
    prompt: str
    answer: str
    stopped: bool
    passed: bool
    reason: str


def read_prompts() -> tuple[Prompt, ...]:
    skills = tomllib.loads(Path(__file__).with_name("chat_probe.toml").read_text(encoding="utf-8"))["skill"]
    return tuple(
        Prompt(skill["name"], row["text"], row.get("want", ""), tuple(row.get("before", ())))
        for skill in skills
        for row in skill["prompts"]
    )


PROMPTS = read_prompts()


# The rules. Each gives the reason of a failure, or "".


def _contains(prompt: Prompt, answer: str) -> str:
    return "" if prompt.want.lower() in answer.lower() else f"lacks {prompt.want!r}"


def _poem(prompt: Prompt, answer: str) -> str:
    """The right number of characters in each line. A quatrain has 4 lines; what was begun may become 4 or 8, less what was given."""
    width, lines = map(int, prompt.want.split())
    found = metre(answer)
    count = len([c for c in answer if c >= "\u3400" and c not in "，。？！；"]) // width
    if found != width:
        return f"metre {found or 'none'}, not {width}"
    wanted = (lines,) if lines == 4 else (lines, lines + 4)
    return "" if count in wanted else f"{count} lines, not {' or '.join(map(str, wanted))}"


def _blank(prompt: Prompt, answer: str) -> str:
    return "" if fills(prompt.want, answer, "___") else "not the sentence with its blank filled"


RULES: dict[str, Callable[[Prompt, str], str]] = {"poem": _poem, "blank": _blank}


def looped(answer: str) -> bool:
    """A run of 6 characters or more, three times one after another."""
    return any(
        answer[i : i + n] == answer[i + n : i + 2 * n] == answer[i + 2 * n : i + 3 * n]
        for n in range(6, len(answer) // 3 + 1)
        for i in range(len(answer) - 3 * n + 1)
    )


def judge(prompt: Prompt, answer: str, stopped: bool) -> Outcome:
    """Not empty, ended by itself, no loop, the language of the question, and the rule of the skill."""
    reason = ""
    if not answer.strip():
        reason = "empty"
    elif not stopped:
        reason = "did not stop"
    elif looped(answer):
        reason = "repeats itself"
    elif prompt.skill not in ("poem", "knowledge") and is_chinese(answer) != is_chinese(prompt.text):
        reason = "wrong language"
    else:
        reason = RULES.get(prompt.skill, _contains)(prompt, answer)
    return Outcome(prompt.skill, prompt.text, answer, stopped, not reason, reason)


def ask(model: Any, tokenizer: Any, prompt: Prompt, max_new_tokens: int = 128) -> tuple[str, bool]:
    """The model's answer without sampling, and whether it ended by itself."""
    import torch

    import openglm

    messages = [
        {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate((*prompt.before, prompt.text))
    ]
    ids, _ = tokenizer.render(messages, generation_prompt=True)
    stop = {tokenizer.special["<|user|>"], tokenizer.special["<|observation|>"], tokenizer.special["<eop>"]}
    out = openglm.generate(
        model, torch.tensor([ids]), max_new_tokens=max_new_tokens, temperature=0.0, stop_ids=tuple(sorted(stop))
    )[0, len(ids) :].tolist()
    end = next((i for i, token in enumerate(out) if token in stop), None)
    return tokenizer.decode(out[:end]).strip(), end is not None


def probe(path: str) -> list[Outcome]:
    import openglm

    model, tokenizer = openglm.load_model(path), openglm.load_tokenizer(path)
    return [judge(prompt, *ask(model, tokenizer, prompt)) for prompt in PROMPTS]


def summary(outcomes: list[Outcome]) -> dict[str, dict[str, int]]:
    skills = dict.fromkeys(o.skill for o in outcomes)
    return {
        skill: {
            "passed": sum(o.passed for o in outcomes if o.skill == skill),
            "total": sum(o.skill == skill for o in outcomes),
        }
        for skill in skills
    }


def show(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        answer = outcome.answer.replace("\n", " / ")
        print(
            f"{'ok  ' if outcome.passed else 'FAIL'} {outcome.skill:10} {outcome.prompt!r} -> {answer!r}{' (' + outcome.reason + ')' if outcome.reason else ''}"
        )
    print()
    for skill, counts in summary(outcomes).items():
        print(f"{skill:10} {counts['passed']:3}/{counts['total']}")
    print(f"{'all':10} {sum(o.passed for o in outcomes):3}/{len(outcomes)}")


def main(model: tyro.conf.Positional[str], json: bool = False) -> None:
    """Probe a chat model.

    Args:
        model: model folder, or the name of a bundled model
        json: one JSON object on standard output instead of the table
    """
    outcomes = probe(model)
    if json:
        dump({"skills": summary(outcomes), "answers": [asdict(outcome) for outcome in outcomes]})
    else:
        show(outcomes)


def dump(report: dict[str, Any]) -> None:
    print(json.dumps(report, ensure_ascii=False))


if __name__ == "__main__":
    tyro.cli(main)
