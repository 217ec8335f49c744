"""Dates as a tool: days between two, another date, weekdays, and the Chinese calendar by the package `borax`."""

from __future__ import annotations

import calendar
import datetime
import re
import unicodedata
from typing import Any

_DATE = r"(?:today|今天|(?:lunar|农历)?\s*\d{1,4}\s*[-/.年]\s*闰?\d{1,2}\s*[-/.月]\s*\d{1,2}\s*日?)"
_SPAN = r"(?P<count>\d{1,6})\s*(?P<unit>days?|天|日|weeks?|周|星期|months?|个?月|years?|年)(?:后|later)?"
_ASKED = re.compile(rf"\s*(?P<date>{_DATE})\s*(?:(?P<sign>[-+–−到至]|to)\s*(?:(?P<other>{_DATE})|{_SPAN}))?\s*", re.I)
_MONTHS = {"m": 1, "月": 1, "个": 1, "y": 12, "年": 12}
_WEEKDAYS = "一二三四五六日"


def date(expression: str) -> str:
    """Calculate with dates.

    expression: "2024-03-01 - 2024-02-01" or "2024年2月1日到2024年3月1日" (days between), "today + 100 days",
        "2024-01-31 - 1 month", "2024-03-01" (weekday, day of the year, date in the Chinese calendar),
        "lunar 2024-1-1" or "农历2024年闰4月1日" (a date of the Chinese calendar)
    """
    asked = _ASKED.fullmatch(unicodedata.normalize("NFKC", expression))
    if asked is None:
        raise ValueError(f"{expression[:100]!r} is not read; write 2024-03-01, A - B, or A + 10 days")
    first, sign = _read(asked["date"]), asked["sign"]
    if asked["other"]:
        days = (_read(asked["other"]) - first).days
        return f"{days if sign in ('到', '至', 'to') else -days} days"
    if sign in ("到", "至", "to", None):
        return _described(first)
    count = int(asked["count"]) * (1 if sign == "+" else -1)
    return _described(_moved(first, count, asked["unit"].lower()))


def _read(text: str) -> datetime.date:
    if text.lower() in ("today", "今天"):
        return datetime.date.today()
    year, month, day = map(int, re.findall(r"\d+", text))
    try:
        if not text.lower().startswith(("lunar", "农历")):
            return datetime.date(year, month, day)
        return _lunar().LunarDate(year, month, day, int("闰" in text)).to_solar_date()
    except ValueError as error:
        raise ValueError(f"{text.strip()!r} is no date: {error}") from None


def _moved(start: datetime.date, count: int, unit: str) -> datetime.date:
    """The last day of a month stands for days that it does not have."""
    try:
        if unit[0] not in _MONTHS:
            return start + datetime.timedelta(days=count * (7 if unit[0] in "w周星" else 1))
        years, month = divmod(start.year * 12 + start.month - 1 + count * _MONTHS[unit[0]], 12)
        return start.replace(year=years, month=month + 1, day=min(start.day, calendar.monthrange(years, month + 1)[1]))
    except (ValueError, OverflowError):
        raise ValueError("the years 1 to 9999 are known") from None


def _described(day: datetime.date) -> str:
    text = f"{day.isoformat()}, {day:%A}, 星期{_WEEKDAYS[day.weekday()]}, day {day.timetuple().tm_yday} of the year"
    try:
        lunar = _lunar().LunarDate.from_solar_date(day.year, day.month, day.day)
    except ValueError:  # no package, or a year outside 1900 to 2100, where its tables end
        return text
    return f"{text}, 农历{lunar.cn_str()}"


def _lunar() -> Any:
    try:
        from borax.calendars import lunardate
    except ImportError:
        raise ValueError(
            "the Chinese calendar needs a package; install it with: pip install 'openglm[tools]'"
        ) from None
    return lunardate
