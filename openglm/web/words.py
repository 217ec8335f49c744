"""Text cut into words, sentences and passages, in English and in Chinese."""

from __future__ import annotations

import functools
import logging
import re
import unicodedata
from collections.abc import Iterator

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_HAN}]+|[^\W_{_HAN}]+")
_IS_HAN = re.compile(f"[{_HAN}]")
_PAIR = re.compile(f"(?=([{_HAN}]{{2}}))")
_ASKING = re.compile(
    "what|which|who|whom|whose|when|where|why|how|is|are|was|were|do|does|did"
    "|什么|谁|哪|哪里|哪个|哪儿|怎么|怎样|如何|多少|是|的"
)
# A point ends a sentence before a blank or a mark such as [1], unless it stands behind an initial or a title; [?] ends
# none.
_END = re.compile(
    r"""(?: (?<! \[ ) [。！？!?]+ | (?<! \b[A-Z] ) (?<! \b[DMS][rst] ) (?<! \bMrs ) \. (?= \s | \[\d | $ | ["'”’)] ) )
        ["'”’)）」』]* (?: \s* \[\d[\d\s,，、]*\] )* [.。]? \s*  |  \n+""",
    re.VERBOSE,
)
PASSAGE = 800
"""letters of a passage at most, of which a Chinese character counts three"""


@functools.cache
def _jieba():
    """A tokenizer of our own: the library's keeps its cache where every user of the machine may write."""
    import jieba

    from openglm.runtime import cache_folder

    jieba.setLogLevel(logging.ERROR)
    tokenizer = jieba.Tokenizer()
    tokenizer.tmp_dir = str(cache_folder())
    cache_folder().mkdir(parents=True, exist_ok=True)
    return tokenizer


def words(text: str) -> list[str]:
    """The words by which texts are compared: small letters, and Chinese as jieba cuts it."""
    found: list[str] = []
    for word in _WORD.findall(_plain(text)):
        found += _jieba().lcut(word) if _IS_HAN.match(word) else [word]
    return found


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower()


def searched(text: str) -> list[str]:
    """What a passage is found by: its words, and in Chinese also all pairs of neighbouring characters, for jieba does
    not cut a rare word the same way everywhere."""
    return words(text) + _PAIR.findall(_plain(text))


def asked(question: str) -> list[str]:
    """What passages are searched for, as in `searched`: without words that only ask, if others are left."""
    found = words(question)
    pairs = _PAIR.findall("".join(" " if _ASKING.fullmatch(word) else word for word in found))
    return ([word for word in found if not _ASKING.fullmatch(word)] or found) + pairs


def sentences(text: str) -> list[str]:
    """Pieces that together are the text, each with the citations and blanks behind it."""
    pieces, start = [], 0
    for end in _END.finditer(text):
        pieces.append(text[start : end.end()])
        start = end.end()
    return [piece for piece in [*pieces, text[start:]] if piece]


def passages(text: str) -> list[str]:
    """Lines put together, or cut between sentences, into pieces of at most `PASSAGE` letters."""
    found = [""]
    for line in text.splitlines():
        line = " ".join(line.split())
        if _length(found[-1]) + _length(line) <= PASSAGE:
            found[-1] += f"\n{line}" if line else ""
        else:
            found += _cut(line)
    return [piece for piece in (one.strip() for one in found) if _WORD.search(piece)]


def _cut(line: str) -> Iterator[str]:
    piece = ""
    for sentence in sentences(line):
        if piece and _length(piece) + _length(sentence) > PASSAGE:
            yield piece
            piece = ""
        while _length(sentence) > PASSAGE:  # no sentence at all: a table, or letters without an end
            yield sentence[: PASSAGE // 3]
            sentence = sentence[PASSAGE // 3 :]
        piece += sentence
    yield piece


def _length(text: str) -> int:
    return len(text) if text.isascii() else len(text) + 2 * sum("\u2e80" <= letter <= "\uffef" for letter in text)
