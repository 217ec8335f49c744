"""Small functions on text that the chat data, its test and the chat probe share. Standard library alone."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from random import Random

HAN = "\u3400-\u9fff"
_CHOICE = re.compile(r"\(((?:[^()|]|\([^()|]*\))*\|(?:[^()]|\([^()|]*\))*)\)")
_QUESTION_ZH = re.compile(
    r"什么|吗$|么$|谁|哪|几|多少|怎|啥|如何|是不是|会不会|能不能|有没有|好不好|不$|何|多大|多高|呢$"
)
_QUESTION_EN = re.compile(
    r"^(who|what|where|when|why|how|which|whose|are|is|am|do|does|did|can|could|will|would|should|shall|may|have|has|was|were|by whom)\b",
    re.I,
)
_PARTICLE = re.compile(r"[吗呢吧么呀啊了嘛啦哦的喽]$")


@cache
def expand(pattern: str) -> list[str]:
    """All readings of a pattern with (a|b|) choices, which may nest; (a) is text. `expand("(a|)b")` is `["ab", "b"]`."""
    found = _CHOICE.search(pattern)
    if not found:
        return [re.sub(" +", " ", pattern).strip()]
    return list(
        dict.fromkeys(
            text
            for choice in found[1].split("|")
            for text in expand(pattern[: found.start()] + choice + pattern[found.end() :])
        )
    )


def reading(rng: Random, pattern: str) -> str:
    """One reading of a pattern, which may have too many to list."""
    while found := _CHOICE.search(pattern):
        pattern = pattern[: found.start()] + rng.choice(found[1].split("|")) + pattern[found.end() :]
    return re.sub(" +", " ", pattern).strip()


def key(text: str) -> str:
    """What two requests share if they differ in punctuation, blanks, width and case alone."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).lower())


def is_chinese(text: str) -> bool:
    """Whether Han characters outweigh Latin words."""
    return len(re.findall(f"[{HAN}]", text)) > len(re.findall(r"[A-Za-z]+", text))


def half_lines(text: str) -> list[str]:
    """A poem's lines (half couplets), without punctuation."""
    return [part for part in re.split(r"[\s，。？！；、,.?!;：:]+", text) if part]


def metre(text: str) -> int:
    """5 or 7 if every line of the poem has that many Han characters and nothing else, otherwise 0."""
    halves = half_lines(text)
    for width in (5, 7):
        if halves and all(re.fullmatch(f"[{HAN}]{{{width}}}", half) for half in halves):
            return width
    return 0


def fills(sentence: str, answer: str, mark: str) -> bool:
    """Whether `answer` is `sentence` with something short in place of `mark`; ends and blanks at the ends do not count."""
    before, after = (part.strip(" \n.。!！?？") for part in sentence.split(mark, 1))
    answer = answer.strip(" \n.。!！?？")
    middle = answer[len(before) : len(answer) - len(after) or None].strip()
    return (
        answer.startswith(before)
        and answer.endswith(after)
        and 0 < len(middle) <= 24
        and mark not in answer
        and len(answer) > len(before) + len(after)
    )


# How people type.


def say(rng: Random, text: str, lang: str, *, lead: bool = True) -> str:
    """A hand-written line as someone might type it: with or without punctuation, a word before it, capitals, a slip."""
    return _say_zh(rng, text, lead) if lang == "zh" else _say_en(rng, text, lead)


def _say_zh(rng: Random, text: str, lead: bool) -> str:
    question = bool(_QUESTION_ZH.search(text))
    if rng.random() < 0.08 and "您" not in text:
        text = text.replace("你", "您")
    if question and lead and rng.random() < 0.15:
        text = (
            rng.choice(
                [
                    "请问，",
                    "请问",
                    "你好，",
                    "您好，",
                    "嗨，",
                    "那",
                    "那么，",
                    "嗯，",
                    "nano，",
                    "我想知道",
                    "我想问一下，",
                    "喂，",
                    "话说，",
                    "对了，",
                ]
            )
            + text
        )
    if text[-1:] in "？?！!。.~）":
        return text
    if question:
        particle = rng.choice(["呀", "呢", "啊"]) if rng.random() < 0.15 and not _PARTICLE.search(text) else ""
        return text + particle + rng.choices(["？", "?", "", "？？"], [55, 15, 28, 2])[0]
    return text + rng.choices(["", "。", "！", "~", "!"], [45, 25, 20, 4, 6])[0]


def _say_en(rng: Random, text: str, lead: bool) -> str:
    question = bool(_QUESTION_EN.search(text))
    if question and lead and rng.random() < 0.12:
        text = (
            rng.choice(
                [
                    "hi, ",
                    "hello, ",
                    "hey, ",
                    "so, ",
                    "nano, ",
                    "ok, ",
                    "well, ",
                    "excuse me, ",
                    "by the way, ",
                    "I wonder, ",
                    "please tell me, ",
                ]
            )
            + text
        )
    if rng.random() < 0.04 and len(text) > 8:
        text = _slip(rng, text)
    style = rng.random()
    if style < 0.55:
        text = text[:1].upper() + text[1:]
    elif style < 0.75:
        text = text.lower()
    if rng.random() < 0.06:
        text = text.replace("'", "")
    if text[-1:] in "?!.":
        return text
    return text + (
        rng.choices(["?", "", "??"], [66, 32, 2])[0] if question else rng.choices(["", ".", "!"], [45, 35, 20])[0]
    )


def _slip(rng: Random, text: str) -> str:
    """Two neighbours change places, or a letter is lost."""
    at = rng.randrange(1, len(text) - 2)
    if not text[at : at + 2].isalpha():
        return text
    return text[:at] + (text[at + 1] + text[at] if rng.random() < 0.5 else text[at + 1]) + text[at + 2 :]
