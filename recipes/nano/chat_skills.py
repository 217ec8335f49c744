"""The skills of nano's chat data: each function makes one exchange (or one conversation) from hand-written lines and real records.

An exchange is a list of (user, assistant) pairs. Every choice comes from the `Random` that is handed in. The forms of requests are many, the form of the answer
is one for each skill: a model of a few million parameters learns an answer's shape quickly if it never varies.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

from chat_records import Gap, Poem, Records
from chat_text import expand, say

Exchange = list[tuple[str, str]]
HERE = Path(__file__).parent
MARKS = {
    "zh": ["___", "___", "____", "_____", "______", "（　）", "（）", "( )", "__"],
    "en": ["___", "___", "____", "_____", "______", "[blank]", "__", "( )"],
}
FORMS = {
    (5, 2): (
        ["五言绝句", "五绝", "五言诗", "五言古诗", "五言小诗"],
        ["five-character quatrain", "quatrain with five characters a line"],
    ),
    (7, 2): (
        ["七言绝句", "七绝", "七言诗", "七言古诗", "七言小诗"],
        ["seven-character quatrain", "quatrain with seven characters a line"],
    ),
    (5, 4): (["五言律诗", "五律"], ["five-character regulated verse", "five-character poem of eight lines"]),
    (7, 4): (["七言律诗", "七律"], ["seven-character regulated verse", "seven-character poem of eight lines"]),
}
ANY_FORM = (
    ["诗", "古诗", "小诗", "绝句", "短诗", "唐诗", "诗歌"],
    ["poem", "short poem", "quatrain", "classical poem"],
)


@dataclass
class Lines:
    """The hand-written files, with their choices expanded."""

    intents: list[dict[str, Any]]
    dialogues: list[dict[str, Any]]
    echoes: list[dict[str, Any]]
    memory: dict[str, dict[str, list[str]]]
    filter: dict[str, list[str]]
    tables: list[dict[str, Any]]
    words: list[str]
    facts: dict[str, list[list[str]]]
    names: dict[str, list[str]]
    topics: dict[str, list[str]]
    forms: dict[str, dict[str, list[str]]]


def read_lines(folder: Path = HERE) -> Lines:
    def load(name: str) -> dict[str, Any]:
        return tomllib.loads((folder / name).read_text(encoding="utf-8"))

    talk, facts = load("chat_dialogues.toml"), load("chat_facts.toml")
    intents = [
        {"skill": "smalltalk"} | intent
        for name in ("chat_lines.toml", "chat_smalltalk.toml")
        for intent in load(name)["intent"]
    ]
    for item in (*intents, *talk["echo"], *facts["table"]):
        item["asks"] = [text for ask in item["asks"] for text in expand(ask)]
    for part in talk["memory"].values():
        part["tell"], part["ask"] = ([text for ask in part[name] for text in expand(ask)] for name in ("tell", "ask"))
    return Lines(
        intents,
        talk["dialogue"],
        talk["echo"],
        talk["memory"],
        talk["filter"],
        facts["table"],
        facts["words"]["list"],
        facts["facts"],
        facts["names"],
        facts["topics"],
        facts["forms"],
    )


def fill(form: str, **values: str) -> str:
    for name, text in ({"n": "\n"} | values).items():
        form = form.replace(f"<{name}>", text)
    return form


class Skills:
    """Lines and records, ready to draw from."""

    def __init__(self, lines: Lines, records: Records) -> None:
        self.lines, self.records = lines, records

    def form(self, rng: Random, name: str, lang: str) -> str:
        """A pattern, then one of its readings: a pattern with many readings is not more usual for that. English may begin with a capital."""
        text = rng.choice(expand(rng.choice(self.lines.forms[name][lang])))
        return text[:1].upper() + text[1:] if rng.random() < 0.6 else text

    # Hand-written talk.

    def intent(self, rng: Random, lang: str, skill: str) -> Exchange:
        """Intents that can be said in more ways come more often, but not in proportion; the plainest ways stand first and come more often."""
        intents, weights = self._intents[lang, skill]
        intent = rng.choices(intents, weights)[0]
        ask = intent["asks"][int(len(intent["asks"]) * rng.random() ** 1.5)]
        return [(say(rng, ask, lang, lead=skill != "smalltalk"), rng.choice(intent["answers"]))]

    @cached_property
    def _intents(self) -> dict[tuple[str, str], tuple[list[dict[str, Any]], list[float]]]:
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for intent in self.lines.intents:
            groups.setdefault((intent["lang"], intent["skill"]), []).append(intent)
        return {
            group: (intents, [len(intent["asks"]) ** 0.5 for intent in intents]) for group, intents in groups.items()
        }

    def dialogue(self, rng: Random, lang: str) -> Exchange:
        turns = rng.choice([d["turns"] for d in self.lines.dialogues if d["lang"] == lang])
        asks = [say(rng, rng.choice(expand(turn)), lang, lead=False) for turn in turns[::2]]
        return list(zip(asks, turns[1::2], strict=True))

    def echo(self, rng: Random, lang: str) -> Exchange:
        echo = rng.choice([e for e in self.lines.echoes if e["lang"] == lang])
        value = rng.choice(echo["values"])
        answer = fill(rng.choice(echo["answers"]), x=value)
        return [(say(rng, fill(rng.choice(echo["asks"]), x=value), lang), answer[:1].upper() + answer[1:])]

    def memory(self, rng: Random, lang: str) -> Exchange:
        """The name that the user gave is asked for, at once or a little later; or it was never given."""
        lines, name = self.lines.memory[lang], rng.choice(self.lines.names[lang])
        ask = (say(rng, rng.choice(lines["ask"]), lang, lead=False), fill(lines["answer"][0], x=name))
        if rng.random() < 0.12:
            return [(ask[0], lines["unknown"][0])]
        tell = (say(rng, fill(rng.choice(lines["tell"]), x=name), lang, lead=False), fill(lines["hello"][0], x=name))
        between = [pair for _ in range(rng.choice([0, 0, 1, 1, 2])) for pair in self.intent(rng, lang, "smalltalk")]
        return [tell, *between] + [ask] * (rng.random() < 0.8)

    def repeat(self, rng: Random, lang: str) -> Exchange:
        text = rng.choice(self.records.pairs)[0 if lang == "zh" else 1]
        return [(fill(self.form(rng, "repeat", lang), x=text), text)]

    def conversation(self, rng: Random, lang: str) -> Exchange:
        """A window of a conversation between people. It opens with a question, and its second speaker claims no life of a person."""
        lines, start = rng.choice(self._openings)
        turns = min(len(lines) - start, rng.choice([2, 2, 4, 4, 6, 8])) // 2 * 2
        window = lines[start : start + turns]
        return list(zip(window[::2], window[1::2], strict=True))

    @cached_property
    def _openings(self) -> list[tuple[list[str], int]]:
        claims = re.compile(r"\b(?:" + "|".join(self.lines.filter["claims"]) + r")\b", re.I)
        out = []
        for lines in self.records.conversations:
            good = [not claims.search(line) and 6 <= len(line) <= 80 for line in lines]
            for start in range(len(lines) - 1):
                end = start + 1
                while end < len(lines) and good[end]:
                    end += 2
                if lines[start].endswith("?") and len(lines[start]) > 16 and end > start + 1:
                    out.append((lines[: min(end - 1, len(lines))], start))
        return out

    # Poems.

    def poem(self, rng: Random) -> Poem:
        if rng.random() < 0.25 and self.records.famous:
            return rng.choice(self.records.famous)
        poem = rng.choice(self.records.poems)
        return poem if len(poem.couplets) == 2 or rng.random() < 0.4 else rng.choice(self.records.poems)

    def poem_continue(self, rng: Random, lang: str) -> Exchange:
        """The beginning is half a couplet, or some couplets; the answer is the rest, a couplet a line."""
        poem = self.poem(rng)
        halves = [
            half + end
            for line in poem.couplets
            for half, end in ((line[: poem.width], line[poem.width]), (line[poem.width + 1 : -1], line[-1]))
        ]
        given = rng.choices(range(1, len(halves)), [4, 5, 1, 1.5, 0.5, 1, 0.5][: len(halves) - 1])[0]
        return [
            (self._request(rng, "poem_continue", lang, self._begin(rng, halves[:given])), self._rest(halves, given))
        ]

    @staticmethod
    def _rest(halves: list[str], given: int) -> str:
        return "".join(half + "\n" * (i % 2) for i, half in enumerate(halves) if i >= given).strip()

    @staticmethod
    def _begin(rng: Random, halves: list[str]) -> str:
        """What the user types of a poem: couplets on one line or several, the last sign often missing."""
        joiner = "\n" if rng.random() < 0.2 else ""
        text = "".join(half + (joiner if i % 2 else "") for i, half in enumerate(halves)).strip()
        if rng.random() < 0.06:
            text = text.replace("，", ",").replace("。", ".")
        return text[:-1] if rng.random() < 0.35 else text

    def _request(self, rng: Random, form: str, lang: str, x: str) -> str:
        request = self.form(rng, form, lang)
        # A sign of our own after the quoted text makes the quoted one superfluous.
        return fill(request, x=x.rstrip("，。,.") if not request.endswith("<x>") and "<n>" not in request else x)

    def poem_next(self, rng: Random, lang: str) -> Exchange:
        poem = self.poem(rng)
        line = rng.choice(poem.couplets)
        return [(self._request(rng, "poem_next", lang, line[: poem.width]), line[poem.width + 1 :])]

    def poem_write(self, rng: Random, lang: str) -> Exchange:
        """A whole poem on a subject, in a form; sometimes another one after it."""
        (width, size), names = rng.choices(list(FORMS.items()), [6, 5, 1, 1])[0]
        name = rng.choice(ANY_FORM[lang == "en"] if size == 2 and rng.random() < 0.4 else names[lang == "en"])
        if rng.random() < 0.15:
            pool, request = self._by_form[width, size], self.form(rng, "poem_any", lang)
        else:
            topic = rng.choice([t for t in self.lines.topics if (t, width, size) in self._by_topic])
            pool, request = self._by_topic[topic, width, size], self.form(rng, "poem_topic", lang)
            request = request.replace(
                "<t>", rng.choice(topic.split("|")) if lang == "zh" else self.lines.topics[topic][1]
            )
        asks = [request.replace("<m>", name)]
        if rng.random() < 0.12:
            asks.append(self.form(rng, "poem_again", lang))
        return [(ask, "\n".join(rng.choice(pool).couplets)) for ask in asks]

    @cached_property
    def _by_form(self) -> dict[tuple[int, int], list[Poem]]:
        groups: dict[tuple[int, int], list[Poem]] = {}
        for poem in (*self.records.poems, *self.records.famous):
            groups.setdefault((poem.width, len(poem.couplets)), []).append(poem)
        return groups

    @cached_property
    def _by_topic(self) -> dict[tuple[str, int, int], list[Poem]]:
        """A poem is about what its title and its text name, or its text twice."""
        groups: dict[tuple[str, int, int], list[Poem]] = {}
        for poem in (*self.records.poems, *self.records.famous):
            text = "".join(poem.couplets)
            for topic, (signs, _) in self.lines.topics.items():
                found = sum(text.count(sign) for sign in signs.split("|"))
                if found > 1 or (found and any(sign in poem.title for sign in signs.split("|"))):
                    groups.setdefault((topic, poem.width, len(poem.couplets)), []).append(poem)
        return groups

    # Blanks.

    def blank(self, rng: Random, lang: str) -> Exchange:
        """The answer is the whole sentence with its word."""
        gap = self._poem_gap(rng) if lang == "zh" and rng.random() < 0.06 else self._early(rng, self.records.gaps[lang])
        text = gap.sentence[: gap.start] + rng.choice(MARKS[lang]) + gap.sentence[gap.end :]
        form = self.form(rng, "blank", lang)
        return [
            (fill(form, x=text[:-1] if rng.random() < 0.12 and gap.end < len(gap.sentence) - 1 else text), gap.sentence)
        ]

    def _poem_gap(self, rng: Random) -> Gap:
        poem = rng.choice(self.records.famous or self.records.poems)
        line, start = rng.choice(poem.couplets), rng.randrange(poem.width)
        start += (poem.width + 1) * rng.randrange(2)
        return Gap(line, start, start + 1)

    # Knowledge.

    def knowledge(self, rng: Random, lang: str) -> Exchange:
        kinds = {
            "zh": [
                (self._table, 24),
                (self._fact, 12),
                (self._idiom, 20),
                (self._word, 12),
                (self._saying, 10),
                (self._pair, 12),
                (self._author, 6),
                (self._sum, 6),
            ],
            "en": [
                (self._table, 32),
                (self._fact, 16),
                (self._trivia, 10),
                (self._gloss, 14),
                (self._pair, 18),
                (self._sum, 10),
            ],
        }[lang]
        return rng.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0](rng, lang)

    def _table(self, rng: Random, lang: str) -> Exchange:
        table = rng.choice([t for t in self.lines.tables if t["lang"] == lang])
        row = rng.choice(self.lines.words if table["rows"] == ["words"] else table["rows"]).split("=")
        if table.get("both") and rng.random() < 0.5:
            row.reverse()
        values = {"0": row[0], "1": row[1]}
        answer = fill(table["answer"], **values)
        return [
            (
                say(rng, fill(rng.choice(table["asks"]), **values), lang, lead=False),
                answer[:1].upper() + answer[1:] if lang == "en" else answer,
            )
        ]

    def _fact(self, rng: Random, lang: str) -> Exchange:
        ask, answer = rng.choice(self.lines.facts[lang])
        return [(say(rng, rng.choice(expand(ask)), lang), answer)]

    def _trivia(self, rng: Random, lang: str) -> Exchange:
        return [rng.choice(self.records.trivia[lang])]

    def _meaning(self, rng: Random, kind: str) -> tuple[str, str]:
        return self._early(rng, self.records.meanings[kind])

    @staticmethod
    def _early(rng: Random, rows: list[Any]) -> Any:
        """The simplest or most usual stand first and come more often."""
        return rows[int(len(rows) * rng.random() ** 1.8)]

    def _idiom(self, rng: Random, lang: str, kind: str = "idiom") -> Exchange:
        word, meaning = self._meaning(rng, kind)
        return [(fill(self.form(rng, "meaning", "zh"), x=word), f"“{word}”的意思是：{meaning}")]

    def _word(self, rng: Random, lang: str) -> Exchange:
        return self._idiom(rng, lang, "zh")

    def _gloss(self, rng: Random, lang: str) -> Exchange:
        word, meaning = rng.choice(self.records.meanings["en"])
        return [(fill(self.form(rng, "meaning", "en"), x=word), f"{word[:1].upper()}{word[1:]}: {meaning}.")]

    def _saying(self, rng: Random, lang: str) -> Exchange:
        head, tail = rng.choice(self.records.sayings[:: max(1, len(self.records.sayings) // 1500)])
        return [(fill(self.form(rng, "xiehouyu", "zh"), x=head), f"{head}——{tail}。")]

    def _author(self, rng: Random, lang: str) -> Exchange:
        poem = rng.choice(self.records.famous or self.records.poems)
        ask = rng.choice(
            ["“<x>”是谁写的？", "“<x>”是谁的诗", "<x>，这句诗是谁写的？", "谁写了“<x>”？", "“<x>”的作者是谁"]
        )
        return [
            (
                fill(ask, x=poem.couplets[0][:-1]),
                f"这是{poem.author.split('）')[-1]}的诗《{poem.title.split('·')[0].split('（')[0]}》。",
            )
        ]

    def _pair(self, rng: Random, lang: str) -> Exchange:
        """A sentence into the other language. The request may be in either language, the answer is in the one it asks for."""
        zh, en = rng.choice(self.records.pairs)
        if rng.random() < 0.5:
            return [(fill(self.form(rng, "to_en", lang), x=zh), en)]
        return [(fill(self.form(rng, "to_zh", lang), x=en), zh)]

    def _sum(self, rng: Random, lang: str) -> Exchange:
        """Small numbers only: a table that can be learned by heart."""
        sign, zh, en = rng.choice([("+", "加", "plus"), ("-", "减", "minus"), ("×", "乘以", "times")])
        a, b = (rng.randint(1, 9), rng.randint(1, 9)) if sign == "×" else (rng.randint(0, 10), rng.randint(0, 10))
        a = max(a, b) if sign == "-" else a
        result = {"+": a + b, "-": a - b, "×": a * b}[sign]
        forms = {
            "zh": [
                "<a><z><b>等于几？",
                "<a><s><b>等于多少",
                "<a> <s> <b> = ?",
                "<a><s><b>=",
                "算一下<a><z><b>",
                "<a><z><b>是多少？",
            ],
            "en": [
                "what is <a> <e> <b>?",
                "<a> <s> <b> = ?",
                "How much is <a> <e> <b>?",
                "<a> <e> <b>",
                "calculate <a> <s> <b>",
            ],
        }[lang]
        return [(fill(rng.choice(forms), a=str(a), b=str(b), s=sign, z=zh, e=en), f"{a} {sign} {b} = {result}")]
