"""How problems for tools are really typed: sentences around them, slips, numbers in words. Only what is learnt from is treated so."""

from __future__ import annotations

import re
from random import Random

from tool_draws import Values

OPEN = {
    "zh": """你好，请问|请教一下：|求解：|老师问：|作业题：|应用题：|帮个忙，|在吗？|麻烦算一下：|快帮我看看：|有道题：|题目：|我不会这道题：
        |第1题：|第3题，|（2）|5. |问题：|好的，下一题：|再来一个：|那么|那|接下来，|你知道吗，|考考你：|急！|拜托，|用工具算：|请问nano，|小学题：|练习：""",
    "en": """hello, |hey nano, |could you help? |homework: |a question: |next one: |one more: |and |so, |then |ok, |now |exercise: |problem: |please help: |Q: |1. |(3) |task 2: |
        |my son asks: |the book asks: |quick: |can you tell me: |I need to know: |use a tool: |I am stuck: |let us see, |good morning, |for school: |excuse me, |tell me, """,
}
BEFORE = {
    "zh": """我在做作业。|孩子问了我一道题。|明天要考试了。|我数学不好。|帮我检查一下。|我正在复习。|这是课本上的题。|我们在买东西。|老师刚布置的。|我想了很久。
        |我和朋友打赌。|下面这题我不会。|别笑我。|今天学到这里。|我刚下班。|请认真算。|谢谢你刚才的帮助。|我忘了怎么做。""",
    "en": """I am doing my homework. |my child asked me this. |we have a test tomorrow. |I am bad at math. |please check this. |this is from my book. |we are shopping. |I thought about it for long.
        |I made a bet with a friend. |I do not know this one. |do not laugh. |I just came home. |please be exact. |thanks for your help before. |I forgot how to do it. """,
}
BEHIND = {
    "zh": "谢谢|谢谢！|多谢。|急用。|快点，谢谢|请给出答案。|只要结果。|请写过程。|拜托了！|我等着用。|辛苦了。|要准确。|麻烦了",
    "en": "thanks|Thanks!|thank you.|please|show the steps.|just the answer.|it is urgent.|be exact, please.|I am waiting.|thanks a lot!|pls|step by step.",
}
SLIPS = {"多少": "多小", "等于": "等與", "的": "得", "是多少": "是多少啊", "请问": "清问", "帮我": "帮帮我", "计算": "记算", "一共": "一供", "需要": "须要"}
_WORD = re.compile(r"\b[a-z]{5,}\b")
_DIGITS = "零一二三四五六七八九"
_ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen""".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


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


def choice(rng: Random, text: str) -> str:
    return rng.choice(re.sub(r"\n\s*", "", text).split("|"))


def around(rng: Random, text: str, language: str, kind: str) -> str:
    """The question with what people put before and behind it."""
    if rng.random() < 0.06 and kind not in ("units", "dates"):
        text = slip(rng, text, language)
    if language == "en" and rng.random() < 0.5:
        text = re.sub(r"(?<=[a-z\d][.?] )[a-z](?=[a-z])", lambda found: found[0].upper(), text)
    if rng.random() < 0.14:
        text = choice(rng, OPEN[language]) + text
    if rng.random() < 0.08:
        text = choice(rng, BEFORE[language]) + text
    if rng.random() < 0.08:
        joint = {"zh": rng.choice(["，", " "]), "en": " "}[language] if text[-1] not in "？?。.!" else " " * (language == "en")
        text += ("," if language == "en" and text[-1].isalnum() else "") + joint + choice(rng, BEHIND[language])
    return text


def slip(rng: Random, text: str, language: str) -> str:
    """One word written wrong."""
    if language == "zh":
        found = [word for word in SLIPS if word in text]
        return text.replace(word := rng.choice(found), SLIPS[word], 1) if found else text
    words = list(_WORD.finditer(text))
    if not words:
        return text
    word = rng.choice(words)
    at = rng.randrange(word.start() + 1, word.end() - 1)
    two = text[at : at + 2]
    return text[:at] + rng.choice([two[::-1], two[0], two[0] + two]) + text[at + 2 :]
