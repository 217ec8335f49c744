"""More draws of tool_draws.py: what stands in a story, a shape, a unit or a date."""

from __future__ import annotations

import datetime
import re
from fractions import Fraction
from random import Random

from tool_draws import Values, decimal, draw, plain, whole

# Pairs of times whose rates, added or taken off each other, make a whole time.
TOGETHER = [(a, b) for a in range(2, 61) for b in range(2, 61) if a != b and a * b % (a + b) == 0]
AGAINST = [(a, b) for a in range(2, 41) for b in range(a + 1, 61) if a * b % (b - a) == 0]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


# Percentages and ratios.


@draw
def percent_of(rng: Random, lang: str) -> Values:
    p = rng.choice(
        [5, 10, 12, 15, 18, 20, 25, 30, 35, 40, 45, 60, 70, 75, 80, 85, 90, rng.randint(1, 99), rng.randint(1, 99)]
    )
    shown = Fraction(2 * p + 1, 2) if rng.random() < 0.1 else Fraction(p)
    n = whole(rng, 5, 2)
    return {"p": shown, "n": n, "answer": n * shown / 100}


@draw
def percent_more(rng: Random, lang: str) -> Values:
    n, p = whole(rng, 5, 2), rng.choice([5, 10, 15, 20, 25, 30, 40, 50, rng.randint(1, 99)])
    return {"p": p, "n": n, "answer": n * (1 + Fraction(p, 100))}


@draw
def percent_less(rng: Random, lang: str) -> Values:
    values = percent_more(rng, lang)
    return {**values, "answer": values["n"] * (1 - Fraction(values["p"], 100))}


@draw
def which_percent(rng: Random, lang: str) -> Values:
    p, n = rng.randint(1, 99), 100 * whole(rng, 2) // rng.choice([1, 2, 4, 5])
    n = n if n * p % 100 == 0 else n * 100
    return {"a": n * p // 100, "b": n, "answer": p}


@draw
def percent_change(rng: Random, lang: str) -> Values:
    p, n = rng.randint(1, 90), rng.choice([20, 40, 50, 80, 100, 200, 400, 500, 1000, 2000]) * rng.randint(1, 9)
    n = n if n * p % 100 == 0 else n * 5 if n * p % 20 == 0 else n * 100
    return {"a": n, "up": n + n * p // 100, "down": n - n * p // 100, "answer": p}


@draw
def before_percent(rng: Random, lang: str) -> Values:
    n, p = 10 * whole(rng, 3), rng.choice([10, 20, 30, 40, 50, 60])
    values = {"p": p, "up": n + n * p // 100, "down": n - n * p // 100}
    return {**values, "answer": n}


@draw
def discount(rng: Random, lang: str) -> Values:
    """Of a price: Chinese shops say what is left of it in tenths (8折, 85折), others what is taken off."""
    price, left = rng.choice([whole(rng, 4, 2), decimal(rng, 3, 2)]), rng.choice([5, 6, 7, 8, 9, 65, 75, 85, 88, 95])
    share = Fraction(left, 10 if left < 10 else 100)
    return {"n": Fraction(price), "z": left, "t": share, "off": plain((1 - share) * 100), "answer": price * share}


@draw
def interest(rng: Random, lang: str) -> Values:
    n, p, years = 100 * whole(rng, 3), Fraction(rng.randint(2, 18), rng.choice([2, 4])), rng.randint(1, 10)
    return {"n": n, "p": p, "y": years, "answer": n * p * years / 100}


@draw
def solution(rng: Random, lang: str) -> Values:
    p, total = rng.randint(1, 60), rng.choice([100, 200, 250, 400, 500, 1000, 2000, 50])
    salt = Fraction(total * p, 100)
    total, salt = (total, salt) if salt.denominator == 1 else (total * 2, salt * 2)
    return {"salt": salt, "water": total - salt, "total": total, "answer": p}


@draw
def share_out(rng: Random, lang: str) -> Values:
    a, b, part = rng.randint(1, 12), rng.randint(1, 12), whole(rng, 3)
    a = a + 1 if a == b else a
    return {"a": a, "b": b, "n": (a + b) * part, "answer": a * part}


@draw
def proportion(rng: Random, lang: str) -> Values:
    a, c, k = rng.randint(2, 20), rng.randint(2, 60), rng.randint(2, 15)
    return {"a": a, "b": c, "c": a * k, "answer": c * k}


@draw
def unit_price(rng: Random, lang: str) -> Values:
    """So many cost so much; what do others cost?"""
    n, price, m = rng.randint(2, 20), rng.randint(2, 90), rng.randint(2, 60)
    return {"n": n, "total": n * price, "m": m + 1 if m == n else m, "answer": price * (m + 1 if m == n else m)}


@draw
def map_scale(rng: Random, lang: str) -> Values:
    scale, length = (
        rng.choice([100, 200, 500, 1000, 5000, 10000, 50000, 100000]),
        rng.choice([whole(rng, 2), decimal(rng, 1, 1)]),
    )
    return {"s": scale, "n": Fraction(length), "answer": Fraction(length) * scale / 100}


# Speed, work, age.


@draw
def motion(rng: Random, lang: str) -> Values:
    v, t = rng.choice([rng.randint(3, 20), rng.randint(30, 120), whole(rng, 3, 2)]), rng.randint(2, 24)
    return {"v": v, "t": t, "s": v * t, "answer": v * t}


@draw
def motion_time(rng: Random, lang: str) -> Values:
    values = motion(rng, lang)
    return {**values, "answer": values["t"]}


@draw
def motion_speed(rng: Random, lang: str) -> Values:
    values = motion(rng, lang)
    return {**values, "answer": values["v"]}


@draw
def meeting(rng: Random, lang: str) -> Values:
    v, w, t = rng.randint(3, 120), rng.randint(3, 120), rng.randint(2, 15)
    return {"v": v, "w": w, "s": (v + w) * t, "answer": t}


@draw
def catching_up(rng: Random, lang: str) -> Values:
    w, more, t = rng.randint(3, 90), rng.randint(1, 60), rng.randint(2, 20)
    return {"v": w + more, "w": w, "s": more * t, "answer": t}


@draw
def train_bridge(rng: Random, lang: str) -> Values:
    v, t = rng.randint(10, 60), rng.randint(10, 90)
    train = rng.randint(5, max(6, v * t // 20)) * 10 // 2
    return {"train": train, "bridge": v * t - train, "v": v, "answer": t}


@draw
def average_speed(rng: Random, lang: str) -> Values:
    t, u = rng.randint(1, 6), rng.randint(1, 6)
    v = rng.randint(5, 90)
    s = rng.randint(1, v * (t + u) - 1)
    return {"s": s, "r": v * (t + u) - s, "t": t, "u": u, "answer": v}


@draw
def work_together(rng: Random, lang: str) -> Values:
    a, b = rng.choice(TOGETHER)
    return {"a": a, "b": b, "answer": a * b // (a + b)}


@draw
def in_and_out(rng: Random, lang: str) -> Values:
    a, b = rng.choice(AGAINST)
    return {"a": a, "b": b, "answer": a * b // (b - a)}


@draw
def more_workers(rng: Random, lang: str) -> Values:
    n, m, k = rng.randint(2, 20), rng.randint(2, 20), rng.randint(1, 6)
    m = m + 1 if m == n else m
    return {"n": n, "t": m * k, "m": m, "answer": n * k}


@draw
def rate(rng: Random, lang: str) -> Values:
    each, t = whole(rng, 3), rng.randint(2, 48)
    return {"v": each, "t": t, "s": each * t, "answer": each * t}


@draw
def days_left(rng: Random, lang: str) -> Values:
    each, done, rest = rng.randint(5, 200), rng.randint(2, 20), rng.randint(2, 30)
    return {"s": each * (done + rest), "v": each, "t": done, "answer": rest}


@draw
def age_times(rng: Random, lang: str) -> Values:
    """In some years the older one is so many times as old."""
    k = rng.choice([2, 2, 3, 4, 5])
    child_then = rng.randint(4, 30 if k == 2 else 16)
    years = rng.randint(1, child_then - 2)
    return {"m": k * child_then - years, "c": child_then - years, "k": k, "answer": years}


@draw
def age_ago(rng: Random, lang: str) -> Values:
    k, child_then = rng.choice([3, 4, 5, 6, 7]), rng.randint(2, 9)
    years = rng.randint(1, 12)
    return {"m": k * child_then + years, "c": child_then + years, "k": k, "answer": years}


@draw
def age_sum(rng: Random, lang: str) -> Values:
    young, gap = rng.randint(3, 40), rng.randint(2, 35)
    return {"s": 2 * young + gap, "d": gap, "answer": young}


@draw
def age_now(rng: Random, lang: str) -> Values:
    young, k = rng.randint(3, 15), rng.randint(2, 7)
    return {"s": young * (k + 1), "k": k, "answer": young}


@draw
def age_later(rng: Random, lang: str) -> Values:
    age, years = rng.randint(3, 80), rng.randint(2, 40)
    return {"a": age, "y": years, "answer": age + years}


@draw
def born(rng: Random, lang: str) -> Values:
    year, age = rng.randint(1900, 2020), rng.randint(1, 90)
    return {"a": year, "b": year + age, "answer": age}


# Everyday problems, shapes.


@draw
def plus(rng: Random, lang: str) -> Values:
    a, b = (whole(rng, 4) + 1 for _ in range(2))
    return {"a": a, "b": b, "answer": a + b}


@draw
def minus(rng: Random, lang: str) -> Values:
    b = whole(rng, 4) + 1
    a = b + whole(rng, 4) + 1
    return {"a": a, "b": b, "answer": a - b}


@draw
def times(rng: Random, lang: str) -> Values:
    a, b = whole(rng, 3) + 1, whole(rng, 2) + 1
    return {"a": a, "b": b, "answer": a * b}


@draw
def parts(rng: Random, lang: str) -> Values:
    b, each = whole(rng, 2) + 1, whole(rng, 3) + 1
    return {"a": b * each, "b": b, "answer": each}


@draw
def price_times(rng: Random, lang: str) -> Values:
    a, b = Fraction(whole(rng, 4, 2), rng.choice([1, 1, 10])), rng.randint(2, 40)
    return {"a": a, "b": b, "answer": a * b}


@draw
def change(rng: Random, lang: str) -> Values:
    price, n = rng.choice([Fraction(rng.randint(2, 40)), Fraction(rng.randint(11, 99), 10)]), rng.randint(2, 9)
    paid = rng.choice([paid for paid in (50, 100, 200, 500) if paid > price * n])
    return {"p": price, "n": n, "paid": paid, "answer": paid - price * n}


@draw
def two_kinds(rng: Random, lang: str) -> Values:
    p, n, q, m = rng.randint(1, 60), rng.randint(2, 30), rng.randint(1, 60), rng.randint(2, 30)
    return {"p": p, "n": n, "q": q, "m": m, "answer": p * n + q * m}


@draw
def plus_minus(rng: Random, lang: str) -> Values:
    a, b = whole(rng, 3) + 5, whole(rng, 3) + 1
    c = rng.randint(1, a)
    return {"a": a, "b": b, "c": c, "answer": a - c + b}


@draw
def rectangle(rng: Random, lang: str) -> Values:
    a, b = rng.choice(
        [(whole(rng, 2), whole(rng, 2)), (whole(rng, 3), whole(rng, 3)), (decimal(rng, 2, 1), decimal(rng, 2, 1))]
    )
    return {"a": a, "b": b, "answer": a * b}


@draw
def perimeter(rng: Random, lang: str) -> Values:
    values = rectangle(rng, lang)
    return {**values, "answer": 2 * (values["a"] + values["b"])}


@draw
def square(rng: Random, lang: str) -> Values:
    a = whole(rng, 3)
    return {"a": a, "answer": a * a}


@draw
def triangle(rng: Random, lang: str) -> Values:
    a, h = whole(rng, 2), 2 * whole(rng, 2)
    return {"a": a, "h": h, "answer": a * h // 2}


@draw
def circle(rng: Random, lang: str) -> Values:
    r = whole(rng, 2)
    return {"r": r, "answer": Fraction(314, 100) * r * r}


@draw
def circumference(rng: Random, lang: str) -> Values:
    r = whole(rng, 2)
    return {"r": r, "answer": 2 * Fraction(314, 100) * r}


@draw
def cuboid(rng: Random, lang: str) -> Values:
    a, b, c = (whole(rng, 2) for _ in range(3))
    return {"a": a, "b": b, "c": c, "answer": a * b * c}


@draw
def hypotenuse(rng: Random, lang: str) -> Values:
    a, b, c = rng.choice([(3, 4, 5), (5, 12, 13), (8, 15, 17), (7, 24, 25), (20, 21, 29), (9, 40, 41)])
    k = rng.randint(1, 12)
    return {"a": a * k, "b": b * k, "answer": c * k}


# Units and dates.

UNITS = {  # from, to, factor
    "zh": """千米 米 1000|公里 米 1000|米 厘米 100|米 分米 10|厘米 毫米 10|吨 千克 1000|千克 克 1000|公斤 斤 2|斤 两 10
        小时 分钟 60|分钟 秒 60|天 小时 24|周 天 7|升 毫升 1000|立方米 升 1000|公顷 平方米 10000|平方千米 公顷 100
        亩 平方米 2000/3|英里 公里 1.609344|英尺 厘米 30.48|英寸 厘米 2.54|磅 千克 0.45359237|码 米 0.9144
        海里 公里 1.852|m/s km/h 3.6""",
    "en": """km m 1000|kilometers meters 1000|m cm 100|meters centimeters 100|cm mm 10|tonnes kg 1000|kg g 1000|g mg 1000
        kilograms grams 1000|hours minutes 60|minutes seconds 60|days hours 24|weeks days 7|liters ml 1000|L mL 1000
        miles km 1.609344|miles kilometers 1.609344|feet cm 30.48|inches cm 2.54|pounds kg 0.45359237|yards meters 0.9144
        ounces grams 28.349523125|gallons liters 3.785411784|acres hectares 0.40468564224|feet inches 12
        mph km/h 1.609344|m/s km/h 3.6""",
}


@draw
def units(rng: Random, lang: str) -> Values:
    u, w, number = rng.choice(re.split(r"[|\n]", UNITS[lang])).split()
    factor, n = Fraction(number), rng.choice([Fraction(whole(rng, 4)), decimal(rng, 2, 2)])
    if rng.random() < 0.4:
        u, w, factor = w, u, 1 / factor
    return {"n": n, "u": u, "w": w, "answer": n * factor}


@draw
def temperature(rng: Random, lang: str) -> Values:
    celsius = Fraction(rng.randint(-40, 120)) if rng.random() < 0.7 else Fraction(rng.randint(-100, 500), 10)
    return {"n": celsius, "answer": celsius * 9 / 5 + 32}


@draw
def temperature_back(rng: Random, lang: str) -> Values:
    celsius = rng.randint(-8, 24) * 5
    return {"n": celsius * 9 // 5 + 32, "answer": celsius}


def dated(day: datetime.date, rng: Random, lang: str) -> tuple[str, str]:
    """As it is asked, and as the tool reads it."""
    digits = f"{day.year}-{day.month}-{day.day}"
    if lang == "zh":
        shown = f"{day.year}年{day.month}月{day.day}{rng.choice('日日号')}"
    else:
        month = MONTHS[day.month - 1]
        shown = rng.choice([f"{month} {day.day}, {day.year}", f"{day.day} {month} {day.year}"])
    return (day.isoformat(),) * 2 if rng.random() < 0.3 else (shown, digits)


def a_day(rng: Random) -> datetime.date:
    return datetime.date(1950, 1, 1) + datetime.timedelta(days=rng.randrange(36500))


@draw
def days_between(rng: Random, lang: str) -> Values:
    first = a_day(rng)
    days = rng.choice([rng.randint(5, 400), rng.randint(100, 9000)])
    (a, ca), (b, cb) = dated(first, rng, lang), dated(first + datetime.timedelta(days=days), rng, lang)
    return {"a": a, "ca": ca, "b": b, "cb": cb, "answer": days}


@draw
def days_after(rng: Random, lang: str) -> Values:
    first, days = a_day(rng), whole(rng, 4)
    a, ca = dated(first, rng, lang)
    return {"a": a, "ca": ca, "n": days, "answer": (first + datetime.timedelta(days=days)).isoformat()}


@draw
def days_before(rng: Random, lang: str) -> Values:
    first, days = a_day(rng), whole(rng, 3)
    a, ca = dated(first, rng, lang)
    return {"a": a, "ca": ca, "n": days, "answer": (first - datetime.timedelta(days=days)).isoformat()}


@draw
def weekday(rng: Random, lang: str) -> Values:
    day = a_day(rng)
    a, ca = dated(day, rng, lang)
    return {"a": a, "ca": ca, "answer": f"星期{'一二三四五六日'[day.weekday()]}" if lang == "zh" else f"{day:%A}"}
