"""nano's tool dialogues: answers hold when they are tried out, calls are really run, and what is held out is nowhere learnt from."""

import dataclasses
import datetime
import itertools
import json
import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from random import Random

import pytest
from helpers.scripted import with_marks
from helpers.text_samples import TEXTS, VOCAB_SIZE

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "nano"))

import tool_data
import tool_typing
from chat_text import key, reading
from tool_data import Problem, fill, is_right, numbers, problem, read_templates, side_of, talk, worked
from tool_draws import DRAWS, plain
from tool_typing import chinese, english, spelled

from openglm import Tools
from openglm.cli.options import read_toml
from openglm.text import train_tokenizer
from openglm.text.steps import read_call
from openglm.tools.units import convert

GIVEN = read_templates()
MARKS = ("[Begin]", "[Param]", "[End]", "[Gen]")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(iter(TEXTS), VOCAB_SIZE, tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def one_of_each():
    """A problem of each draw in each language with its worked answer: by a wording that is learnt from, or held out."""
    found = []
    for place, name in enumerate(DRAWS):
        for language in ("zh", "en"):
            mine = [t for t in GIVEN.problems["train"] + GIVEN.problems["heldout"] if t.name == name]
            mine = [t for t in mine if t.language == language]
            found.append(problem(mine, GIVEN.words, Random(place)))
    tools = Tools()
    with ThreadPoolExecutor(4) as threads:
        return list(zip(found, threads.map(lambda one: worked(one, tools.call), found), strict=True))


# Tried out: the answer is put in, or everything is counted, term by term.


def day(text):
    return datetime.date(*map(int, text.split("-")))


def steps_until(value, test, last=10**6):
    return next(number for number in range(value, last) if test(number))


TRIED = {
    "series": lambda v: sum(range(v["a"], v["l"] + 1, v["d"])),
    "series_terms": lambda v: len(range(v["a"], v["l"] + 1, v["d"])),
    "even_numbers": lambda v: sum(number for number in range(v["l"] + 1) if number % 2 == 0),
    "odd_numbers": lambda v: sum(number for number in range(v["l"] + 1) if number % 2),
    "number_puzzle": lambda v: steps_until(
        1, lambda x: v["k"] * x + v["b"] == v["c"] and v["k"] * (x + v["b"]) == v["c_of"]
    ),
    "heads_and_legs": lambda v: next(
        [x, v["heads"] - x] for x in range(v["heads"]) if 2 * x + 4 * (v["heads"] - x) == v["legs"]
    ),
    "two_prices": lambda v: next(
        [x, v["n"] - x] for x in range(v["n"]) if v["p"] * x + v["q"] * (v["n"] - x) == v["total"]
    ),
    "age_times": lambda v: steps_until(0, lambda y: v["m"] + y == v["k"] * (v["c"] + y)),
    "age_ago": lambda v: steps_until(0, lambda y: v["m"] - y == v["k"] * (v["c"] - y)),
    "catching_up": lambda v: steps_until(0, lambda t: v["w"] * t + v["s"] == v["v"] * t),
    "meeting": lambda v: steps_until(0, lambda t: v["v"] * t + v["w"] * t == v["s"]),
    "work_together": lambda v: steps_until(1, lambda t: Fraction(t, v["a"]) + Fraction(t, v["b"]) == 1),
    "in_and_out": lambda v: steps_until(1, lambda t: Fraction(t, v["a"]) - Fraction(t, v["b"]) == 1),
    "common_multiple": lambda v: steps_until(max(v["a"], v["b"]), lambda x: x % v["a"] == 0 == x % v["b"]),
    "common_divisor": lambda v: max(x for x in range(1, v["a"] + 1) if v["a"] % x == 0 == v["b"] % x),
    "root": lambda v: steps_until(0, lambda x: x * x == v["a"]),
    "days_between": lambda v: (day(v["cb"]) - day(v["ca"])).days,
    "days_after": lambda v: (day(v["ca"]) + datetime.timedelta(v["n"])).isoformat(),
    "before_percent": lambda v: steps_until(
        0, lambda x: 100 * v["up"] == x * (100 + v["p"]) and 100 * v["down"] == x * (100 - v["p"])
    ),
    "share_out": lambda v: next(x for x in range(v["n"]) if x * v["b"] == (v["n"] - x) * v["a"]),
    "geometric": lambda v: sum(v["a"] * v["q"] ** k for k in range(40) if v["a"] * v["q"] ** k <= v["l"]),
}


@pytest.mark.parametrize("name", TRIED)
def test_answers_hold_when_they_are_tried_out(name):
    for seed in range(25):
        values = DRAWS[name](Random(seed), "en")
        assert TRIED[name](values) == values["answer"], values


@pytest.mark.parametrize(
    ("name", "asked", "answer"),
    [
        ("series", {"sum": "3+6+9+12+...+333", "a": 3, "by": 3, "l": 333}, "18648"),
        ("heads_and_legs", {"heads": 35, "legs": 94}, "23, 12"),
        ("larger", {"a": "9.11", "b": "9.9"}, "9.9"),
        ("percent_of", {"p": 15, "n": 37}, "5.55"),
    ],
)
def test_known_problems_are_worked_out(name, asked, answer):
    """The deck's sum, the pheasants and rabbits of Sunzi, the comparison that models get wrong."""
    for language in ("zh", "en"):
        template = next(t for t in GIVEN.problems["train"] if t.name == name and t.language == language)
        given = Problem(template, "", {**asked, "answer": answer})
        assert is_right(answer, worked(given, Tools().call)["content"])


def test_every_worked_answer_ends_in_what_was_worked_out_by_hand(one_of_each):
    """`worked` refuses others; here the last numbers are read once more, by no code of the recipe."""
    assert len(one_of_each) == 2 * len(DRAWS)
    for one, message in one_of_each:
        answer = one.values["answer"]
        expected = answer if isinstance(answer, list) else [answer]
        if all(isinstance(value, int) for value in expected):
            digits = "".join(c if c.isascii() and (c.isdigit() or c == "-") else " " for c in message["content"])
            said = [int(piece) for piece in digits.split() if piece.strip("-")][-len(expected) :]
            assert Counter(said) == Counter(expected), (one.question, message)
        assert message["steps"] and not any(step["result"].startswith("error") for step in message["steps"])


def test_a_wrong_result_stops_the_build():
    template = next(t for t in GIVEN.problems["train"] if t.name == "add")
    with pytest.raises(ValueError, match="12 by hand"):
        worked(Problem(template, "5+7", {"a": 5, "b": 7, "answer": 12}), lambda name, arguments: "13")


def test_dialogues_are_rendered_with_the_calls_they_hold_and_no_others(one_of_each, tokenizer):
    """Marks come from the steps alone; each call is found again, letter by letter."""
    for one, message in one_of_each:
        ids, trained = tokenizer.render([{"role": "user", "content": one.question}, message])
        special = tokenizer.special
        ends = [place + 1 for place, token in enumerate(ids) if token == special["[End]"]]
        found = []
        for number, end in enumerate(ends):
            _, name, arguments = read_call(special, ids[:end])
            result = ids[end : ids.index(special["[Gen]"], end)]
            assert not any(trained[end : end + len(result) + 1]), "what a tool returned is not learnt"
            at = message["steps"][number]["at"]
            found.append(
                {
                    "at": at,
                    "name": tokenizer.decode(name),
                    "arguments": tokenizer.decode(arguments),
                    "result": tokenizer.decode(result),
                }
            )
        assert found == message["steps"]
        assert sum(token in {special[mark] for mark in MARKS} for token in ids) == 4 * len(found)


def test_digits_are_copied_one_by_one(tokenizer, one_of_each):
    """A digit is the same token wherever it stands, so a number is copied token by token."""
    token = {digit: tokenizer.encode(digit) for digit in "0123456789"}
    for one, message in one_of_each:
        for text in (one.question, *(step["arguments"] for step in message["steps"])):
            pieces = [tokenizer.decode([number]) for number in tokenizer.encode(text)]
            assert all(len(piece) == 1 for piece in pieces if any(c in token for c in piece)), (text, pieces)


def test_no_special_token_stands_in_a_template(tokenizer):
    folder = Path(tool_data.__file__).parent
    for name in ("problems", "wordings", "frames", "talk", "chatter"):
        text = (folder / f"tool_{name}.toml").read_text(encoding="utf-8")
        assert not [mark for mark in tokenizer.special if mark in text]
        assert with_marks(tokenizer, text[:2000]) == tokenizer.encode(text[:2000])


def test_wordings_have_every_place_filled():
    """A place without a value would raise; none is left behind, and no choice."""
    for side in ("train", "heldout"):
        for number, template in enumerate(GIVEN.problems[side]):
            question = problem([template], GIVEN.words, Random(number)).question
            assert (
                "<" not in question.replace("<=", "").replace("< ", "").replace(" <", "")
                or template.kind == "inequality"
            )
            assert not set("|$") & set(question)


def test_what_is_held_out_is_not_learnt_from():
    """By numbers for the wordings that are shared; by wording for the others; nothing shared in normalized text."""
    train = [problem(GIVEN.problems["train"], GIVEN.words, Random(f"a{n}"), "train") for n in range(1500)]
    seen = {key(one.question) for one in train}
    held = tool_data.heldout_problems(GIVEN, 60, 1)
    wordings = tool_data.template_problems(GIVEN, 1)
    assert all(side_of(one.question) == "heldout" for one in held) and len(wordings) >= 300
    digits = [{tuple(found) for one in side if (found := numbers(one.question))} for side in (held, train)]
    assert not digits[0] & digits[1]
    assert not seen & {key(one.question) for one in held} and not seen & {key(one.question) for one in wordings}
    asks = {key(template.ask) for template in GIVEN.problems["train"]}
    assert not asks & {key(template.ask) for template in GIVEN.problems["heldout"]}
    assert side_of("3+6+9+12+...+333 是多少？") == "heldout" == side_of("What is 3 + 6 + 9 + … + 333?")


def pairs_of(template, seed):
    """Neighbouring words of one reading, or letters of a Chinese one; a place is like another."""
    text = re.sub(r"<[a-z_]+>", "#", reading(Random(seed), template.ask).lower())
    units = (
        re.findall(r"[a-z']+|#", text) if template.language == "en" else re.sub(r"[\W_]", "", text.replace("#", "数"))
    )
    return set(itertools.pairwise(units))


def test_held_out_wordings_are_built_otherwise():
    """Of their neighbouring words, no wording that is learnt from has most."""
    held = {}
    for template in GIVEN.problems["heldout"]:
        held.setdefault((template.name, template.language), []).append(pairs_of(template, 0))
    for template in GIVEN.problems["train"]:
        for seed in range(20):
            mine = pairs_of(template, seed)
            for other in held.get((template.name, template.language), []):
                assert len(mine & other) <= 0.6 * len(mine | other), reading(Random(seed), template.ask)


def test_what_is_measured_is_asked_as_before_more_was_learnt():
    """Wordings and noise are added for learning alone, so that figures can be compared."""
    measured = [one for side in ("seen", "heldout") for one in GIVEN.problems[side]]
    added, parts = (read_toml(Path(tool_data.__file__).parent / f"tool_{name}.toml") for name in ("wordings", "frames"))
    more = {ask for table in added.values() for language in ("zh", "en") for ask in table[language]}
    tables = parts.keys() - {"frames", "zh", "en"}
    more |= {ask for table in tables for language in ("zh", "en") for ask in tool_data.framed(parts, table, language)}
    assert more <= {one.ask for one in GIVEN.problems["train"]} and not more & {one.ask for one in measured}
    for seed in range(200):
        one = problem(GIVEN.problems["seen"], GIVEN.words, Random(seed), "heldout")
        assert re.fullmatch(r"[\d.,/]*", "".join(numbers(one.question))) and numbers(one.question), "digits alone"


def test_numbers_in_words():
    words = {105: "一百零五", 1010: "一千零一十", 2003: "二千零三", 12: "十二", 40: "四十", 115: "一百一十五"}
    assert {number: chinese(number) for number in words} == words
    words = {
        7: "seven",
        40: "forty",
        99: "ninety-nine",
        305: "three hundred and five",
        2014: "two thousand and fourteen",
    }
    assert {number: english(number) for number in words} == words
    assert len(set(map(chinese, range(10_000)))) == len(set(map(english, range(10_000)))) == 10_000


def test_numbers_beside_signs_stay_digits():
    values = {"a": 12, "b": 34, "d": 1234567}
    for seed in range(300):
        assert spelled(Random(seed), "<a>+<b> = ? [<d>]", values, "en") == values
    shown = [spelled(Random(seed), "what are <a> and <b>, or <d>", values, "en") for seed in range(300)]
    assert {one["a"] for one in shown} == {12, "twelve"} and {one["d"] for one in shown} == {1234567, "1,234,567"}


def test_nearly_half_of_the_exchanges_need_no_tool(monkeypatch):
    """And come before calls and behind them, in lines of the chat data, too."""
    monkeypatch.setattr(tool_data, "corrected", lambda *_: [])
    monkeypatch.setattr(tool_data, "worked", lambda one, call: {"role": "assistant", "content": "1", "steps": [1]})
    line = [{"role": "user", "content": "茶?"}, {"role": "assistant", "content": "好茶。"}]
    given = dataclasses.replace(GIVEN, everyday={"zh": [line], "en": [line]})
    made = [tool_data.conversation(given, None, f"{n}")["messages"] for n in range(1500)]
    called = [["steps" in answer for answer in messages[1::2]] for messages in made]
    every = [one for row in called for one in row]
    assert 0.42 < 1 - sum(every) / len(every) < 0.48
    assert {pair for row in called for pair in itertools.pairwise(row)} == set(
        itertools.product([True, False], repeat=2)
    )
    assert sum(line[0] in messages for messages in made) > 75


def test_a_wrong_answer_is_read_and_the_corrected_one_learnt(one_of_each, tokenizer):
    found = 0
    for place, (one, right) in enumerate(one_of_each):
        if not (wrong := tool_data.corrected(Random(place), one, right, Tools().call)):
            continue
        found += 1
        ids, trained = tokenizer.render([{"role": "user", "content": one.question}, *wrong, right])
        only, alone = tokenizer.render([{"role": "user", "content": one.question}, right])
        learnt, expected = (list(itertools.compress(*pair)) for pair in ((ids, trained), (only, alone)))
        answer = tool_data.answer_of(one.values)
        assert learnt == expected and (len(answer) > 9 or not is_right(answer, wrong[0]["content"])), wrong
        assert wrong[1]["content"].startswith(("Check: ", "检查：")) and wrong[1]["role"] == "user"
    assert found > 40


def test_units_and_dates_have_other_names_and_the_same_meaning():
    for names in tool_typing.GIVEN["units"]["names"]:
        first, *others = names.split()
        assert {convert(f"1 {name}", first) for name in others} == {f"1 {first}"}, names
    for seed in range(200):
        language = ["zh", "en"][seed % 2]
        values = DRAWS["days_between"](Random(seed), language)
        shown = tool_typing.renamed(Random(seed), values, language)
        assert [day(shown[name]) for name in ("ca", "cb")] == [day(values[name]) for name in ("ca", "cb")]
        if shown["a"] != values["a"] and not re.search("[A-Z]", shown["a"]):
            assert [*map(int, numbers(shown["a"]))] == [*map(int, shown["ca"].split("-"))]


def test_brackets_without_a_choice_are_text():
    assert {reading(Random(seed), "f(x)=(a(b)|c)") for seed in range(20)} == {"f(x)=a(b)", "f(x)=c"}


def test_messages_that_need_no_tool_are_answered_without():
    held = tool_data.heldout_talk(GIVEN, 300, 1)
    learnt = {key(talk(GIVEN.talk["train"], GIVEN.words, Random(n))[0]["content"]) for n in range(3000)}
    texts = [record["messages"][0]["content"] for record in held]
    assert len(set(map(key, texts))) == 300 and not learnt & set(map(key, texts))
    assert sum(any(c.isdigit() for c in text) for text in texts) > 200
    assert all("steps" not in message for record in held for message in record["messages"])
    assert not [text for record in held for text in (record["messages"][1]["content"],) if "<" in text]


def test_the_same_seed_gives_the_same_conversations():
    def call(name, arguments):
        return cache.setdefault((name, arguments), None) or tools.call(name, arguments)

    cache, tools = {}, Tools()
    made = [tool_data.conversation(GIVEN, call, f"{seed}/train/{n}") for seed in (1, 1, 2) for n in range(6)]
    assert made[:6] == made[6:12] != made[12:]
    for one in made:
        roles = [message["role"] for message in one["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert set(one) == {"messages", "task", "language"}
    assert json.loads(json.dumps(made[0])) == made[0]


@pytest.mark.parametrize(
    ("answer", "text", "right"),
    [
        ("18648", "一共111项，和是18648。", True),
        ("18648", "和是18648，不是9348。", False),
        ("2, 3", "The solution is x=3; x=2.", True),
        ("2, 3", "The solution is x=2.", False),
        ("0.5", "It is 1/2.", True),
        ("31.75", "It is 63.5/2.", True),
        ("31.75", "It is 63.5/00.", False),
        ("1/3", "It is 0.3333333333.", True),
        ("1/3", "It is 0.333.", False),
        ("x<5", "解是x<5。", True),
        ("x<5", "解是x<50。", False),
        ("是的", "不是。", False),
        ("Friday", "It is Friday.", True),
        ("3*x**2 + 2", "The derivative is 3*x**2+2.", True),
        ("3*x**2 + 2", "The derivative is 13*x**2 + 2.", False),
        ("2024-03-01", "是2024-03-01。", True),
    ],
)
def test_answers_are_judged_by_what_they_end_in(answer, text, right):
    assert is_right(answer, text) == right


def test_numbers_are_written_as_people_do():
    assert [plain(Fraction(*pair)) for pair in ((1, 8), (-5, 2), (1, 3), (6, 2), (1, 1000))] == [
        "0.125",
        "-2.5",
        "1/3",
        "3",
        "0.001",
    ]
    assert fill("<a>+<b>", {"a": Fraction(1, 2), "b": 3}) == "0.5+3"
