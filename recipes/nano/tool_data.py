"""Build nano's tool dialogues: `python recipes/nano/tool_data.py --out DIR` writes tools.jsonl and what it is measured with.

A template of tool_problems.toml gets numbers of its draw (tool_draws.py, tool_stories.py) and a worked answer whose calls are run by
`openglm.Tools`; where its result is not what was worked out by hand, nothing is written. tool_talk.toml has numbers that
nobody wants computed. tool_wordings.toml, tool_frames.toml and tool_chatter.toml have more of both to learn from, which the files
that nano is measured with are not made of. Some answers are wrong at first, and are corrected as reflection does. The same seed gives
the same files.

tools.jsonl               conversations to learn from: {"messages", "task", "language"}
tools-heldout.jsonl       problems of the same templates with other numbers: also "answer", "digits", "template"
tools-templates.jsonl     problems of templates that are not learnt from
tools-talk.jsonl          messages that need no tool, of templates that are not learnt from
tools-prompts*.jsonl      {"prompt", "answer"} for `glm grpo` with the check arithmetic
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path
from random import Random
from typing import Any

import tool_stories  # noqa: F401  (it adds draws)
from chat_skills import HERE
from chat_text import key, reading
from chat_text import say as typed_talk
from tool_draws import DRAWS, Values, plain, whole
from tool_typing import around, renamed, spelled

from openglm.cli.options import read_toml
from openglm.data.clean import is_held_out
from openglm.files import write_file
from openglm.runtime import progress, say
from openglm.tools.claims import correction, mistakes
from openglm.tools.registry import Tools

Call = Callable[[str, str], str]
HELDOUT = 0.04
"""share of all numbers that no training question has"""
SHOWN = [["3", "6", "9", "12", "333"], ["3", "6", "9", "333"]]
"""the question that README.md asks; it is held out, too"""
_PLACE = re.compile(r"<([a-z_0-9.]+)>")
_PART = re.compile(r"\$([a-z]+)")
_CALL = re.compile(r"\{(\w+):([^{}]*)\}")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:/\d+)?")
_WIDE = str.maketrans("0123456789+=()", "０１２３４５６７８９＋＝（）")
CHECKED = ("arithmetic", "fractions", "series", "linear", "quadratic", "system")
"""kinds whose questions say what reflection checks an answer by; of others it reads the equations in the answer"""
VERDICTS = {"zh": {"true": "是的", "false": "不是"}, "en": {"true": "Yes", "false": "No"}}
BEFORE = {
    "zh": [
        "请问，",
        "请问",
        "帮我算一下，",
        "帮我算算：",
        "请计算：",
        "你好，",
        "nano，",
        "我想知道",
        "算一下：",
        "求助：",
    ],
    "en": ["please tell me, ", "can you help me: ", "hi, ", "nano, ", "quick question: ", "I wonder, ", "please: "],
}


@dataclass(frozen=True)
class Template:
    """One way to ask for one thing. `ask` has choices, both have places."""

    name: str
    kind: str
    language: str
    ask: str
    answer: str
    weight: float = 1.0


@dataclass(frozen=True)
class Problem:
    template: Template
    question: str
    values: Values


@dataclass(frozen=True)
class Templates:
    """Learnt from (`train`), those of them that are measured with other numbers (`seen`), never learnt from (`heldout`)."""

    problems: dict[str, list[Template]]
    talk: dict[str, list[Template]]
    words: dict[str, dict[str, list[str]]]
    everyday: dict[str, list[list[dict[str, Any]]]] = field(default_factory=dict)
    """by language, exchanges of the chat data"""


def read_templates(folder: Path = HERE) -> Templates:
    given, more, parts = (read_toml(folder / f"tool_{name}.toml") for name in ("problems", "wordings", "frames"))
    sides: dict[str, list[Template]] = {"train": [], "seen": [], "heldout": []}
    first: dict[str, dict[str, Any]] = {}
    numbered = Counter[str]()
    for problem in given["problem"]:
        name, kind, weight = problem["draw"], problem["kind"], problem.get("weight", 1.0)
        numbered[name] += 1
        base = first[problem.get("like", name)] if "like" in problem else problem
        first.setdefault(name, problem)
        table = problem.get("like", name if numbered[name] == 1 else f"{name}-{numbered[name]}")
        for language in ("zh", "en"):
            own = {**base[language], **problem.get(language, {})}
            learnt = own["asks"] + more[table][language] + framed(parts, table, language)
            asks = {"train": learnt, "seen": own["asks"], "heldout": own["heldout"]}
            for side, mine in asks.items():
                # What is asked less often in the measured problems is not learnt from as much less often.
                part = (weight**0.5 if side == "train" else weight) / len(mine)
                sides[side] += [Template(name, kind, language, ask, own["answer"], part) for ask in mine]
    talk: dict[str, list[Template]] = {"train": [], "heldout": []}
    for file in ("talk", "chatter"):
        for item in read_toml(folder / f"tool_{file}.toml")["talk"]:
            answers, weight = "\n".join(item["answers"]), item.get("weight", 1)
            for side, asks in (("train", item["asks"]), ("heldout", item.get("heldout", []))):
                for ask in (with_parts(ask, parts[item["lang"]]) for ask in asks):
                    talk[side].append(Template("talk", "talk", item["lang"], ask, answers, weight / len(asks)))
    return Templates(sides, talk, given["words"])


def framed(parts: dict[str, Any], table: str, language: str) -> list[str]:
    """The wordings of a table of tool_frames.toml: its frames, with choices of the table in them."""
    own = parts.get(table, {}).get(language, {})
    names = parts[language] | {name: f"({'|'.join(own[name])})" for name in ("data", "ask") if name in own}
    found = [*(parts["frames"][language] if "data" in own else ()), *own.get("more", ())]
    return [with_parts(text, names) for text in found]


def with_parts(text: str, names: dict[str, str]) -> str:
    """With the choices that $names stand for, which may name others."""
    while "$" in text:
        text = _PART.sub(lambda part: names[part[1]], text)
    return text


def read_everyday(path: Path) -> dict[str, list[list[dict[str, Any]]]]:
    """The short exchanges of the chat data, by language. A later one may answer an earlier, so the first of each is taken."""
    found: dict[str, list[list[dict[str, Any]]]] = {"zh": [], "en": []}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        pair = record["messages"][:2]
        if pair[0]["role"] == "user" and sum(len(message["content"]) for message in pair) < 200:
            found[record["language"]].append(pair)
    return found


def fill(text: str, values: Values) -> str:
    return _PLACE.sub(lambda place: plain(values[place[1]]), text)


def numbers(text: str) -> list[str]:
    """All runs of digits."""
    return re.findall(r"\d+", unicodedata.normalize("NFKC", text))


def digits(text: str) -> int:
    """Of the longest number."""
    found = re.findall(r"\d+(?:\.\d+)?", unicodedata.normalize("NFKC", text))
    return max((len(number.replace(".", "")) for number in found), default=0)


def side_of(question: str) -> str:
    """The same numbers are always on the same side, in whatever words."""
    found = numbers(question)
    heldout = found in SHOWN or is_held_out(",".join(found) or key(question), HELDOUT)
    return "heldout" if heldout else "train"


def things(words: dict[str, list[str]], rng: Random) -> Values:
    """Names and things for the places of all templates."""
    name, other = rng.sample(words["names"], 2)
    *measure, thing = rng.choice(words["things"]).split()
    return {"name": name, "other": other, "m": "".join(measure), "thing": thing, "things": thing}


def typed(rng: Random, text: str, language: str) -> str:
    """As someone might type it."""
    question = re.search("[多几哪谁吗]|what|which|how|when|is |does", text)
    if rng.random() < 0.12:
        text = rng.choice(BEFORE[language]) + text
    if language == "en" and rng.random() < 0.6:
        text = text[:1].upper() + text[1:]
    if language == "zh" and rng.random() < 0.03:
        text = text.translate(_WIDE)
    if text[-1] in "=＝?？)）":
        return text
    marks = (
        {"zh": ["？", "？", "?", ""], "en": ["?", "?", "?", ""]} if question else {"zh": ["", "。"], "en": ["", "."]}
    )
    return text + rng.choice(marks[language])


def problem(templates: list[Template], words: dict[str, dict[str, list[str]]], rng: Random, side: str = "") -> Problem:
    """A template with numbers, of this side where one is named."""
    weights = [template.weight for template in templates]
    while True:
        template = rng.choices(templates, weights)[0]
        values = {**things(words[template.language], rng), **DRAWS[template.name](rng, template.language)}
        values["len"] = Random(str(values)).choice(words[template.language]["lengths"])
        if "<d>" in template.ask:  # the step is told, and need not be read off the terms
            values["by"] = values["d"]
        ask = reading(rng, template.ask)
        question = typed(rng, fill(ask, values), template.language)
        if side_of(question) != (side or side_of(question)):
            continue
        if side == "train":
            values = renamed(rng, values, template.language)
            shown = spelled(rng, ask, values, template.language)
            question = around(rng, typed(rng, fill(ask, shown), template.language), template.language, template.kind)
            if side_of(question) == "heldout":
                continue
        return Problem(template, question, values)


def told(result: str, number: int, language: str) -> Values:
    """What the answer may say of a call's result."""
    values: Values = {str(number): result}
    values |= {f"{number}.{place}": part for place, part in enumerate(result.split(", "))}
    values |= dict(re.findall(r"(\w)=([^,;]+)", result))
    found = _NUMBER.search(result)
    values[f"{number}.number"] = found[0] if found else ""
    return values | {"verdict": VERDICTS[language].get(result, "")}


def worked(one: Problem, call: Call) -> dict[str, Any]:
    """The assistant's message. Raises ValueError where it does not end in the answer that was worked out by hand."""
    message = called_for(one.template, one.values, call)
    if not is_right(answer_of(one.values), message["content"]):
        raise ValueError(f"{one.question!r}: {answer_of(one.values)} by hand, but {message}")
    return message


def called_for(template: Template, values: Values, call: Call) -> dict[str, Any]:
    """The assistant's message with these values in the template's answer."""
    values, steps = dict(values), list[dict[str, Any]]()
    first, *rest = _CALL.split(template.answer)
    content = fill(first, values)
    for name, arguments, text in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        arguments = fill(arguments, values)
        result = call(name, arguments)
        steps.append({"at": len(content), "name": name, "arguments": arguments, "result": result})
        values |= told(result, len(steps), template.language)
        content += fill(text, values)
    return {"role": "assistant", "content": content, "steps": steps}


def answer_of(values: Values) -> str:
    """As text: numbers with commas between them, or words."""
    answer = values["answer"]
    return ", ".join(map(plain, answer)) if isinstance(answer, list) else plain(answer)


def is_right(answer: str, text: str) -> bool:
    """Whether a text ends in these numbers, in any order, or says these words. Numbers of ten digits may be rounded."""
    wanted = answer.split(", ")
    if not all(map(_NUMBER.fullmatch, wanted)):
        letters = r"\s*".join(map(re.escape, answer.replace(" ", "")))
        return bool(re.search(rf"(?<![\w.+*-]){letters}(?!\.?[\w])", text, re.ASCII))
    found = [number for number in _NUMBER.findall(text) if not re.search("/0+$", number)][-len(wanted) :]
    pairs = zip(sorted(map(_value, wanted)), sorted(map(_value, found)), strict=False)
    return len(found) == len(wanted) and all(abs(a - b) <= abs(a) / 10**9 for a, b in pairs)


def _value(number: str) -> Fraction:
    above, _, below = number.partition("/")
    return Fraction(above) / Fraction(below or "1")


def corrected(rng: Random, one: Problem, right: dict[str, Any], call: Call) -> list[dict[str, Any]]:
    """A wrong answer, which is read and not learnt, and what reflection says of it. Empty where that is nothing, or long."""
    template, last, form = one.template, right["steps"][-1], rng.random()
    names = re.findall(r"<(\w+)>", "".join(_CALL.split(template.answer)[2::3]))
    names = [name for name in names if type(one.values.get(name)) is int]
    try:
        if template.kind in CHECKED and names and form < 0.4:  # a call with a wrong number
            name = rng.choice(names)
            wrong = called_for(template, {**one.values, name: misread(rng, one.values[name])}, call)
        elif last["name"] == "Calc" or template.kind in CHECKED:  # none
            found = _NUMBER.findall(last["result"])[-1]
            said = str(misread(rng, int(found)))
            text = re.sub(rf"(?<![\d./]){found}(?!\d|[./]\d)", said, right["content"])
            if last["name"] == "Calc" and (template.kind not in CHECKED or form < 0.7):
                text = f"{last['arguments']}={said}{'，' if template.language == 'zh' else '. '}{text}"
            wrong = {"role": "assistant", "content": text}
        else:
            return []
    except (ValueError, IndexError, KeyError):  # nothing to misread, or no result
        return []
    found = mistakes(one.question, wrong["content"])
    told = {"role": "user", "content": correction(one.question, found)}
    return [{**wrong, "loss": False}, told] if found and len(told["content"]) <= 120 else []


def misread(rng: Random, number: int) -> int:
    """Another number that one may take for it."""
    text = str(number)
    place = rng.randrange(len(text.lstrip("-"))) + text.startswith("-")
    digit = str((int(text[place]) + rng.randint(1, 9)) % 10)
    return rng.choice([number + 1, number - 1, number * 10, int(text[:place] + digit + text[place + 1 :])])


def talk(templates: list[Template], words: dict[str, dict[str, list[str]]], rng: Random) -> list[dict[str, Any]]:
    """A message that needs no tool, and its answer."""
    template = rng.choices(templates, [template.weight for template in templates])[0]
    a, b = whole(rng, 4), whole(rng, 3)
    values: Values = {
        "name": rng.choice(words[template.language]["names"]),
        "age": rng.randint(2, 95),
        "small": rng.randint(2, 9),
        "n": whole(rng, 4),
        "score": rng.randint(20, 100),
        "hour": rng.choice([rng.randint(1, 12), f"{rng.randint(1, 23)}:{rng.choice(['15', '30', '45', '05'])}"]),
        "year": rng.randint(1500, 2030),
        "phone": "".join(rng.choice("0123456789") for _ in range(rng.choice([7, 8, 11]))),
        "version": f"{rng.randint(1, 20)}.{rng.randint(0, 30)}",
        "expression": rng.choice([f"{a}+{b}", f"{a}-{b}=", f"{a}×{b}", f"{a}/{b}", str(a * b), f"x={a}", f"{a}:{b}"]),
    }
    other = Random(str(values))
    values |= {"month": other.randint(1, 12), "day": other.randint(1, 28), "big": whole(other, 20, 5)}
    text = fill(reading(rng, template.ask), values)
    # What is to be repeated is not changed.
    ask = (
        text if re.search("<(expression|big)>", template.ask) else typed_talk(rng, text, template.language, lead=False)
    )
    answer = fill(rng.choice(template.answer.split("\n")), values)
    return [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]


def conversation(given: Templates, call: Call, seed: str) -> dict[str, Any]:
    """One to four exchanges, 45 % of them without a tool. The last answer may be wrong at first."""
    rng = Random(seed)
    messages: list[dict[str, Any]] = []
    language, kinds = rng.choice(["zh", "en"]), list[str]()
    mine = [one for one in given.problems["train"] if one.language == language]
    small = [one for one in given.talk["train"] if one.language == language]
    for left in reversed(range(rng.choices([1, 2, 3, 4], [62, 23, 11, 4])[0])):
        called = bool(kinds) and kinds[-1] != "talk"
        if rng.random() < (0.55 if called else 0.42):
            everyday = given.everyday.get(language)
            messages += rng.choice(everyday) if everyday and rng.random() < 0.35 else talk(small, given.words, rng)
            kinds.append("talk")
        else:
            one = problem(mine, given.words, rng, "train")
            answer = worked(one, call)
            short = not left and len(str(messages)) < 600  # a row shall stay below 400 tokens
            wrong = corrected(rng, one, answer, call) if short and rng.random() < 0.22 else []
            messages += [{"role": "user", "content": one.question}, *wrong, answer]
            kinds.append(one.template.kind)
    return {"messages": messages, "task": kinds[-1], "language": language}


def measured(one: Problem, call: Call) -> dict[str, Any]:
    """A problem with its worked answer, and what its tables need."""
    return {
        "messages": [{"role": "user", "content": one.question}, worked(one, call)],
        "answer": answer_of(one.values),
        "task": one.template.kind,
        "language": one.template.language,
        "digits": digits(one.question),
        "template": one.template.ask,
    }


def distinct(make: Callable[[Random], Any], text_of: Callable[[Any], str], count: int, seed: str) -> Iterator[Any]:
    """So many that differ in more than punctuation, width and case."""
    seen, number = set[str](), 0
    while len(seen) < count:
        one = make(Random(f"{seed}/{number}"))
        number += 1
        if (text := key(text_of(one))) not in seen:
            seen.add(text)
            yield one


def heldout_problems(given: Templates, count: int, seed: int) -> list[Problem]:
    make = partial(problem, given.problems["seen"], given.words, side="heldout")
    return list(distinct(lambda rng: make(rng=rng), lambda one: one.question, count, f"{seed}/heldout"))


def template_problems(given: Templates, seed: int) -> list[Problem]:
    """One of each held-out template."""
    found = enumerate(given.problems["heldout"])
    return [problem([one], given.words, Random(f"{seed}/template/{place}")) for place, one in found]


def heldout_talk(given: Templates, count: int, seed: int) -> list[dict[str, Any]]:
    make = partial(talk, given.talk["heldout"], given.words)
    pairs = distinct(make, lambda pair: pair[0]["content"], count, f"{seed}/talk")
    return [{"messages": pair, "task": "talk", "digits": digits(pair[0]["content"])} for pair in pairs]


def prompts(problems: Iterable[Problem]) -> Iterator[dict[str, Any]]:
    """Those whose answer is one number that can be written out, as the check arithmetic wants it."""
    for one in problems:
        answer = answer_of(one.values)
        if _NUMBER.fullmatch(answer) and len(answer) < 60:
            yield {"prompt": one.question, "answer": answer}


def called(tools: Tools, name: str, arguments: str) -> str:
    """A call's result. On a busy machine one may take longer than it has, and is made once more."""
    for _ in range(4):
        try:
            return tools.call(name, arguments)
        except ValueError as error:
            if "took longer" not in str(error):
                raise
    return tools.call(name, arguments)


def at_once(make: Callable[[Any], Any], given: Iterable[Any], count: int, title: str) -> list[Any]:
    """In order, some at a time: the calls wait for other processes."""
    found = []
    with ThreadPoolExecutor(4) as threads, progress(title, count) as advance:
        for one in threads.map(make, given):
            found.append(one)
            advance()
    return found


def main(
    out: Path, chat: Path = Path("runs/nano/chat/chat.jsonl"), count: int = 40_000, seed: int = 1, asked: int = 6000
) -> None:
    """Write the dialogues and what they are measured with.

    Args:
        out: folder to write to
        chat: what chat_data.py wrote, for exchanges of everyday life between the problems
        count: conversations to learn from
        seed: another seed, other numbers
        asked: questions for `glm grpo`
    """
    given, tools = replace(read_templates(), everyday=read_everyday(chat)), Tools()
    call = lru_cache(maxsize=100_000)(partial(called, tools))
    train = partial(problem, given.problems["train"], given.words, side="train")
    problems, others = heldout_problems(given, 500, seed), template_problems(given, seed)
    questions = (train(Random(f"{seed}/prompt/{number}")) for number in range(asked))
    seeds = (f"{seed}/train/{number}" for number in range(count))
    work = partial(measured, call=call)
    files: dict[str, list[dict[str, Any]]] = {
        "tools": at_once(partial(conversation, given, call), seeds, count, "conversations"),
        "tools-heldout": at_once(work, problems, len(problems), "held-out problems"),
        "tools-templates": at_once(work, others, len(others), "held-out wordings"),
        "tools-talk": heldout_talk(given, 300, seed),
        "tools-prompts": list(prompts(questions)),
        "tools-prompts-heldout": list(prompts(problems)),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, records in files.items():
        write_file(out / f"{name}.jsonl", "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records))
        kinds = dict(Counter(one["task"] for one in records if "task" in one))
        say(f"{name}: {len(records)} records {kinds or ''}")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
