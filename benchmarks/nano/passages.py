"""How well a model answers from numbered passages: questions of passages that it has never read, and squad_shifts.

    python recipes/nano/passage_data.py --out runs/nano/passages
    python benchmarks/nano/passages.py FOLDER --model MODEL --data runs/nano/passages [--limit 300] --json passages.json

FOLDER: `squad_shifts` of the package bigbench 1.0.0. Its questions are drawn from those whose passage is among BM25's best
five of all 9,748; these five are shown, as many as three quarters of the context hold, which is what `glm ask` does.

Each question is answered from the passages (as the answer is, and with its citations corrected as `glm ask` does), by the
same model without passages, and twice without any model: the first sentence of the passage that BM25 finds best, and the
sentence that BM25 finds best. Exact match and F1 are SQuAD's, of an answer without its marks; Han characters are words
of their own. "holds": the answer wanted stands somewhere in the answer given, which is a sentence and seldom the bare words
that squad_shifts wants. "citations": the share of numbers cited that are those of the passage with the answer.
Greedy. Intervals of 95 %: Wilson's for shares, by bootstrap over questions for F1.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import string
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from blanks import wilson
from measure import table, write_json
from web import TOP, squad_shifts

from openglm.assistant import Assistant, SamplingParams
from openglm.web.citations import Source, cited, marked, without_marks
from openglm.web.ranking import bm25, candidates
from openglm.web.sources import Found, prompt
from openglm.web.words import sentences, words

LONGEST = 96
"""tokens of an answer"""
WAYS = ("as it is", "corrected", "no passages", "first sentence", "best sentence")
_HAN = "\u3400-\u9fff"


@dataclass
class Item:
    """A question and the passages that are shown, `right` the numbers of those with the answer; no answers: no passage
    has one."""

    question: str
    sources: list[Source]
    answers: tuple[str, ...]
    right: list[int]
    group: str
    said: dict[str, str] = field(default_factory=dict)

    @property
    def refusal(self) -> str:
        return Found(self.question, self.sources).check("").text


# Figures.


def normalized(text: str) -> list[str]:
    """SQuAD's words: small letters, no punctuation, no articles; a Han character is a word, as in CMRC."""
    text = re.sub(rf"([{_HAN}])", r" \1 ", text.lower())
    text = "".join(
        letter
        for letter in text
        if letter not in string.punctuation and letter not in "，。！？；：、“”‘’（）《》「」…"
    )
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def exact(said: str, wanted: Sequence[str]) -> bool:
    return any(normalized(said) == normalized(one) for one in wanted)


def f1(said: str, wanted: Sequence[str]) -> float:
    best, mine = 0.0, Counter(normalized(said))
    for one in wanted:
        theirs = Counter(normalized(one))
        shared = (mine & theirs).total()
        best = max(best, 2 * shared / (mine.total() + theirs.total()) if shared else 0.0)
    return best


def holds(said: str, wanted: Sequence[str]) -> bool:
    """Whether all words of an answer stand together in what is said."""
    text = f" {' '.join(normalized(said))} "
    return any(f" {' '.join(normalized(one))} " in text for one in wanted)


def share(hits: Iterable[bool]) -> dict[str, float]:
    counted = list(hits)
    low, high = wilson(sum(counted), len(counted))
    return {"right": sum(counted), "of": len(counted), "low": low, "high": high}


def mean(values: Sequence[float]) -> dict[str, float]:
    """With its interval by bootstrap."""
    if not values:
        return {"mean": 0.0, "of": 0, "low": 0.0, "high": 1.0}
    drawn = np.random.default_rng(0).choice(np.array(values), (2000, len(values))).mean(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"mean": float(np.mean(values)), "of": len(values), "low": float(low), "high": float(high)}


def figures(items: Sequence[Item]) -> dict[str, dict[str, Any]]:
    """Of each way to answer. Refusals are counted apart where the passages hold an answer and where they do not."""
    answered, untold = [item for item in items if item.answers], [item for item in items if not item.answers]
    found: dict[str, dict[str, Any]] = {}
    for way in [way for way in WAYS if any(way in item.said for item in items)]:
        bare = [without_marks(item.said[way]) for item in answered]
        found[way] = {
            "exact": share(exact(text, item.answers) for text, item in zip(bare, answered, strict=True)),
            "f1": mean([f1(text, item.answers) for text, item in zip(bare, answered, strict=True)]),
            "holds": share(holds(text, item.answers) for text, item in zip(bare, answered, strict=True)),
            "citations": share(
                number in item.right
                for item in answered
                for number in cited(item.said[way])
                if way != "no passages"  # whatever it cites, it has not seen
            ),
            "refused": share(item.said[way].strip() == item.refusal for item in answered),
            "refused rightly": share(item.said[way].strip() == item.refusal for item in untold),
        }
    return found


# Questions.


def held_out(path: Path, limit: int) -> list[Item]:
    """Those of the recipe, which go from questions with an answer to questions without; the same share of both."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    kept = records if limit >= len(records) else random.Random(0).sample(records, limit)
    return [
        Item(
            one["question"],
            [Source("", str(number), text) for number, text in enumerate(one["sources"], 1)],
            (one["answer"],) if one["answer"] else (),
            one["right"],
            one["language"],
        )
        for one in kept
    ]


def squad(folder: Path, limit: int, seed: int = 0) -> list[Item]:
    urls, questions = squad_shifts(folder)
    passages = list(urls)
    ranker = bm25(words(passage) for passage in passages)
    items = []
    for question, url, domain, answers in random.Random(seed).sample(questions, len(questions)):
        best = [passages[place] for place, _ in candidates(ranker, words(question))[:TOP]]
        right = [number for number, passage in enumerate(best, 1) if urls[passage] == url]
        if right:
            items.append(
                Item(question, [Source("", urls[passage], passage) for passage in best], answers, right, domain)
            )
        if len(items) == limit:
            break
    return items


def cut(item: Item, most: int) -> Item:
    """With the passages alone that BM25 finds best."""
    found = [place for place, _ in candidates(bm25(words(one.text) for one in item.sources), words(item.question))]
    order = [*found, *(place for place in range(len(item.sources)) if place not in found)][:most]
    right = [number for number, place in enumerate(order, 1) if place + 1 in item.right]
    return replace(item, sources=[item.sources[place] for place in order], right=right)


# Answers.


def fitted(assistant: Assistant, item: Item) -> Found:
    """The passages that `glm ask` would show: as many of the first as fit three quarters of the context."""

    def fits(sources: Sequence[Source]) -> bool:
        messages = asked(prompt(item.question, sources))
        return len(assistant.tokenizer.render(messages, generation_prompt=True)[0]) <= assistant.context * 3 // 4

    return Found(item.question, item.sources).fitting(fits)


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def generated(assistant: Assistant, prompts: Sequence[str]) -> list[str]:
    ids = [assistant.chat_prompt(asked(text))[0] for text in prompts]
    params = SamplingParams(LONGEST)
    return [result.text for result in assistant.engine.generate(ids, [params] * len(ids))]


def answer(assistant: Assistant, items: Sequence[Item]) -> int:
    """Fill in what is said, all ways; how many of the right passages were shown."""
    shown = [fitted(assistant, item) for item in items]
    with_passages = generated(
        assistant, [prompt(item.question, found.sources) for item, found in zip(items, shown, strict=True)]
    )
    without = generated(assistant, [item.question for item in items])
    for item, found, text, alone in zip(items, shown, with_passages, without, strict=True):
        item.said = {"as it is": text, "corrected": found.check(text).text, "no passages": alone, **by_rank(item)}
    return sum(
        any(number <= len(found.sources) for number in item.right) for item, found in zip(items, shown, strict=True)
    )


def by_rank(item: Item) -> dict[str, str]:
    """What BM25 alone says: the first sentence of the passage that it finds best, and the sentence that it finds best."""
    first = _best(item.question, [source.text for source in item.sources])
    every = [
        (number, text.strip())
        for number, source in enumerate(item.sources)
        for text in sentences(source.text)
        if words(text)
    ]
    best = every[_best(item.question, [text for _, text in every])]
    opening = next(text for number, text in every if number == first)
    return {"first sentence": marked(opening, f"[{first + 1}]"), "best sentence": marked(best[1], f"[{best[0] + 1}]")}


def _best(question: str, texts: Sequence[str]) -> int:
    """The first where none shares a word with the question."""
    found = candidates(bm25(words(text) for text in texts), words(question))
    return found[0][0] if found else 0


# Report.


def shown(one: dict[str, float]) -> str:
    if not one["of"]:
        return "–"
    middle = one["mean"] if "mean" in one else one["right"] / one["of"]
    return f"{100 * middle:.1f} ({100 * one['low']:.0f} to {100 * one['high']:.0f})"


def report(name: str, found: dict[str, dict[str, Any]]) -> str:
    columns = list(next(iter(found.values())))
    count = next(iter(found.values()))["exact"]["of"]
    return table(
        (f"{name}, {count} with an answer, %", *columns),
        [[way, *(shown(one[c]) for c in columns)] for way, one in found.items()],
    )


def measured(assistant: Assistant, sets: dict[str, Callable[[], list[Item]]], best: int = TOP) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, read in sets.items():
        items = [cut(item, best) if best < TOP else item for item in read()]
        right = answer(assistant, items)
        told = sum(bool(item.answers) for item in items)
        found[name] = {
            "figures": figures(items),
            "groups": {
                group: figures([item for item in items if item.group == group])
                for group in sorted({item.group for item in items})
            },
            "right passage shown": right,
            "rows": [
                {"question": item.question, "answers": item.answers, "right": item.right, **item.said} for item in items
            ],
        }
        print(
            report(name, found[name]["figures"]),
            f"right passage among those shown: {right} of {told}",
            sep="\n\n",
            flush=True,
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="squad_shifts of bigbench")
    parser.add_argument("--model", default="nano", help="folder or bundled name")
    parser.add_argument(
        "--data", type=Path, default=Path("runs/nano/passages"), help="folder that passage_data.py wrote"
    )
    parser.add_argument("--limit", type=int, default=340, help="questions of either set")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--json", help="write all figures and answers here")
    parser.add_argument(
        "--best", type=int, default=TOP, help="show so many passages at most, those that BM25 finds best"
    )
    args = parser.parse_args()
    sets: dict[str, Callable[[], list[Item]]] = {
        "held out": lambda: held_out(args.data / "passages-heldout.jsonl", args.limit),
        "squad_shifts": lambda: squad(args.folder, min(args.limit, 300)),
    }
    write_json(args.json, measured(Assistant(args.model, device=args.device), sets, args.best))


if __name__ == "__main__":
    main()
