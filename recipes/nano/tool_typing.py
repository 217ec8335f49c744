"""How problems for tools are really typed: sentences around them, slips, numbers in words. Only what is learnt from is treated so."""

from __future__ import annotations

import re
from random import Random

from chat_skills import HERE
from tool_draws import Values
from tool_stories import MONTHS

from openglm.cli.options import read_toml

GIVEN = read_toml(HERE / "tool_typing.toml")
_UNITS = {name: names.split() for names in GIVEN["units"]["names"] for name in names.split()}
_WORD = re.compile(r"\b[a-z]{5,}\b")
_DIGITS = "零一二三四五六七八九"
_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def chinese(number: int) -> str:
    """Of 0 to 9999, in words."""
    if number < 10:
        return _DIGITS[number]
    unit, name = next((unit, name) for unit, name in ((1000, "千"), (100, "百"), (10, "十")) if number >= unit)
    head, rest = divmod(number, unit)
    first = name if head == 1 and 10 <= number < 20 else _DIGITS[head] + name
    if not rest:
        return first
    gap = "零" if rest * 10 < unit else ""
    ten = "一" if 10 <= rest < 20 else ""
    return first + gap + ten + chinese(rest)


def english(number: int) -> str:
    """Of 0 to 9999, in words."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        return _TENS[number // 10 - 2] + (f"-{_ONES[number % 10]}" if number % 10 else "")
    unit, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    rest = number % unit
    joint = " and " if 0 < rest < 100 else " "
    return f"{english(number // unit)} {name}" + (joint + english(rest) if rest else "")


def spelled(rng: Random, ask: str, values: Values, language: str) -> Values:
    """Of some questions, whole numbers in words or with commas between the thousands. Beside a sign they stay digits."""
    form = rng.random()
    if form > 0.1:
        return values
    write = (chinese if language == "zh" else english) if form < 0.07 else (lambda number: f"{number:,}")
    least, most = (1, 999) if form < 0.07 else (1000, 10**12)
    shown = dict(values)
    for name in set(re.findall(r"<([a-z_]+)>", ask)):
        beside = re.search(rf"[-+*/×÷^=%:：!√~.\w\[]<{name}>|<{name}> ?[-+*/×÷^=%:：!√~.\[°]", ask, re.ASCII)
        number = values[name]
        if not beside and type(number) is int and least <= number <= most:
            shown[name] = write(number)
    return shown


def renamed(rng: Random, values: Values, language: str) -> Values:
    """Half of the units by another name and a third of the dates in another form. A call has them as they are asked."""
    found = dict(values)
    for name in ("u", "w"):
        if values.get(name) in _UNITS and rng.random() < 0.5:
            alike = [one for one in _UNITS[values[name]] if language == "zh" or one.isascii()]
            found[name] = rng.choice([one for one in alike if one != found["u"]] or alike)
    for name in ("a", "b"):
        if "ca" in values and f"c{name}" in values and rng.random() < 0.35:
            year, month, day = map(int, values[f"c{name}"].split("-"))
            word, th = MONTHS[month - 1], "th" if 10 < day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
            short, long = f"{year}-{month}-{day}", f"{year}-{month:02}-{day:02}"
            forms = {
                "zh": [(short.replace("-", "/"), short), (f"{year}年{month:02}月{day:02}日", long)],
                "en": [(f"{word} {day}{th}, {year}", short), (f"the {day}{th} of {word} {year}", short)],
            }
            more = [(long.replace("-", "/"), long), (short.replace("-", "."), short)]
            found[name], found[f"c{name}"] = rng.choice(forms[language] + more)
    return found


def around(rng: Random, text: str, language: str, kind: str) -> str:
    """The question with what people put before and behind it."""
    words = GIVEN[language]
    if rng.random() < 0.06 and kind not in ("units", "dates"):
        text = slip(rng, text, language)
    if language == "en" and rng.random() < 0.5:
        text = re.sub(r"(?<=[a-z\d][.?] )[a-z](?=[a-z])", lambda found: found[0].upper(), text)
    if rng.random() < 0.14:
        text = rng.choice(words["opening"]) + text
    if rng.random() < 0.08:
        text = rng.choice(words["before"]) + text
    if rng.random() < 0.08:
        joint = (
            {"zh": rng.choice(["，", " "]), "en": " "}[language]
            if text[-1] not in "？?。.!"
            else " " * (language == "en")
        )
        text += ("," if language == "en" and text[-1].isalnum() else "") + joint + rng.choice(words["behind"])
    return text


def slip(rng: Random, text: str, language: str) -> str:
    """One word written wrong."""
    if language == "zh":
        found = [word for word in GIVEN["slips"] if word in text]
        return text.replace(word := rng.choice(found), GIVEN["slips"][word], 1) if found else text
    words = list(_WORD.finditer(text))
    if not words:
        return text
    word = rng.choice(words)
    at = rng.randrange(word.start() + 1, word.end() - 1)
    two = text[at : at + 2]
    return text[:at] + rng.choice([two[::-1], two[0], two[0] + two]) + text[at + 2 :]
