"""The numbers of nano's problems for tools, and the answers, worked out by hand from the numbers: no tool is asked here.

A draw gives what fills the places of its templates (tool_problems.toml), and the `answer`: a number, several, or a text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from random import Random
from typing import Any

Values = dict[str, Any]
DRAWS: dict[str, Callable[[Random, str], Values]] = {}
DOTS = ["...", "...", "...", "……", "…", "..", "⋯"]


def draw(function: Callable[[Random, str], Values]) -> Callable[[Random, str], Values]:
    DRAWS[function.__name__] = function
    return function


def plain(value: Any) -> str:
    """A number as one writes it: with decimals where they end, else as a fraction."""
    if not isinstance(value, Fraction) or value.denominator == 1:
        return str(value)
    twos, fives, rest = 0, 0, value.denominator
    while rest % 2 == 0:
        twos, rest = twos + 1, rest // 2
    while rest % 5 == 0:
        fives, rest = fives + 1, rest // 5
    if rest > 1:
        return str(value)
    places = max(twos, fives)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def whole(rng: Random, most: int = 4, least: int = 1) -> int:
    """A positive number of `least` to `most` digits, each length as likely."""
    digits = rng.randint(least, most)
    return rng.randint(10 ** (digits - 1), 10**digits - 1)


def decimal(rng: Random, most: int = 3, places: int = 2) -> Fraction:
    return Fraction(whole(rng, most + places, 2), 10 ** rng.randint(1, places))


# Series.


def terms(first: int, step: int, count: int, rng: Random) -> Values:
    """An arithmetic series and how it is written with dots."""
    shown = [first + number * step for number in range(rng.choice([3, 3, 4, 4, 5]))]
    last, dots = first + (count - 1) * step, rng.choice(DOTS)
    plus, comma = rng.choice(["+", "+", " + "]), rng.choice([", ", ",", "，", "、"])
    return {
        "a": first,
        "d": step,
        # The step as a call says it: nothing is subtracted in the head, and 3, 6, 9 have the step 3.
        "by": step if step == first else f"({first + step}-{first})",
        "l": last,
        "n_terms": count,
        "sum": plus.join(map(str, [*shown, dots, last])),
        "list": comma.join(map(str, [*shown, dots, last])),
        "short": comma.join(map(str, [*shown, dots])),
        "answer": count * (first + last) // 2,
    }


@draw
def series(rng: Random, lang: str) -> Values:
    step = rng.choice([1, 2, 2, 3, 4, 5, 5, 10, whole(rng, 2), whole(rng, 2), whole(rng, 3)])
    first = step if rng.random() < 0.4 else rng.choice([1, 1, 2, whole(rng, 2), whole(rng, 3)])
    return terms(first, step, rng.choice([rng.randint(6, 40), rng.randint(20, 400), rng.randint(50, 2000)]), rng)


@draw
def series_down(rng: Random, lang: str) -> Values:
    step, count = rng.choice([1, 2, 3, 4, 5, 6, 7, 10, 12]), rng.randint(6, 80)
    return terms(rng.randint(1, 30) + (count - 1) * step, -step, count, rng)


@draw
def series_terms(rng: Random, lang: str) -> Values:
    values = series(rng, lang)
    return {**values, "answer": values["n_terms"]}


@draw
def one_to_n(rng: Random, lang: str) -> Values:
    last = whole(rng, 5, 2)
    return {"l": last, "answer": sum(range(last + 1))}


@draw
def a_to_b(rng: Random, lang: str) -> Values:
    first = whole(rng, 3, 1) + 1
    last = first + whole(rng, 3, 2)
    return {"a": first, "l": last, "answer": sum(range(first, last + 1))}


@draw
def even_numbers(rng: Random, lang: str) -> Values:
    last = 2 * whole(rng, 3, 2)
    return {"l": last, "answer": sum(range(2, last + 1, 2))}


@draw
def odd_numbers(rng: Random, lang: str) -> Values:
    last = 2 * whole(rng, 3, 2) + 1
    return {"l": last, "answer": sum(range(1, last + 1, 2))}


@draw
def nth_term(rng: Random, lang: str) -> Values:
    values = terms(whole(rng, 2), whole(rng, 2), 9, rng)
    number = whole(rng, 3, 2)
    return {**values, "n": number, "answer": values["a"] + (number - 1) * values["d"]}


@draw
def first_n_terms(rng: Random, lang: str) -> Values:
    values = nth_term(rng, lang)
    return {**values, "answer": sum(values["a"] + place * values["d"] for place in range(values["n"]))}


@draw
def geometric(rng: Random, lang: str) -> Values:
    first, times = rng.choice([1, 1, 2, 3, 4, 5, 6, 7]), rng.choice([2, 2, 3, 3, 4, 5, 10])
    count = rng.randint(5, {2: 20, 3: 14}.get(times, 9))
    powers = [first * times**number for number in range(count)]
    shown = [*map(str, powers[: rng.choice([3, 4])]), rng.choice(DOTS), str(powers[-1])]
    comma = rng.choice([", ", "，"])
    return {
        "a": first,
        "b": powers[1],
        "q": times,
        "l": powers[-1],
        "sum": "+".join(shown),
        "list": comma.join(shown),
        "answer": sum(powers),
    }


@draw
def powers(rng: Random, lang: str) -> Values:
    exponent = rng.choice([2, 2, 3])
    last, small = whole(rng, 3, 1) + 3, "²³"[exponent - 2]
    mark = rng.choice([small, f"^{exponent}"])
    shown = [f"{number}{mark}" for number in (1, 2, 3)]
    name = {"zh": ("平方", "立方"), "en": ("squares", "cubes")}[lang][exponent - 2]
    total = sum(number**exponent for number in range(last + 1))
    return {
        "p": exponent,
        "l": last,
        "name": name,
        "sum": "+".join([*shown, "...", f"{last}{mark}"]),
        "answer": total,
    }


# Equations.


def letter(rng: Random) -> str:
    return rng.choice("xxxxxxyyzatmnkpbcuvw")


def spaced(rng: Random, text: str) -> str:
    """As it may be typed in a question."""
    if rng.random() < 0.35:
        text = re.sub(r"(?<=[\w)])([-+<>=]=?)(?=[\w(-])", r" \1 ", text)
    text = text.replace("^2", "²") if rng.random() < 0.4 else text
    return text.replace("*", rng.choice("×*"))


def polynomial(numbers: Sequence[int], name: str) -> str:
    """`[2, -3, 1]` as 2x^2-3x+1."""
    text = ""
    for power, number in zip(range(len(numbers) - 1, -1, -1), numbers, strict=True):
        if not number:
            continue
        digits = "" if abs(number) == 1 and power else str(abs(number))
        text += ("-" if number < 0 else "+" if text else "") + digits + ("", name, f"{name}^{power}")[min(power, 2)]
    return text or "0"


@draw
def linear(rng: Random, lang: str) -> Values:
    name, found = letter(rng), rng.choice([rng.randint(1, 20), rng.randint(-30, 99), whole(rng, 4)])
    a, b, c = rng.randint(2, 12), rng.choice([rng.randint(1, 30), whole(rng, 4)]), rng.randint(2, 9)
    form = rng.randrange(12)
    if form == 0:
        text = f"{a}{name}+{b}={a * found + b}"
    elif form == 1:
        text = f"{a}{name}-{b}={a * found - b}"
    elif form == 2:
        text = f"{a}({name}+{c})={a * (found + c)}"
    elif form == 3:
        text = f"{a}({name}-{c})={a * (found - c)}"
    elif form == 4:
        text, found = f"{name}/{a}+{b}={found + b}", found * a
    elif form == 5:
        text = f"{name}+{b}={found + b}"
    elif form == 6:
        text = f"{b}-{a}{name}={b - a * found}"
    elif form == 7:
        text = f"{a}{name}={a * found}"
    elif form == 8:
        text = f"{a + c}{name}+{b}={polynomial([c, a * found + b], name)}"
    elif form == 9:
        text = f"{a + c}{name}-{b}={polynomial([c, a * found - b], name)}"
    elif form == 10:
        text = f"{a * found + b}={a}{name}+{b}"
    else:
        text = f"{name}-{b}={found - b}"
    return {"e": text, "q": spaced(rng, text), "v": name, "answer": found}


@draw
def linear_fraction(rng: Random, lang: str) -> Values:
    """The solution is a fraction, or the numbers are decimals."""
    name, a, b, c = letter(rng), rng.randint(2, 15), rng.randint(1, 50), rng.randint(1, 99)
    if rng.random() < 0.5:
        text, found = f"{a}{name}+{b}={c}", Fraction(c - b, a)
    else:
        tenths, add, found = Fraction(rng.randint(2, 99), 10), decimal(rng, 2, 1), Fraction(rng.randint(1, 200), 2)
        text = f"{plain(tenths)}{name}+{plain(add)}={plain(tenths * found + add)}"
    return {"e": text, "q": spaced(rng, text), "v": name, "answer": found}


@draw
def number_puzzle(rng: Random, lang: str) -> Values:
    x, k, b = (
        rng.choice([rng.randint(2, 50), whole(rng, 3)]),
        rng.randint(2, 12),
        rng.choice([whole(rng, 2), whole(rng, 3)]),
    )
    return {"k": k, "b": b, "c": k * x + b, "c_less": k * x - b, "c_of": k * (x + b), "answer": x}


@draw
def quadratic(rng: Random, lang: str) -> Values:
    name, roots = rng.choice("xxxxxyzt"), sorted(rng.sample(range(-15, 16), 2))
    form, a = rng.random(), rng.choice([1, 1, 1, 1, 2, 3])
    if form < 0.15:
        roots = [-abs(roots[0] or 4), abs(roots[0] or 4)]
        text = f"{name}^2={roots[1] ** 2}"
    elif form < 0.25 and 0 not in roots:
        text = "".join(f"({polynomial([1, -root], name)})" for root in rng.sample(roots, 2)) + "=0"
    elif form < 0.35:
        total, product = sum(roots), roots[0] * roots[1]
        text = f"{polynomial([1, -total, 0], name)}={-product}"
    else:
        numbers = [a, -a * (roots[0] + roots[1]), a * roots[0] * roots[1]]
        text = f"{polynomial(numbers, name)}=0"
    return {"e": text, "q": spaced(rng, text), "v": name, "answer": roots}


@draw
def quadratic_none(rng: Random, lang: str) -> Values:
    name, b = rng.choice("xxxxyzt"), rng.randint(-8, 8)
    text = f"{polynomial([1, b, b * b // 4 + rng.randint(1, 20)], name)}=0"
    return {
        "e": text,
        "q": spaced(rng, text),
        "v": name,
        "answer": {"zh": "没有实数解", "en": "no real solution"}[lang],
    }


@draw
def inequality(rng: Random, lang: str) -> Values:
    name, a, b, x = rng.choice("xxxxyt"), rng.randint(2, 9), rng.randint(1, 40), rng.randint(-20, 60)
    sign = rng.choice(["<", ">", "<=", ">="])
    text = f"{a}{name}+{b}{sign}{a * x + b}" if rng.random() < 0.6 else f"{a}{name}-{b}{sign}{a * x - b}"
    answer = f"{name}{sign}{x}" if "<" in sign else f"{x}{sign.replace('>', '<')}{name}"
    return {"e": text, "q": spaced(rng, text), "v": name, "answer": answer}


@draw
def system(rng: Random, lang: str) -> Values:
    names = rng.choice(["xy", "xy", "xy", "ab", "mn", "pq", "uv"])
    x, y = rng.randint(-9, 40), rng.randint(-9, 40)
    if rng.random() < 0.4:
        rows = [(1, 1), (1, -1)]
    else:
        rows = [(rng.randint(1, 9), rng.choice([-1, 1]) * rng.randint(1, 9)) for _ in range(2)]
        rows[1] = rows[1] if rows[0][0] * rows[1][1] != rows[0][1] * rows[1][0] else (rows[1][0] + 1, rows[1][1])
    sides = [polynomial([a, 0], names[0]) + ("+" if b > 0 else "") + polynomial([b, 0], names[1]) for a, b in rows]
    texts = [f"{side}={a * x + b * y}" for side, (a, b) in zip(sides, rows, strict=True)]
    shown = [spaced(rng, text) for text in texts]
    values = {"e": texts[0], "f": texts[1], "q": shown[0], "r": shown[1], "v": names[0], "w": names[1]}
    return {**values, "answer": [x, y]}


@draw
def heads_and_legs(rng: Random, lang: str) -> Values:
    birds, others = whole(rng, 3), whole(rng, 3)
    return {"heads": birds + others, "legs": 2 * birds + 4 * others, "answer": [birds, others]}


@draw
def two_prices(rng: Random, lang: str) -> Values:
    """Two things, their prices, how many in all and what they cost together."""
    low, high, first, second = rng.randint(1, 20), rng.randint(21, 90), whole(rng, 2), whole(rng, 2)
    values = {"p": low, "q": high, "n": first + second, "total": low * first + high * second}
    return {**values, "answer": [first, second]}


@draw
def sum_and_difference(rng: Random, lang: str) -> Values:
    small = whole(rng, 4)
    large = small + whole(rng, 3)
    return {"s": small + large, "d": large - small, "answer": [large, small]}


@draw
def sum_and_times(rng: Random, lang: str) -> Values:
    small, k = whole(rng, 3), rng.randint(2, 9)
    return {"s": small * (k + 1), "k": k, "answer": [small * k, small]}


# Arithmetic.


@draw
def add(rng: Random, lang: str) -> Values:
    a, b = rng.choice(
        [(whole(rng, 4), whole(rng, 4)), (whole(rng, 12), whole(rng, 12)), (whole(rng, 20, 5), whole(rng, 20, 5))]
    )
    return {"a": a, "b": b, "answer": a + b}


@draw
def subtract(rng: Random, lang: str) -> Values:
    values = add(rng, lang)
    a, b = values["a"], values["b"]
    a, b = (max(a, b), min(a, b)) if rng.random() < 0.8 else (a, b)
    return {"a": a, "b": b, "answer": a - b}


@draw
def multiply(rng: Random, lang: str) -> Values:
    a, b = rng.choice(
        [(whole(rng, 3), whole(rng, 3)), (whole(rng, 6), whole(rng, 6)), (whole(rng, 12), whole(rng, 10))]
    )
    return {"a": a, "b": b, "answer": a * b}


@draw
def divide(rng: Random, lang: str) -> Values:
    b, found = rng.choice([(whole(rng, 2), whole(rng, 3)), (whole(rng, 4), whole(rng, 6))])
    a = b * found if rng.random() < 0.8 else max(whole(rng, 4), 2)
    return {"a": a, "b": b, "answer": Fraction(a, b)}


@draw
def decimals(rng: Random, lang: str) -> Values:
    sign = rng.choice("+-*")
    a, b = decimal(rng, 4, 3), rng.choice([decimal(rng, 4, 3), Fraction(whole(rng, 3))])
    return {"a": a, "b": b, **signed(rng, sign, lang), "answer": operate(a, sign, b)}


@draw
def fractions(rng: Random, lang: str) -> Values:
    a, b, c, d = (rng.randint(1, 30) for _ in range(4))
    b, d, sign = b + 1, d + 1, rng.choice("+-*/")
    left, right = f"{a}/{b}", f"{c}/{d}"
    values = {"a": left, "b": right, "cb": f"({right})" if sign == "/" else right, **signed(rng, sign, lang)}
    return {**values, "answer": operate(Fraction(a, b), sign, Fraction(c, d))}


def signed(rng: Random, sign: str, lang: str) -> Values:
    """A sign for the call, as it is written and as it is said."""
    shown = {"+": "+", "-": "-", "*": rng.choice("××*x" if lang == "en" else "×××*"), "/": rng.choice("÷÷/")}[sign]
    spoken = {
        "zh": {"+": "加", "-": "减", "*": "乘以", "/": "除以"},
        "en": {"+": "plus", "-": "minus", "*": "times", "/": "divided by"},
    }[lang][sign]
    return {"sign": sign, "shown": shown, "said": spoken}


def operate(a: Any, sign: str, b: Any) -> Fraction:
    a, b = Fraction(a), Fraction(b)
    return a + b if sign == "+" else a - b if sign == "-" else a * b if sign == "*" else a / b


@draw
def chain(rng: Random, lang: str) -> Values:
    """Three to six numbers; products before sums."""
    count, most = rng.choice([3, 3, 4, 5, 6]), rng.choice([2, 3, 4])
    numbers, signs = [whole(rng, most) for _ in range(count)], [rng.choice("++--*") for _ in range(count - 1)]
    if rng.random() < 0.4:
        signs = ["+"] * (count - 1)
    text = str(numbers[0]) + "".join(sign + str(number) for sign, number in zip(signs, numbers[1:], strict=True))
    total, product = 0, numbers[0]
    for sign, number in zip(signs, numbers[1:], strict=True):
        if sign == "*":
            product *= number
        else:
            total, product = total + product, number if sign == "+" else -number
    return {"e": text, "q": spaced(rng, text), "answer": total + product}


@draw
def brackets(rng: Random, lang: str) -> Values:
    a, b, c, d = whole(rng, 3), whole(rng, 3), whole(rng, 2), whole(rng, 3)
    text, found = rng.choice(
        [
            (f"({a}+{b})*{c}", (a + b) * c),
            (f"{c}*({a}+{b})", c * (a + b)),
            (f"({a}-{b})*{c}+{d}", (a - b) * c + d),
            (f"({a}+{b})*({c}+{d})", (a + b) * (c + d)),
            (f"{a}-({b}-{c})", a - b + c),
            (f"({a}+{b})/{c}", Fraction(a + b, c)),
            (f"{a}*{b}-{c}*{d}", a * b - c * d),
        ]
    )
    return {"e": text, "q": spaced(rng, text).replace("/", rng.choice("/÷")), "answer": found}


@draw
def power(rng: Random, lang: str) -> Values:
    a, b = rng.choice(
        [
            (rng.randint(2, 99), 2),
            (rng.randint(2, 20), 3),
            (rng.randint(2, 12), rng.randint(2, 12)),
            (2, rng.randint(5, 100)),
        ]
    )
    return {"a": a, "b": b, "answer": a**b}


@draw
def root(rng: Random, lang: str) -> Values:
    found = rng.choice([rng.randint(2, 30), whole(rng, 3), whole(rng, 5)])
    return {"a": found**2, "answer": found}


@draw
def factorial(rng: Random, lang: str) -> Values:
    a = rng.randint(3, 30)
    return {"a": a, "answer": math.factorial(a)}


@draw
def remainder(rng: Random, lang: str) -> Values:
    a, b = whole(rng, 6, 2), whole(rng, 2) + 1
    return {"a": a, "b": b, "answer": a % b}


@draw
def common_divisor(rng: Random, lang: str) -> Values:
    k = rng.choice([rng.randint(2, 20), whole(rng, 3)])
    a, b = k * rng.randint(2, 30), k * rng.randint(2, 30)
    return {"a": a, "b": b, "answer": math.gcd(a, b)}


@draw
def common_multiple(rng: Random, lang: str) -> Values:
    a, b = rng.choice([rng.randint(2, 30), whole(rng, 3)]), rng.randint(2, 60)
    return {"a": a, "b": b, "answer": math.lcm(a, b)}


@draw
def rounding(rng: Random, lang: str) -> Values:
    a, places = Fraction(10 * whole(rng, 7, 5) + rng.randint(1, 9), 10**5), rng.randint(1, 3)
    return {"a": a, "b": places, "answer": Fraction(math.floor(a * 10**places + Fraction(1, 2)), 10**places)}


@draw
def divide_rounded(rng: Random, lang: str) -> Values:
    a, b, places = whole(rng, 4), rng.choice([3, 7, 9, 11, 13, 17, 19, 23, 29, whole(rng, 3, 2)]), rng.randint(1, 4)
    found = Fraction(math.floor(Fraction(a, b) * 10**places + Fraction(1, 2)), 10**places)
    return {"a": a, "b": b, "c": places, "answer": found}


@draw
def average(rng: Random, lang: str) -> Values:
    numbers = [whole(rng, 3, 1) for _ in range(rng.randint(2, 6))]
    numbers[-1] += -sum(numbers) % len(numbers)
    comma = rng.choice([", ", "，", "、", ","] if lang == "zh" else [", ", ", ", ","])
    values = {"list": comma.join(map(str, numbers)), "sum": "+".join(map(str, numbers)), "n": len(numbers)}
    return {**values, "answer": Fraction(sum(numbers), len(numbers))}


@draw
def small_words(rng: Random, lang: str) -> Values:
    """Numbers written as words."""
    words = {
        "zh": "零 一 二 三 四 五 六 七 八 九 十 十一 十二 十三 十四 十五 十六 十七 十八 十九 二十",
        "en": "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty",
    }[lang].split()
    a, b, sign = rng.randint(2, 20), rng.randint(2, 20), rng.choice("+-*")
    return {"a": a, "b": b, "wa": words[a], "wb": words[b], **signed(rng, sign, lang), "answer": operate(a, sign, b)}


# Comparisons.


def pair(rng: Random) -> tuple[str, str, Fraction, Fraction]:
    kind = rng.random()
    if kind < 0.55:  # such as 9.11 and 9.9
        head, one, two = whole(rng, rng.choice([1, 1, 2, 3])), str(rng.randint(1, 9)), str(rng.randint(10, 999))
        texts = rng.sample([f"{head}.{one}", f"{head}.{two}"], 2)
    elif kind < 0.75:
        texts = [f"{rng.randint(1, 20)}/{rng.randint(2, 21)}" for _ in range(2)]
    elif kind < 0.85:
        texts = [plain(-decimal(rng, 1, 2)) for _ in range(2)]
    else:
        texts = [str(whole(rng, 9, 4)) for _ in range(2)]
    a, b = map(Fraction, texts)
    return (*texts, a, b) if a != b else pair(rng)


@draw
def larger(rng: Random, lang: str) -> Values:
    left, right, a, b = pair(rng)
    return {"a": left, "b": right, "answer": max(a, b)}


@draw
def smaller(rng: Random, lang: str) -> Values:
    left, right, a, b = pair(rng)
    return {"a": left, "b": right, "answer": min(a, b)}


@draw
def largest(rng: Random, lang: str) -> Values:
    values = [decimal(rng, 1, 3) for _ in range(rng.choice([3, 3, 4]))]
    comma = rng.choice([", ", "，", "、"] if lang == "zh" else [", "])
    texts = list(map(plain, values))
    return {"list": comma.join(texts), "e": ",".join(texts), "answer": max(values)}


@draw
def is_larger(rng: Random, lang: str) -> Values:
    left, right, a, b = pair(rng)
    return {"a": left, "b": right, "answer": {"zh": ["不是", "是的"], "en": ["No", "Yes"]}[lang][a > b]}


@draw
def is_right(rng: Random, lang: str) -> Values:
    a, b, sign = whole(rng, 3), whole(rng, 3), rng.choice("+-*")
    said = operate(a, sign, b) + rng.choice([0, 0, 1, -1, 10, -10, rng.randint(1, 99)])
    right = said == operate(a, sign, b)
    values = {"a": a, "b": b, "c": said, **signed(rng, sign, lang)}
    return {**values, "answer": {"zh": ["不是", "是的"], "en": ["No", "Yes"]}[lang][right]}


# Algebra and calculus. Answers are compared as text, as SymPy writes it.


def as_sympy(numbers: Sequence[int], name: str) -> str:
    """`[2, -3, 1]` as 2*x**2 - 3*x + 1."""
    text = ""
    for exponent, number in zip(range(len(numbers) - 1, -1, -1), numbers, strict=True):
        if not number:
            continue
        factor = "" if exponent == 0 else name if exponent == 1 else f"{name}**{exponent}"
        digits = str(abs(number)) if abs(number) != 1 or not factor else ""
        sign = (" - " if number < 0 else " + ") if text else ("-" if number < 0 else "")
        text += sign + digits + ("*" if digits and factor else "") + factor
    return text or "0"


def written(numbers: Sequence[int], name: str) -> str:
    """`[2, -3, 1, 0]` as 2x^3-3x^2+x."""
    return as_sympy(numbers, name).replace("**", "^").replace("*", "").replace(" ", "")


def coefficients(rng: Random, most: int) -> list[int]:
    degree = rng.randint(2, most)
    return [rng.randint(1, 9), *(rng.choice([0, rng.randint(-9, 9)]) for _ in range(degree))]


@draw
def derivative(rng: Random, lang: str) -> Values:
    numbers = coefficients(rng, 4)
    degree = len(numbers) - 1
    found = [number * (degree - place) for place, number in enumerate(numbers[:-1])]
    return {"e": written(numbers, "x"), "q": spaced(rng, written(numbers, "x")), "answer": as_sympy(found, "x")}


@draw
def integral(rng: Random, lang: str) -> Values:
    numbers, low = coefficients(rng, 2), rng.randint(0, 3)
    high = low + rng.randint(1, 6)
    degree = len(numbers) - 1
    at = [sum(Fraction(c, degree - i + 1) * x ** (degree - i + 1) for i, c in enumerate(numbers)) for x in (low, high)]
    text = written(numbers, "x")
    return {"e": text, "q": spaced(rng, text), "low": low, "high": high, "answer": at[1] - at[0]}


@draw
def expand_product(rng: Random, lang: str) -> Values:
    a, b = rng.choice([-1, 1]) * rng.randint(1, 15), rng.choice([-1, 1]) * rng.randint(1, 15)
    text = f"({written([1, a], 'x')})({written([1, b], 'x')})"
    return {"e": text, "q": text, "answer": as_sympy([1, a + b, a * b], "x")}


@draw
def factor_product(rng: Random, lang: str) -> Values:
    a, b = sorted(rng.sample([n for n in range(-12, 13) if n], 2))
    text = written([1, a + b, a * b], "x")
    return {"e": text, "q": spaced(rng, text), "answer": "*".join(f"({as_sympy([1, n], 'x')})" for n in (a, b))}
