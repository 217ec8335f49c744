"""Passages of dictionaries, idioms, lives of poets and manuals, with the questions that their form answers.

A passage is what a reference shows; `asks` are questions with the words that answer them. Where a record has no room for a
whole sentence, the answer puts its words together: the name and what is said of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from chat_text import is_chinese, reading
from passage_english import Ask

from openglm.web.words import sentences


@dataclass(frozen=True)
class Passage:
    """`document`: its number in its source, which passages share that were cut from one text."""

    text: str
    language: str
    source: str
    document: int
    asks: tuple[Ask, ...] = ()


MEANING_ZH = [
    "“<w>”(是|到底是|)什么意思", "<w>(是什么意思|的意思是什么|怎么解释|的含义是什么|指的是什么|指什么)", "(解释|说明)(一下|)“<w>”", "什么(叫|是)<w>",
    "“<w>”这个(词|说法)(的意思|怎么理解|是什么意思)", "<w>(|的)(释义|意思)",
]  # fmt: skip
WHICH_ZH = ["哪个(词|说法)的意思是“<d>”", "“<d>”(叫什么|用哪个词说|可以用什么词来说)", "(什么词|哪个词语)表示“<d>”"]
FROM_ZH = [
    "“<w>”(出自|出于|来自)(哪里|哪本书|什么书|何处)",
    "<w>的出处(是什么|是哪里|在哪儿)",
    "<w>这个成语(从哪儿来|最早见于哪里)",
]
MEANING_EN = [
    'what (does|is meant by) "<w>"( mean|)', "what is (the meaning|the definition) of <w>", "(define|explain) <w>", "what is (a |an |)<w>",
    "what does the (word|term) <w> mean", "<w> (meaning|definition)", "how is <w> defined",
]  # fmt: skip
WHICH_EN = ["what (do you|does one) call <d>", "which (word|term) means <d>", "what is (the word|the name) for <d>"]
WHO_EN = ["who (is|was) <w>", "what is known (about|of) <w>", "tell me (about|who) <w>( was|)"]
LIVES = {
    r"字[^，。；、]{1,4}": ["<w>(字什么|的字是什么|表字什么)", "<w>(有什么|用什么)字"],
    r"(?:自|又|晚|别)?号[^，。；]{2,8}": ["<w>(号什么|的号是什么|自号什么)", "<w>有什么别号"],
    r"[^，。；（]{2,8}(?:（[^）]{2,14}）)?人": ["<w>是(哪里|哪儿|什么地方)(人|的人)", "<w>的(籍贯|家乡|老家)(是哪里|在哪里|在哪儿)", "<w>(出生|家)在(哪里|什么地方)"],
    r"[^，。；]{0,16}(?:进士|登第|举人|进士第)": ["<w>(什么时候|哪一年|何时)(中进士|中的进士|登第|考中)", "<w>是(哪年|哪一年|什么时候)的进士"],
    r"(?:著|今存|存|原|传|编|撰)?有《[^，。；]{2,30}": ["<w>(有什么著作|著有什么|写过什么|有哪些作品)", "<w>(的著作|写的书)(叫什么|是什么)"],
    r"(?:历|累官|官至|官|仕至|迁|擢|授|拜|知|出知|调|召为|除|任)[^，。；]{2,16}": ["<w>(做过什么官|当过什么官|任过什么职|官至什么)", "<w>(担任过|做过)什么(职务|官职)"],
    r"[^，。；]{0,14}(?:卒|去世|逝世)": ["<w>(什么时候|哪一年|何时|怎么)(去世|死|死的|去世的)", "<w>卒于(何时|哪一年)"],
    r"(?:享)?年[一二三四五六七八九十]{1,4}(?:岁)?": ["<w>活了(多少岁|多大|几岁)", "<w>享年多少"],
    r"[^，。；]{1,10}(?:时人|初人|末人|间人|朝人|时在世)": ["<w>是(什么时候|哪个朝代|何时)的人", "<w>生活在(什么年代|哪个时代)"],
}  # fmt: skip
LIFE = ["<w>(是谁|是什么人|是个什么样的人)", "介绍(一下|)<w>", "(谁是|你知道)<w>", "<w>的(生平|简介)"]
COMMANDS = {
    "zh": ["<w>(是做什么的|有什么用|是干什么用的|的作用是什么|命令做什么)", "<w>(是什么|是什么命令)", "(用途：|)<w>"],
    "en": ["what (is|does) <w>( for| do)", "what is <w>", "what does the <w> command do", "<w> (purpose|command)"],
}
HELP = {
    "zh": ["<w>(是什么|有什么用|怎么用|指什么|的作用是什么)", "(说说|介绍一下)<w>", "怎么(使用|理解)<w>", "关于<w>，资料怎么说"],
    "en": ["what is <w>", "how (do I use|does one use|do you use) <w>", "what is <w> for", "(explain|describe) <w>", "what does the help say about <w>"],
}  # fmt: skip
HOW = {
    "zh": ["(怎么|如何|怎样|该怎么)<w>", "<w>(怎么做|要怎么做|的方法是什么)"],
    "en": ["how (do I|can I|do you|to) <w>", "what is the way to <w>"],
}


def _asked(rng: Random, patterns: list[str], word: str, meaning: str = "") -> str:
    text = reading(rng, rng.choice(patterns)).replace("<w>", word).replace("<d>", meaning)
    return text


def word_zh(rng: Random, text: str) -> tuple[str, list[Ask]] | None:
    """A word or an idiom: "WORD（reading）：meaning", then where it comes from and an example."""
    found = re.match(r"([\u4e00-\u9fff，]{2,14})(?:（[^）]*）)?：(?:1\.)?([^\n]+)", text)
    if not found:
        return None
    word, meaning = found[1], re.split(r" ?2\.", found[2])[0]
    first = sentences(meaning)[0].strip()
    if not 4 <= len(first) <= 60 or first[-1] != "。" or re.search('[“”"｜]|[①-⑩]', first):
        return None
    said = f"“{word}”的意思是{first}"
    made = [Ask(_asked(rng, MEANING_ZH, word), said, "meaning")]
    if len(first) < 30 and word not in first:
        made.append(Ask(_asked(rng, WHICH_ZH, word, first[:-1]), said, "which word"))
    origin = re.search(r"出处：([^《》\n]{0,14}《[^》\n]{1,16}》)", text)
    if origin:
        made.append(Ask(_asked(rng, FROM_ZH, word), f"“{word}”出自{origin[1]}。", "origin"))
    return text.replace("”\n", "\n"), made


def word_en(rng: Random, text: str) -> tuple[str, list[Ask]] | None:
    """A sense of WordNet: "word, word (noun): gloss; "example"". An article of FOLDOC: the head, then paragraphs."""
    found = re.match(r"([A-Za-z][\w' -]*)(?:, [^(\n]*)? \((\w+)\): ([^;\n\"]{8,150})", text)
    if found:
        word, meaning = found[1], found[3].strip(" ;:")
        said, person = f"{word}: {meaning}.", word[0].isupper() and " " in word and "(noun)" in text
        made = [
            Ask(
                _asked(rng, WHO_EN if person and re.search(r"\d{4}| who ", text) else MEANING_EN, word), said, "meaning"
            )
        ]
        if len(meaning) < 80:
            made.append(Ask(_asked(rng, WHICH_EN, word, meaning), said, "which word"))
        return text, made
    head, _, body = text.partition("\n")
    body = re.sub(r"^(?:<[^>]*> ?|\([^)]*\) ?)+", "", body).replace("\n", " ").strip()
    first = sentences(body)[0].strip() if body else ""
    if not 3 <= len(head) <= 40 or not 30 <= len(first) <= 220 or first[-1] != "." or not first[0].isupper():
        return None
    said = f"{head} is {first[0].lower()}{first[1:]}" if re.match("(?:A|An|The) ", first) else first
    return f"{head}: {body}"[:700].rsplit(".", 1)[0] + ".", [Ask(_asked(rng, MEANING_EN, head), said, "meaning")]


def life_zh(rng: Random, text: str) -> tuple[str, list[Ask]] | None:
    """Name, then a life in clauses that leave the name out."""
    name, _, body = text.partition("\n")
    kept = ""
    for sentence in sentences(body):
        if kept and len(kept) + len(sentence) > 240:
            break
        kept += sentence
    if not 2 <= len(name) <= 5 or len(kept) > 260 or name not in kept or "\n" in kept:
        return None
    made, clauses = list[Ask](), re.split("[，。；]", re.sub(rf"^{name}(?:（[^）]*）)?，?", "", kept))
    for pattern, questions in LIVES.items():
        clause = next((one for one in clauses if re.fullmatch(f"{pattern}(?:（[^）]*）)?", one)), "")
        if clause and clause.count("（") == clause.count("）") and clause.count("《") == clause.count("》"):
            made.append(Ask(_asked(rng, questions, name), f"{name}，{clause}。", "life"))
    first = sentences(kept)[0].strip()
    if first.startswith(name) and 8 < len(first) < 80:
        made.append(Ask(_asked(rng, LIFE, name), first, "life"))
    return (kept, made) if made else None


def manual(language: str) -> Callable[[Random, str], tuple[str, list[Ask]] | None]:
    """A page of help: its title, then sentences; or a manual page: "NAME", "command - what it does"."""

    def read(rng: Random, text: str) -> tuple[str, list[Ask]] | None:
        command = re.search(
            r"(?:NAME|名称|名字|NAME 名称)\s+([\w.+-]{2,24})(?:, [\w, .+-]+)? (?:-|—|–) ([^\n]{6,120})\n", text
        )
        if command:
            behind = text[command.end() :].replace("\n", " ")
            shown = " ".join(f"{command[1]} - {command[2]} {behind}"[: 420 if language == "en" else 170].split())
            said = f"{command[1]} - {command[2].strip().rstrip('.。')}" + {"zh": "。", "en": "."}[language]
            return shown, [Ask(_asked(rng, COMMANDS[language], command[1]), said, "manual")]
        title, _, rest = text.partition("\n")
        first = sentences(rest.strip())[0].strip() if rest.strip() else ""
        end = "。" if language == "zh" else "."
        if not 2 <= len(title) <= 45 or not 12 <= len(first) <= 200 or first[-1:] != end or re.search("[<>{}|]", title):
            return None
        if (language == "zh") != is_chinese(first):
            return None
        body = " ".join(f"{title}\n{rest}"[: 600 if language == "en" else 220].split())
        kept = "".join(sentences(body)[:-1]).strip() or body
        if " ".join(first.split()) not in kept:
            return None
        verb = (
            re.match(r"(\w+)ing (.+)", title)
            if language == "en"
            else re.match(
                "(?:插入|创建|设置|编辑|更改|使用|添加|删除|打开|保存|打印|导入|导出|应用|定义|显示|选择|转换|移动|复制|安装|配置)",
                title,
            )
        )
        if verb and language == "en":
            stem = {
                "Us": "use",
                "Chang": "change",
                "Creat": "create",
                "Sav": "save",
                "Defin": "define",
                "Insert": "insert",
            }.get(verb[1], verb[1].lower())
            question = _asked(rng, HOW["en"], f"{stem} {verb[2].lower()}")
        else:
            question = _asked(rng, HOW["zh"] if verb else HELP[language], title)
        return kept, [Ask(question, " ".join(first.split()), "manual")]

    return read


RECORDS: dict[str, Callable[[Random, str], tuple[str, list[Ask]] | None]] = {
    "dictionary-zh": word_zh,
    "idioms-zh": word_zh,
    "biographies-zh": life_zh,
    "manuals-zh": manual("zh"),
    "dictionary-en": word_en,
    "manuals-en": manual("en"),
}
_SIZES = {"en": [150, 250, 350, 450, 700], "zh": [50, 90, 120, 160, 240]}


def prose(rng: Random, text: str, language: str) -> Iterator[str]:
    """A text cut between sentences, into pieces of several sizes; headings, tables and programs are left out."""
    piece, most = "", rng.choice(_SIZES[language])
    for line in text.split("\n"):
        if (
            (language == "zh") != is_chinese(line)
            or line[-1:] not in '.。！？!?"”'
            or line[:1] in " \t-*"
            or len(line) < 12
        ):
            continue
        for sentence in sentences(line + " " * (language == "en")):
            if piece and len(piece) + len(sentence) > most:
                yield piece.strip()
                piece, most = "", rng.choice(_SIZES[language])
            piece += sentence
    if piece:
        yield piece.strip()
