"""Questions that a Chinese sentence answers: a part of it gives place to a question word, and the order stays.

From 大会于1997年9月12日在北京召开 come 大会什么时候在北京召开 and 大会在哪里召开. jieba says what is a name, a place, a number.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from functools import cache
from random import Random

from passage_english import Ask

_NUMBER = r"[\d一二三四五六七八九十百千两○〇]"
DATE = re.compile(
    rf"(?:于|自|从|在)?(?:(?:公元前?)?{_NUMBER}{{1,4}}年(?:初|底|末)?(?:{_NUMBER}{{1,2}}月(?:份|底|初)?)?(?:{_NUMBER}{{1,3}}日)?"
    rf"|{_NUMBER}{{1,2}}月{_NUMBER}{{1,3}}日|\d{{1,2}}日(?:上午|下午|晚)?|[今去明前]年(?:\d{{1,2}}月)?|[昨今明]天|[今昨]日)(?:前后|间|起)?(?!代|来|以|的|龄|度)"
)
_COUNT = re.compile(
    r"(?P<n>\d[\d.,]*(?:余|多)?[十百千万亿]*(?:余|多)?|[一二三四五六七八九十百千万]{2,}(?:余|多)?|[两三四五六七八九十])"
    r"(?P<m>个|人|名|元|公里|米|吨|家|种|次|年|岁|卷|篇|首|座|件|项|亩|公斤|平方米|户|条|辆|所|部|字节|位|分钟|小时|天)(?!月|人民|代|度)"
)
_PERCENT = re.compile(r"(?:百分之[\d.一二三四五六七八九十点]+|\d[\d.]*[%％])")
_VAGUE = re.compile(
    r"^(?:他|她|它|这|那|该|其|此|我|你|您|咱|本|同时|但|而|并|因|由|又|也|还|对|使|从|与|为|以|不|据|如|若|第|否则|然后|或|所|分别|预计|经过|即|选|添加|缺省|如|请|只|可|事|有|总|一|会谈|尽管|虽|不仅|特别)"
)
_ABOUT = (
    "说|表示|指出|强调|认为|要求|主持|会见|出席|担任|宣布|希望|率领|发表|介绍|作了|参加|代表|任|撰写|创作|夺得|获得"
)
_TOLD = re.compile(f"在.|于.|到.|{_ABOUT}")
_QUOTES = re.compile(r"[“”\"『』「」\[\]|<>{}]")


@cache
def _jieba():
    import jieba
    import jieba.posseg

    jieba.setLogLevel(logging.ERROR)
    return jieba.posseg


def asks(sentence: str) -> list[Ask]:
    """All questions that the patterns find for a sentence, which is their answer."""
    if not 9 <= len(sentence) <= 75 or sentence[-1] not in "。" or _QUOTES.search(sentence):
        return []
    found: dict[tuple[str, str], None] = {}
    pieces = re.split("[，；：]", sentence[:-1])
    for place, piece in enumerate(pieces):
        before = pieces[place - 1] if place else ""
        if len(piece) < 5 and before:
            piece = before + "，" + piece
        if not _VAGUE.match(piece) or DATE.match(piece):
            found |= dict.fromkeys(_of_piece(piece, before))
    return [
        Ask(question + "？", sentence, kind)
        for kind, question in found
        if (5 if kind == "what is" else 8) <= len(question) <= 34
        and not re.search("[（(][^）)]*$|^[^（(]*[）)]", question)
    ]


def _of_piece(piece: str, before: str) -> Iterator[tuple[str, str]]:
    yield from _of_dates(piece, before)
    counted = _COUNT.search(piece)
    if counted and not DATE.search(piece) and len(piece) - len(counted[0]) >= 4:
        asked = f"多少{counted['m']}" if counted["m"] != "个" or len(counted["n"]) > 1 else "几个"
        yield "how many", piece[: counted.start()] + asked + piece[counted.end() :]
    share = _PERCENT.search(piece)
    if share and len(piece) - len(share[0]) >= 4:
        yield "how many", piece[: share.start()] + "百分之多少" + piece[share.end() :]
    yield from _of_objects(piece)
    if len(piece) < 40 and _TOLD.search(piece):
        yield from _of_words(piece)
    reason = re.match("(?:因为|由于)(.{4,})", before)
    if reason:
        yield "why", f"为什么{piece.removeprefix('所以').removeprefix('因此')}"


def _of_dates(piece: str, before: str) -> Iterator[tuple[str, str]]:
    date = DATE.search(piece)
    if not date:
        return
    rest = piece[date.end() :]
    start = piece[: date.start()]
    if len(start) + len(rest) < 4:
        if before and not _VAGUE.match(before) and len(before) < 16:
            yield "when", f"{before}是什么时候"
        return
    if _VAGUE.match(start + rest) or rest[:1] in "的年至—～-":
        return
    year = re.fullmatch(r"(?:于|在)?(?:公元前?)?.{1,4}年", date[0]) and date[0][-2] not in "今去明前"
    for word in ("什么时候", "哪一年" if year else "何时"):
        yield "when", f"{start}{word}{rest}"
    yield "when", f"{start}{rest}是{'哪一年' if year else '什么时候'}"


def _of_words(piece: str) -> Iterator[tuple[str, str]]:
    """Of names, places, and what is or was made."""
    words = [(pair.word, pair.flag) for pair in _jieba().lcut(piece)]
    texts = [word for word, _ in words]
    for place, (word, flag) in enumerate(words):
        ahead, behind = "".join(texts[:place]), "".join(texts[place + 1 :])
        if flag == "nr" and len(word) > 1 and re.match(f"(?:先生|同志)?(?:{_ABOUT})", behind):
            title = re.search(r"[^，]{2,14}$", ahead)
            yield "who", "谁" + behind
            if title and len(behind) < 4:
                yield "who", f"{ahead}是谁"
        if flag in ("nt", "nz") and place == 0 and len(behind) > 5 and words[1][1].startswith(("v", "d")):
            yield "who", f"{'哪个机构' if flag == 'nt' else '什么'}{behind}"
        if flag == "ns" and place and texts[place - 1] in ("在", "于", "到", "位于"):
            end = place + 1
            while end < len(words) and words[end][1] in ("ns", "n", "nt", "f", "nz", "s"):
                end += 1
            left = "".join(texts[:place])
            if len(left) + len("".join(texts[end:])) >= 5 and not DATE.match(left):
                yield "where", f"{left}{'哪里' if end == place + 1 else '什么地方'}{''.join(texts[end:])}"


def _of_objects(piece: str) -> Iterator[tuple[str, str]]:
    thing = re.fullmatch(r"([^是，]{2,12})是([^是]{4,})", piece)
    if thing and not thing[1].endswith(
        (
            "不",
            "都",
            "就",
            "也",
            "还",
            "的",
            "但",
            "只",
            "更",
            "正",
            "便",
            "乃",
            "可",
            "应当",
            "主要",
            "很",
            "不仅",
            "特别",
            "尤其",
            "首先",
            "总",
        )
    ):
        yield "what is", f"{thing[1]}是什么"
        yield "what is", f"什么是{thing[1]}" if len(thing[1]) < 7 else f"{thing[1]}指什么"
    done = re.fullmatch(r"([^了，]{4,16})了([^了]{4,})", piece)
    if done:
        yield "what", f"{done[1]}了什么"
    made = re.fullmatch(
        r"(.{2,14}(?:包括|称为|叫做|属于|来自|位于|取决于|提供|需要|支持|使用|返回|显示|表示|用于|用来|允许|定义|指定|生成|创建|具有|包含|分为))(.{3,})",
        piece,
    )
    if made:
        yield ("where", f"{made[1]}哪里") if made[1].endswith(("位于", "来自")) else ("what", f"{made[1]}什么")


# How it may be put.

_LEADS = ("请问，", "请问", "我想知道", "你知道", "根据资料，", "资料里说，", "帮我查一下，", "想问一下，", "问一下：")


def worded(rng: Random, question: str) -> str:
    """The question as someone might type it."""
    question = question.removesuffix("？")
    if rng.random() < 0.14:
        question = rng.choice(_LEADS) + question
    if rng.random() < 0.1:
        question = question.replace("什么时候", rng.choice(["何时", "啥时候", "哪天"])).replace("哪里", "哪儿")
    if rng.random() < 0.12:
        question = question.replace("，", "")
    return question + rng.choices(["？", "?", ""], [70, 12, 18])[0]
