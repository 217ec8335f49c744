"""Readers of nano's packages: files in, whole documents out, in a fixed order.

What is of general use (plain text, HTML, JSON ...) is in `openglm.data.readers`; here is what only these packages need. Manuals are in `manuals.py`, pairs of
two languages in `translations.py`. `READERS` holds them all, for `build_corpus.py` and the chat data.
"""

from __future__ import annotations

import bz2
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from manuals import pod, roff, rst, unwrap
from translations import cedict, gettext_pairs

from openglm.data.folders import decode
from openglm.data.markup import html_text
from openglm.data.readers import READERS as GENERAL
from openglm.data.readers import Reader, read_utf8


def libreoffice(path: Path) -> Iterator[str]:
    """A page of LibreOffice's help, without the lists of related pages."""
    yield html_text(read_utf8(path), inside="DisplayArea", without=frozenset({"embedded", "related", "debug"}))


def fortunes(path: Path) -> Iterator[str]:
    """Sayings between lines of a single percent sign."""
    text = re.sub(r"\x1b\[[0-9;]*m|\x08.", "", read_utf8(path))
    for saying in re.split(r"^%\s*$", text, flags=re.M):
        yield saying.strip("\n").replace("\t", "    ")


def poems(path: Path) -> Iterator[str]:
    """A poem is 《title》, author, lines; collections nest in chapters and the files use several names for the same thing."""
    yield from _poems(json.loads(read_utf8(path)), "", "")


def _poems(node: Any, title: str, author: str) -> Iterator[str]:
    if isinstance(node, list):
        for child in node:
            yield from _poems(child, title, author)
        return
    if not isinstance(node, dict):
        return
    own = next(
        (node[key] for key in ("title", "rhythmic", "chapter", "subchapter", "type") if isinstance(node.get(key), str)),
        "",
    )
    title, author = own or title, node.get("author") or author
    body = next((node[key] for key in ("paragraphs", "content", "para") if node.get(key)), [])
    if isinstance(body, str):
        body = [body]
    text = [line for line in body if isinstance(line, str)]
    if text and not any("□" in line or "〖" in line for line in text):
        yield "\n".join([f"《{title}》"] * bool(title) + [author] * bool(author) + text)
    yield from _poems([child for child in body if not isinstance(child, str)], title, author)


def biographies(path: Path) -> Iterator[str]:
    """Lives of the poets: name, then a paragraph."""
    for entry in json.loads(read_utf8(path)):
        text = entry.get("desc") or ""
        if len(text) > 10 and text != "--":
            yield f"{entry['name']}\n{text}"


_WIDE = {
    code: code - 0xFEE0
    for code in (*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B), 0xFF05, 0xFF0E)
}


def tagged_news(path: Path) -> Iterator[str]:
    """Word/tag lines of a newspaper. A headline (short, no full stop) after a finished paragraph starts the next article."""
    article: list[str] = []
    for line in read_utf8(path).splitlines():
        text = "".join(re.sub(r"/\w+$", "", word) for word in line.split()).translate(_WIDE)
        headline = len(text) < 40 and not text.endswith(("。", "！", "？", "”", "）", "；", "：", "…"))
        if (
            headline
            and article
            and article[-1].endswith(("。", "！", "？", "”", "）", "…"))
            and len("".join(article)) > 80
        ):
            yield "\n".join(article)
            article = []
        article.append(text)
    yield "\n".join(article)


def idioms(path: Path) -> Iterator[str]:
    """Idiom, reading, meaning, origin and example; the ～ of an example stands for the idiom."""
    for entry in json.loads(read_utf8(path)):
        word = entry["word"]
        parts = [f"{word}（{entry['pinyin']}）：{entry['explanation']}"]
        parts += [f"出处：{entry['derivation']}"] * (entry.get("derivation", "无") not in ("无", ""))
        parts += [f"例句：{entry['example'].replace('～', word)}"] * (entry.get("example", "无") not in ("无", ""))
        yield "\n".join(parts)


def _zipped_table(path: Path) -> Iterator[list[str]]:
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            for line in decode(archive.read(name)).splitlines():
                yield line.split("\t")


def definitions(path: Path) -> Iterator[str]:
    """A zipped table of words: the first column is the word, the last its definition; ~ and ～ stand for the word."""
    for row in _zipped_table(path):
        if len(row) > 1 and len(row[-1]) > 2:
            yield f"{row[0]}：{row[-1].replace('～', row[0]).replace('~', row[0])}"


def riddles(path: Path) -> Iterator[str]:
    """A zipped table of two-part sayings: what is said, and what is meant."""
    for row in _zipped_table(path):
        if len(row) == 2:
            yield f"{row[0]}——{row[1]}"


def brown(path: Path) -> Iterator[str]:
    """The Brown corpus: word/tag, a paragraph or sentence a line; a file is a document."""
    out = []
    for line in read_utf8(path).splitlines():
        text = " ".join(word.rsplit("/", 1)[0] for word in line.split())
        text = re.sub(r" ([,.;:?!)\]]|''|'s\b|n't\b)", r"\1", re.sub(r"(``|[(\[]) ", r"\1", text))
        text = re.sub(r"([;:?!])(\1)", r"\1", text)  # the corpus doubles them
        out += [text.replace("``", '"').replace("''", '"')] * bool(text)
    yield "\n".join(out)


def chitchat(path: Path) -> Iterator[str]:
    """Conversations of two people, a line a turn."""
    for dialogue in json.loads(read_utf8(path)).values():
        turns = [" ".join(message["text"].strip() for message in turn) for turn in dialogue["messages"]]
        if len(turns) >= 4:
            yield "\n".join(turn for turn in turns if turn)


def wiki_dump(path: Path) -> Iterator[str]:
    """A bz2 dump of MediaWiki pages: title and prose of each article."""
    title = ""
    for _, element in ElementTree.iterparse(io.BytesIO(bz2.decompress(path.read_bytes()))):
        tag = element.tag.rsplit("}", 1)[-1]
        if tag == "title":
            title = element.text or ""
        elif tag == "text" and ":" not in title and element.text and not element.text.lower().startswith("#redirect"):
            yield f"{title}\n\n{wiki_text(element.text)}"
        element.clear()


_PARTS_OF_SPEECH = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}


def wordnet(path: Path) -> Iterator[str]:
    """WordNet's data files: the words of a sense, its part of speech, its gloss and examples."""
    for line in read_utf8(path).splitlines():
        if line.startswith("  ") or "|" not in line:
            continue
        fields, gloss = line.split("|", 1)
        fields = fields.split()
        names = [re.sub(r"\(\w+\)$", "", fields[4 + 2 * i]).replace("_", " ") for i in range(int(fields[3], 16))]
        yield f"{', '.join(names)} ({_PARTS_OF_SPEECH[fields[2]]}): {gloss.strip()}"


def foldoc(path: Path) -> Iterator[str]:
    """A dictd dictionary whose headwords start in the first column and whose articles are indented."""
    for entry in re.split(r"\n(?=\S)", read_utf8(path))[1:]:
        head, _, body = entry.partition("\n")
        body = re.sub(r"\{([^{}]*)\}", r"\1", re.sub(r"\n\s*\(\d{4}-\d\d-\d\d\)", "", body))
        if len(body) > 20:
            yield f"{head}\n{unwrap(body).strip()}"


_WIKI_REST = re.compile(
    r"<ref[^>/]*/>|<ref.*?</ref>|<!--.*?-->|<[^>]+>|'{2,}|^[*#:;]+ *|\[https?:\S+ ?|__\w+__", re.S | re.M
)
_WIKI_INNER = re.compile(
    r"\{\{[^{}]*\}\}|\{\|(?:(?!\{\|).)*?\|\}|\[\[(?:File|Image|Category|[a-z-]{2,10}):[^\[\]]*\]\]", re.S
)
_WIKI_LINK = re.compile(r"\[\[(?:[^|\[\]]*\|)?([^\[\]]*)\]\]")


def wiki_text(source: str) -> str:
    """The prose of a Wikipedia article, up to its references."""
    source = re.sub(
        r"<math.*?</math>|<gallery.*?</gallery>|<ref[^>/]*/>|<ref.*?</ref>|<!--.*?-->", "", source, flags=re.S
    )
    for _ in range(6):  # innermost first: templates, tables and links nest
        source = _WIKI_LINK.sub(r"\1", _WIKI_INNER.sub("", source))
    source = re.split(
        r"^==\s*(?:References|Notes|See also|External links|Further reading|Bibliography)\s*==", source, flags=re.M
    )[0]
    text = (
        re.sub(r"^=+\s*(.*?)\s*=+\s*$", r"\1", _WIKI_REST.sub("", source), flags=re.M)
        .replace("&nbsp;", " ")
        .replace("]", "")
    )
    return "\n".join(line for line in text.split("\n") if not line.startswith(("|", "!", "{", "}")))


def jargon(path: Path) -> Iterator[str]:
    """A lexicon whose entries begin with the word between colons; braces are links."""
    for entry in re.split(r"\n(?=   :\w)", read_utf8(path))[1:]:
        head, _, body = re.sub(r"\{([^{}]*)\}", r"\1", entry).partition("\n")
        yield f"{head.strip(' :')}\n{unwrap(body).strip()}"


def novels(path: Path) -> Iterator[str]:
    """Novels in the data base of an R package, a chapter a document: zlib streams, each behind its length, of R's serialized lists of lines."""
    raw, at = path.read_bytes(), 0
    while at < len(raw):
        stream = zlib.decompressobj()
        text = "\n".join(_r_strings(stream.decompress(raw[at + 4 :])))
        at = len(raw) - len(stream.unused_data)
        for chapter in re.split(r"\n(?=CHAPTER\s)", text, flags=re.I)[1:]:
            yield unwrap(chapter).replace("_", "")


_R_CHARACTERS = 9  # the type of a single string in R's serialization


def _r_strings(raw: bytes) -> Iterator[str]:
    """The strings of a serialized vector: each has four bytes of flags, the last of them the type, and four of length."""
    at = raw.index(bytes([0, 4, 0, _R_CHARACTERS]))  # ASCII
    while at + 8 <= len(raw) and raw[at + 3] == _R_CHARACTERS:
        (length,) = struct.unpack_from(">i", raw, at + 4)
        length = max(length, 0)
        yield raw[at + 8 : at + 8 + length].decode("utf-8", "replace")
        at += 8 + length


_BOILERPLATE = re.compile(
    r"^\s*# (?:import necessary packages|all class and function definitions|main function|all input arguments of|Convert JSON|[Rr]eturn,? ).*\n?",
    re.M,
)


def code_problems(path: Path) -> Iterator[str]:
    """A gzipped JSON list of small tasks: what the program is to do, as its first comment, and the program."""
    for task in json.loads(read_utf8(path)):
        question = " ".join(task["task_description"].split())
        yield f"# {question}\n{_BOILERPLATE.sub('', task['code_sample']).strip()}\n"


def passages(path: Path) -> Iterator[str]:
    """JSON lines of permutations of a passage's sentences; "0" is the passage as it was."""
    for line in read_utf8(path).splitlines():
        yield json.loads(line)["0"]


READERS: dict[str, Reader] = GENERAL | {
    f.__name__: f
    for f in (
        libreoffice,
        fortunes,
        poems,
        biographies,
        tagged_news,
        idioms,
        definitions,
        riddles,
        brown,
        chitchat,
        wiki_dump,
        wordnet,
        foldoc,
        jargon,
        novels,
        code_problems,
        passages,
        cedict,
        gettext_pairs,
        rst,
        roff,
        pod,
    )
}
