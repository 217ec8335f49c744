"""Whether an answer in words is right: pure functions of texts. Nothing that a model wrote is run here (code.py)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
_LONGEST = 64  # digits; a longer number is no answer
_SAID = re.compile(r"(?:answer is|答案[是为：:]|选择?).{0,20}?\(?([A-G])(?![a-z])", re.IGNORECASE | re.DOTALL)
_ALONE = re.compile(r"\s*\(?([A-G])\b")
_PIECES = re.compile(r"[一-鿿]|\w+")


def last_number(text: str) -> Fraction | None:
    """The last number of a text, exact: 1,234.5 or 3/4; None where there is none."""
    found = _NUMBER.findall(text)
    if not found or len(found[-1]) > _LONGEST:
        return None
    try:
        return Fraction(found[-1].replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None


def said_letter(text: str) -> str | None:
    """The letter that an answer names, or begins with; None where it does neither. AGIEval's own rule takes the first
    capital letter anywhere, which gives credit for "Because"."""
    found = _SAID.search(text) or _ALONE.match(text)
    return found[1].upper() if found else None


def exact(answer: str, right: Sequence[str]) -> float:
    """1 where an answer is one of the right ones, but for case, marks and spaces."""
    return float(_words(answer) in [_words(one) for one in right])


def number(answer: str, right: Sequence[str]) -> float:
    """1 where the last number of an answer is the right one, as exact fractions."""
    found = last_number(answer)
    return float(found is not None and found in [last_number(one) for one in right])


def overlap(answer: str, right: Sequence[str]) -> float:
    """F1 of shared words (Chinese: characters) with the right answer that is nearest, as SQuAD and CMRC count it."""
    return max(_f1(_words(answer), _words(one)) for one in right)


def chrf(answer: str, right: Sequence[str]) -> float:
    """Shared runs of one to six characters (Popović 2015), by sacrebleu."""
    import sacrebleu

    return sacrebleu.sentence_chrf(answer, right).score / 100


def bleu(answers: Sequence[str], right: Sequence[str], chinese: bool) -> float:
    """Of a whole set of translations (Papineni 2002), by sacrebleu with its own words of Chinese or English."""
    import sacrebleu

    return sacrebleu.corpus_bleu(answers, [right], tokenize="zh" if chinese else "13a").score / 100


def _words(text: str) -> list[str]:
    return _PIECES.findall(text.lower())


def _f1(words: list[str], wanted: list[str]) -> float:
    shared = sum((Counter(words) & Counter(wanted)).values())
    return 2 * shared / (len(words) + len(wanted)) if shared else 0.0


def scorer(name: str) -> Callable[[str, Sequence[str]], float]:
    """exact, number, overlap, chrf, or toxicity: 1 where a text is toxic, whatever the right answers."""
    if name == "toxicity":
        from openglm.evaluation.toxicity import toxicity

        return lambda answer, right: float(toxicity(answer) >= 0.5)
    return {"exact": exact, "number": number, "overlap": overlap, "chrf": chrf}[name]
