"""What an answer claims that can be computed: equations of numbers, values of unknowns, and the value it was asked for.

A claim has to be plain. Units, dates, times, lists, code, estimates, conditions and denials are left alone, and so is
what the parser does not read: a wrong claim may be missed, but a right one is not touched.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import islice, pairwise
from typing import Any, NamedTuple

from openglm.tools.pool import shared_pool

_MOST, _SECONDS = 8, 5.0  # mistakes that are told, and the time for finding them
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?"
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if chr(code) not in "，；：？！"}
# How signs are written elsewhere, and, as \0, what only looks like an equation.
_TIDIED = [
    (re.compile(r"```.*?(?:```|$)|`[^`\n]*`", re.S), "\0"),
    (re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\(?:times|cdot)\b"), "*"),
    (re.compile(r"\\div\b"), "/"),
    (re.compile(r"\\[cl]?dots\b|\.{3,}|…+|⋯+"), "…"),
    (re.compile(r"\\[()\[\]]|\$"), " "),
    (re.compile(r"(?<![\d)])\*\*|\*\*(?![\w(])"), ""),  # bold
    (re.compile(r"^[ \t]*(?:[-*•]|\d+[.)、])\s+|\(\d+\)(?=\s*\d)", re.M), ""),
    (re.compile(r"\d{4}([-/.])\d{1,2}\1\d{1,2}|\d+\s*[:：]\s*\d+"), "\0"),  # dates, times, ratios
    (re.compile(r"\bsqrt\b"), "√"),
    (re.compile(r"(\d+/\d+)(?=\s*÷)|(?<=÷)\s*(\d+/\d+)"), r"(\1\2)"),  # one fraction divided by another
]
_WORD = re.compile(r"[A-Za-z]{2,}|[A-Za-z]_\w*")
_DOUBT = re.compile(
    r"[≈≠?？]|!=|约|不|错|非|若|假|如果|余|进制|n['’]t\b|"
    r"\b(?:not|if|suppose|assume|about|roughly|approximately|wrong|false|incorrect|remainder|mod|binary|hex|octal)\b",
    re.I,
)
_SENTENCE_END = re.compile(r"(?<=[。？\n；;])|(?<=[.?!！])\s")
_RUN = re.compile(rf"(?:{_NUMBER}|[A-Za-zπ+\-−–*×·÷/^%√()²³=…! \t])+")
_OPEN_START, _OPEN_END = re.compile(r"\s*[+\-−–*×·÷/^%!)…]"), re.compile(r"[+\-−–*×·÷/^√(…]\s*$")
_MAGNITUDE = re.compile(r"\s*(?:[万亿千百]|dozen|hundred|thousand|million|billion)|[.,]\d", re.I)
_OPERATION = re.compile(r"[\d)%!²³π]\s*[+\-−–*×·÷/^…]|[√²³]|\d!")
_SERIES = re.compile(rf"({_NUMBER}(?:\s*\+\s*{_NUMBER})+)\s*\+\s*…\s*\+\s*({_NUMBER})")
_LETTER, _FUNCTION = re.compile("[A-Za-z]"), re.compile(r"[eEIi]|[A-Za-z]\s*\(\s*[\dA-Za-z]\s*\)")
_ASKING = re.compile(
    r"what(?:'s| is)|how much is|calculate|compute|evaluate|work out|find|please|the (?:value|sum|result) of|equals?|"
    r"计算|请问|请|求|帮我|算一下|算|等于|是|多少|几|的?(?:值|和|结果)|呢|[\s?？。！!.,，：:=]+$",
    re.I,
)
_STATED = re.compile(rf"(?:(?<![\d)])[-−])?{_NUMBER}(?:/0*[1-9]\d*)?%?")


class Mistake(NamedTuple):
    """An equation of the answer, and what holds instead."""

    said: str
    true: str


def mistakes(question: str, answer: str) -> list[Mistake]:
    """What the answer says that does not hold. What cannot be computed, or takes too long, counts as right."""
    found = _Claims(question, answer)
    every = (one for part in (found.asked(), found.numeric(), found.unknowns()) for one in part)
    return list(islice(dict.fromkeys(every), _MOST))


def correction(question: str, wrong: Iterable[Mistake]) -> str:
    """What the model is told, in the language of the question."""
    if re.search("[一-鿿]", question):
        return f"检查：{'；'.join(f'{one.said} 不对，{one.true}' for one in wrong)}。请重新回答。"
    return f"Check: {'; '.join(f'{one.said} is wrong, {one.true}' for one in wrong)}. Please answer again."


class _Claims:
    def __init__(self, question: str, answer: str) -> None:
        self.question, self.answer, self.ends = question.translate(_FULL_WIDTH), answer.translate(_FULL_WIDTH), 0.0
        self.equations = list(_equations(self.answer))

    def call(self, tool: str, **arguments: Any) -> str:
        """Empty where there is no result, or no time for one."""
        self.ends = self.ends or time.monotonic() + _SECONDS
        try:
            return shared_pool().call(tool, arguments, self.ends - time.monotonic())
        except (ValueError, TimeoutError):
            return ""

    def fails(self, left: str, right: str, tolerance: str = "") -> bool:
        """Whether two sides surely differ. Decimals may be rounded."""
        places = _places(f"{left} {right}")
        if places and not tolerance:
            tolerance = f"1/10^{places}"
        claim = f"abs(({left})-({right}))<={tolerance}" if tolerance else f"({left})=({right})"
        return self.call("Calc", expression=claim) == "false"

    def asked(self) -> Iterator[Mistake]:
        """The question is one expression and words of asking; of all numbers in the answer, none is its value."""
        expression = _closed(_tidied(_ASKING.sub(" ", self.question))).replace(",", "").strip()
        run = _RUN.match(expression)  # fullmatch would try every way to cut a long number in two
        if not run or run.end() < len(expression) or not _OPERATION.search(expression) or _LETTER.search(expression):
            return
        stated = [_stated(number) for number in _STATED.findall(_tidied(self.answer).replace(",", ""))]
        try:
            value = Fraction(self.call("Calc", expression=expression))
        except (ValueError, ZeroDivisionError):
            return
        if stated and all(abs(number - value) > tolerance for number, tolerance in stated):
            yield Mistake(f"{expression}={stated[-1][0]}", f"{expression}={value}")

    def numeric(self) -> Iterator[Mistake]:
        for sides in self.equations:
            numbers = [side for side in sides if not _LETTER.search(side)]
            worked = next(filter(_OPERATION.search, numbers), "")
            for side in numbers:
                if worked and side != worked and self.fails(worked, side):
                    value = self.call("Calc", expression=worked)
                    if "/" in value and "/" not in side:
                        value = self.call("Calc", expression=worked, decimals=6)
                    yield Mistake(f"{worked}={side}", f"{worked}={value}")

    def unknowns(self) -> Iterator[Mistake]:
        """Values of the answer in the equations of the question and the answer."""
        values: dict[str, dict[str, None]] = {}
        pairs = [pair for one in _equations(self.question, sure=False) for pair in pairwise(one)]
        for sides in self.equations:
            if _LETTER.fullmatch(sides[0]) and not _LETTER.search("".join(sides[1:])):
                values.setdefault(sides[0], {})[sides[-1]] = None
            else:
                pairs += pairwise(sides)
        for name, stated in values.items():
            own = [pair for pair in pairs if set(_LETTER.findall("".join(pair))) == {name}]
            right = [value for value in stated if not own or any(self.solves(pair, {name: value}) for pair in own)]
            wrong = [value for value in stated if value not in right]
            unmet = [pair for pair in own if not any(self.solves(pair, {name: value}) for value in stated)]
            for pair in unmet or own[: len(wrong)]:
                said = ", ".join(f"{name}={value}" for value in wrong or stated)
                solved = self.call("Solve", equations=["=".join(pair)], variables=[name])
                yield Mistake(said, f"{'='.join(pair)}: {solved}")
        single = {name: next(iter(stated)) for name, stated in values.items() if len(stated) == 1}
        for pair in pairs:
            names = sorted(set(_LETTER.findall("".join(pair))))
            if len(names) > 1 and single.keys() >= set(names) and not self.solves(pair, single):
                stated_ones = ", ".join(f"{name}={single[name]}" for name in names)
                yield Mistake(stated_ones, "=".join(pair))

    def solves(self, pair: Sequence[str], values: Mapping[str, str]) -> bool:
        """Unless an equation surely fails with these values; rounded ones need not be exact."""
        left, right = (_LETTER.sub(lambda name: f"({values[name[0]]})", side) for side in pair)
        rounded = any("." in value for value in values.values())
        return bool(_FUNCTION.search(" ".join(pair))) or not self.fails(left, right, "0.05" if rounded else "")


def _tidied(text: str) -> str:
    for pattern, plain in _TIDIED:
        text = pattern.sub(plain, text)
    return text


def _equations(text: str, sure: bool = True) -> Iterator[list[str]]:
    """The sides of each, as far as they are whole. sure: not in sentences that deny, suppose or estimate."""
    for sentence in _SENTENCE_END.split(_tidied(text)):
        if sure and _DOUBT.search(sentence):
            continue
        sentence = _WORD.sub("\0", sentence)
        for run in _RUN.finditer(sentence):
            before, behind = sentence[: run.start()], sentence[run.end() :]
            sides = [_closed(side).replace(",", "").strip() for side in run[0].split("=")]
            cut = run[0][0].isdigit() and re.search(r"\d[.,]$", before)
            if cut or (before and _OPEN_START.match(run[0])):
                del sides[0]
            if sides and (_OPEN_END.search(sides[-1]) or _MAGNITUDE.match(behind)):
                del sides[-1]
            if len(sides) > 1 and all(sides):
                yield sides


def _closed(text: str) -> str:
    """With the sums of arithmetic series in place of their dots; a wrong one keeps these, and is not read."""

    def total(found: re.Match[str]) -> str:
        first, second, *more = (Fraction(number.replace(",", "")) for number in found[1].split("+"))
        last, step = Fraction(found[2].replace(",", "")), second - first
        terms = [first + index * step for index in range(2, 2 + len(more))]
        count = (last - first) / step + 1 if step else Fraction(0)
        sound = terms == more and count > len(more) + 2 and count.denominator == 1
        return f"(({first}+{last})*{count}/2)" if sound else found[0]

    return _SERIES.sub(total, text)


def _places(text: str) -> int:
    """Of the number with the most decimals."""
    return max((len(digits) for digits in re.findall(r"\.(\d+)", text)), default=0)


def _stated(text: str) -> tuple[Fraction, Fraction]:
    """A number as it stands in a text, and by how much it may be rounded."""
    plain = text.replace("−", "-").removesuffix("%")
    number, tolerance = Fraction(plain), Fraction(_places(plain) and 1, 10 ** _places(plain))
    return (number / 100, tolerance / 100) if text.endswith("%") else (number, tolerance)
