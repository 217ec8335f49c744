"""ALCE's citation recall and precision (arXiv 2305.14627, section 4.2, and its eval.py), and the two controls that
show what they can be fooled by.

ALCE decides entailment by an 11 B model. With `citations.supports` in its place the figures are of lexical support and
are not comparable with published ones. Print correctness beside them: copying a passage gets nearly full marks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from openglm.web.citations import MARKS, Source, cited, supports, without_marks
from openglm.web.words import sentences, words

_MOST = 3  # citations of a sentence that count


def recall_and_precision(
    answer: str, sources: Sequence[Source], entails: Callable[[str, str], bool] = supports
) -> tuple[float, float]:
    """Recall: the share of sentences that their sources together entail; a number without a source makes it 0.
    Precision: the share of citations that entail their sentence, or without which the others do not. entails: premise
    and claim."""
    entailed = credited = count = 0
    said = [sentence for sentence in sentences(answer) if words(without_marks(sentence))]
    for sentence in said:
        claim, numbers = without_marks(sentence), cited(sentence)
        if not numbers or not all(1 <= number <= len(sources) for number in numbers):
            continue
        texts = [f"Title: {sources[number - 1].title}\n{sources[number - 1].text}" for number in numbers[:_MOST]]
        count += len(texts)
        if not entails("\n".join(texts), claim):
            continue
        entailed += 1
        for place, text in enumerate(texts):
            others = "\n".join(texts[:place] + texts[place + 1 :])
            credited += entails(text, claim) or not entails(others, claim)
    return entailed / max(len(said), 1), credited / max(count, 1)


def copied(sources: Sequence[Source]) -> str:
    """The control that any metric of citations should be shown with: the first passage, each sentence citing it."""
    return " ".join(f"{sentence.strip()} [1]" for sentence in sentences(sources[0].text) if words(sentence))


def shuffled(answer: str, count: int, rng: random.Random) -> str:
    """The answer with each citation replaced by that of another source, which should take both figures near 0."""

    def other(mark) -> str:
        numbers = [number for number in range(1, count + 1) if number not in cited(mark[0])]
        return f" [{rng.choice(numbers)}]" if numbers else ""

    return MARKS.sub(other, answer)
