"""Rewards that can be checked: functions from a prompt and the text of an answer to a number from 0 to 1.

Nothing that a model wrote is run or evaluated here.
"""

from collections.abc import Callable

from openglm.align.verse import judge
from openglm.config import require
from openglm.data.prompts import Prompt
from openglm.evaluation.scorers import last_number

Check = Callable[[Prompt, str], float]


def known_answer(prompt: Prompt) -> str:
    """The record's field `answer`, as text."""
    answer = prompt.known.get("answer")
    kind = isinstance(answer, str | int | float) and not isinstance(answer, bool)
    require(kind, "answer", answer, "this check needs the right answer beside the prompt, a text or a number")
    return str(answer)


def arithmetic(prompt: Prompt, answer: str) -> float:
    """1 where the last number of the answer is the right one, compared as exact fractions."""
    right = last_number(known_answer(prompt))
    require(right is not None, "answer", known_answer(prompt), "must be a number for the check arithmetic")
    return float(last_number(answer) == right)


def exact(prompt: Prompt, answer: str) -> float:
    """1 where the answer is the right text, white space at its ends aside."""
    return float(answer.strip() == known_answer(prompt).strip())


def verse(prompt: Prompt, answer: str) -> float:
    """How far the answer is a regulated quatrain of `width` (5 or 7) that has a character of `theme`; 1: in all."""
    width, theme = prompt.known.get("width"), prompt.known.get("theme", "")
    require(width in (None, 5, 7), "width", width, "must be 5 or 7, or left out")
    require(isinstance(theme, str), "theme", theme, "must be text, of which one character is wanted")
    found = judge(answer, width)
    if not found.form:
        return 0.0
    # Places are many: a pattern guessed at random fits two thirds of them.
    kept = [max(0.0, 3 * found.tones - 2), found.rhyme, found.fresh]
    if theme:
        kept.append(float(bool(set(theme) & set(answer))))
    return sum(kept) / len(kept)


CHECKS: dict[str, Check] = {"arithmetic": arithmetic, "exact": exact, "verse": verse}
