"""Whether nano's answers from passages get better where the best of five is taken, and who knows the best.

    python recipes/nano/passage_data.py --out runs/nano/passages
    python benchmarks/nano/best_of.py draw runs/nano/passages runs/nano/best
    glm reward --init-from nano --data.pairs runs/nano/best/pairs.jsonl --data.heldout runs/nano/best/pairs-heldout.jsonl \\
        --train.out runs/nano/scorer --train.batch-rows 16 --train.accumulation 4 --train.ema 0.9 \\
        --optimizer.lr 1.5e-4 --optimizer.schedule constant --optimizer.warmup-ratio 0.05
    python benchmarks/nano/best_of.py measure runs/nano/best --scorer runs/nano/scorer/model

draw: nano's greedy answer and four drawn ones, to held-out questions and to those for training, and pairs of answers to
one question of which one is better by the rules of passages.py. An answer is what `glm ask` shows: its citations corrected.
measure: what each judge takes against greedy, on held-out questions. A judge that leaves greedy only for an answer that
it likes better by a margin has the margin from training questions that are in no pair. Intervals of 95 % are of the
difference between two answers to the same question.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from measure import table
from passages import LONGEST, asked, holds

from openglm.align.reward_model import RewardModel
from openglm.assistant import Assistant, SamplingParams
from openglm.data.prompts import Prompt
from openglm.files import write_file
from openglm.runtime import progress
from openglm.web.citations import Source, cited, precision, without_marks
from openglm.web.sources import Found

PARAMS = [SamplingParams(LONGEST, temperature=0.7 if seed else 0.0, seed=seed, logprobs=0) for seed in range(5)]
APART = 400
"""training questions of which no pairs are made"""
AT_ONCE = 32
"""questions"""
LEAST = 1e9
"""more than any difference between two answers"""
Record = dict[str, Any]
Array = NDArray[np.float64]
Values = list[Array]
"""of each question, a number for each answer"""


def items(path: Path, limit: int) -> list[Record]:
    """Questions of the recipe, in an order of chance: what is asked, what is to be said."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = []
    for line in random.Random(0).sample(lines, len(lines))[:limit]:
        prompt, answer = (message["content"] for message in json.loads(line)["messages"])
        *sources, question, _ = (part.partition(": ")[2] for part in prompt.split("\n"))
        found.append({"prompt": prompt, "question": question, "sources": sources, "wanted": answer})
    return found


@dataclass
class Answers:
    """To one question, greedy first. `grades`: 2: all is right; 1: the answer, a citation wrong; 0: wrong."""

    record: Record

    def __post_init__(self) -> None:
        record = self.record
        found = Found(record["question"], [Source("", str(n), text) for n, text in enumerate(record["sources"])])
        checked = [found.check(text) for text, _ in record["said"]]
        refusal, wanted = found.check("").text, record["wanted"]
        self.told = wanted != refusal
        self.texts = [one.text for one in checked]
        self.likely = np.array([likely for _, likely in record["said"]])
        self.refused = np.array([text == refusal for text in self.texts])
        self.supported = np.array([one.kept > 0 == one.dropped + one.added + one.unsupported for one in checked])
        self.grades = np.array([self._grade(text, wanted) for text in self.texts])

    def _grade(self, text: str, wanted: str) -> int:
        if not self.told:
            return 2 * (text == wanted)
        return holds(without_marks(text), [without_marks(wanted)]) * (1 + (set(cited(text)) <= set(cited(wanted))))

    def pairs(self) -> list[Record]:
        grades = dict(zip(self.texts, self.grades.tolist(), strict=True))
        better = [(one, other) for one, other in permutations(grades, 2) if grades[one] > grades[other]]
        return [{"prompt": self.record["prompt"], "chosen": one, "rejected": other} for one, other in better]


def read(path: Path) -> list[Answers]:
    return [Answers(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, records: list[Record]) -> None:
    write_file(path, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records))


def draw(data: Path, out: Path, limit: int) -> None:
    assistant = Assistant("nano", device="cpu")
    out.mkdir(parents=True, exist_ok=True)
    for end, first, count in (("-heldout", 0, sys.maxsize), ("", APART, limit)):
        asking = items(data / f"passages{end}.jsonl", count)
        with progress(f"questions{end}", len(asking)) as advance:
            for start in range(0, len(asking), AT_ONCE):
                some = asking[start : start + AT_ONCE]
                ids = [assistant.chat_prompt(asked(one["prompt"]))[0] for one in some]
                requests = [one for one in ids for _ in PARAMS]
                said = iter(assistant.engine.generate(requests, PARAMS * len(some)))
                for one in some:
                    drawn = [next(said) for _ in PARAMS]
                    one["said"] = [(each.text, sum(token.logprob for token in each.logprobs)) for each in drawn]
                    advance()
        write(out / f"answers{end}.jsonl", asking)
        write(out / f"pairs{end}.jsonl", [pair for one in asking[first:] for pair in Answers(one).pairs()])


# Judges: a number for each answer.


def differing(answers: list[Answers]) -> list[Answers]:
    """Those where a judge can be right or wrong."""
    return [one for one in answers if one.grades.min() < one.grades.max()]


def rewards(scorer: RewardModel, answers: list[Answers]) -> Values:
    found = []
    with progress("rewards", len(answers)) as advance:
        for one in answers:
            prompt, texts = Prompt(asked(one.record["prompt"])), list(dict.fromkeys(one.texts))
            known = dict(zip(texts, scorer([prompt] * len(texts), texts), strict=True))
            found.append(np.array([known[text] for text in one.texts]))
            advance()
    return found


def shared(answers: list[Answers], refusal: float) -> Values:
    """The share of the question's words that an answer has; what a refusal counts."""
    return [
        np.where(one.refused, refusal, [precision(one.record["question"], without_marks(text)) for text in one.texts])
        for one in answers
    ]


def beyond(values: Array, margin: float) -> int:
    """Greedy, unless another is better by a margin."""
    return int(values.argmax()) if values.max() > values[0] + margin else 0


def right(answers: list[Answers], places: Iterable[int]) -> int:
    return sum(one.grades[place] > 0 for one, place in zip(answers, places, strict=True))


def order(answers: list[Answers], values: Values) -> str:
    """How often the better of two answers has the higher number."""
    found = []
    for one, each in zip(answers, values, strict=True):
        known = dict(zip(one.texts, each.tolist(), strict=True))
        found += [known[pair["chosen"]] > known[pair["rejected"]] for pair in one.pairs()]
    return f"{100 * np.mean(found):.1f} % of {len(found)} pairs"


def measure(data: Path, scorer: Path | None) -> None:
    heldout, apart = read(data / "answers-heldout.jsonl"), differing(read(data / "answers.jsonl")[:APART])
    counts = np.arange(0, 1, 0.05).tolist()
    counted = max(counts, key=lambda count: right(apart, [int(each.argmax()) for each in shared(apart, count)]))
    by_words = shared(heldout, counted)
    print(f"words: a refusal counts {counted:.2f}; in order {order(heldout, by_words)}")
    taken = {
        "greedy": [0 for _ in heldout],
        **{f"draw {n}": [n for _ in heldout] for n in range(1, len(PARAMS))},
        "likeliest": [int(one.likely.argmax()) for one in heldout],
        "likeliest that is no refusal": [int((one.likely - LEAST * one.refused).argmax()) for one in heldout],
        "most of the question's words": [int(each.argmax()) for each in by_words],
    }
    if scorer:
        model = RewardModel(str(scorer), "cpu")
        values, known = rewards(model, heldout), rewards(model, apart)
        margins = np.arange(0, 6, 0.1).tolist()
        margin = max(margins, key=lambda margin: right(apart, [beyond(each, margin) for each in known]))
        print(f"scorer: margin {margin:.1f}; in order {order(heldout, values)}")
        taken["scorer's"] = [int(each.argmax()) for each in values]
        taken["scorer's of those with support"] = [
            int((each + LEAST * one.supported).argmax()) for one, each in zip(heldout, values, strict=True)
        ]
        taken["scorer's, by the margin"] = [beyond(each, margin) for each in values]
    taken["one of the five"] = [int(one.grades.argmax()) for one in heldout]
    print("", table(("answer", *COLUMNS), [[name, *figures(heldout, of)] for name, of in taken.items()]), sep="\n")


COLUMNS = ("holds", "less greedy", "citations right too", "refused", "rightly refused", "all right", "less greedy")


def figures(answers: list[Answers], places: list[int]) -> list[str]:
    """In percent; "rightly refused" of the questions without an answer, "all right" of both kinds."""
    both = list(zip(answers, places, strict=True))
    told = np.array([one.told for one in answers])
    grades, greedy = np.array([one.grades[place] for one, place in both]), np.array([one.grades[0] for one in answers])
    refused = np.array([one.refused[place] for one, place in both])
    won = (grades > 0).astype(int) - (greedy > 0)
    return [
        percent(grades[told] > 0),
        difference(won[told]),
        percent(grades[told] > 1),
        percent(refused[told]),
        percent(refused[~told]),
        percent(grades > 0),
        difference(won),
    ]


def percent(hits: NDArray[np.bool_]) -> str:
    return f"{100 * hits.mean():.1f}"


def difference(won: NDArray[np.int_]) -> str:
    return f"{100 * won.mean():+.1f} ± {196 * won.std() / len(won) ** 0.5:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    drawing, measuring = verbs.add_parser("draw"), verbs.add_parser("measure")
    drawing.add_argument("data", type=Path, help="folder that passage_data.py wrote")
    drawing.add_argument("out", type=Path)
    drawing.add_argument("--limit", type=int, default=3500, help="training questions")
    measuring.add_argument("data", type=Path, help="folder that draw wrote")
    measuring.add_argument("--scorer", type=Path, help="folder of the model that `glm reward` wrote")
    args = parser.parse_args()
    if args.verb == "draw":
        draw(args.data, args.out, args.limit)
    else:
        measure(args.data, args.scorer)


if __name__ == "__main__":
    main()
