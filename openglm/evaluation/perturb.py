"""Changes to a question that leave its meaning: an answer that does not hold under them is not robust (HELM, arXiv
2211.09110, section 4.4).

HELM's list of common misspellings is not here; its place is taken by letters of the keyboard's neighbouring keys.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable
from functools import cache

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEAR = {key: row[max(0, n - 1) : n] + row[n + 1 : n + 2] for row in _ROWS for n, key in enumerate(row)}
_NOT = re.compile(r"\b(are|could|did|do|does|had|has|have|is|should|was|were|would) not\b", re.IGNORECASE)
_IS = re.compile(r"\b(i am|(?:it|that|what) is|(?:you|they|we) are|can ?not|will not)\b", re.IGNORECASE)
_ENDS = re.compile(r" am$| is$| are$|can ?not|will not")
_SHORT = {" am": "'m", " is": "'s", " are": "'re", "can not": "can't", "cannot": "can't", "will not": "won't"}
_WORD = re.compile(r"[A-Za-z]{3,}")
_HAN = re.compile(r"[一-鿿]")
Perturb = Callable[[str, random.Random], str]


def lower(text: str, dice: random.Random) -> str:
    return text.lower()


def contractions(text: str, dice: random.Random) -> str:
    text = _NOT.sub(lambda found: f"{found[1].lower()}n't", text)
    return _IS.sub(lambda found: _ENDS.sub(lambda end: _SHORT[end[0]], found[1].lower()), text)


def typos(text: str, dice: random.Random) -> str:
    """One letter of every tenth word is its neighbour on the keyboard."""

    def typed(found: re.Match) -> str:
        word = found[0]
        if dice.random() >= 0.1:
            return word
        place = dice.randrange(len(word))
        return word[:place] + dice.choice(_NEAR[word[place].lower()]) + word[place + 1 :]

    return _WORD.sub(typed, text)


def spaces(text: str, dice: random.Random) -> str:
    """One to three spaces for each."""
    return re.sub(" ", lambda _: " " * dice.randint(1, 3), text)


def mild_mix(text: str, dice: random.Random) -> str:
    """HELM's mixture, in its order."""
    for change in (lower, contractions, typos, spaces):
        text = change(text, dice)
    return text


def homophones(text: str, dice: random.Random) -> str:
    """Every tenth Chinese character is another common one of the same sound and tone."""
    sounds, alike = _sounds()

    def heard(found: re.Match) -> str:
        others = [one for one in alike.get(sounds.get(found[0], ""), ()) if one != found[0]]
        return dice.choice(others) if others and dice.random() < 0.1 else found[0]

    return _HAN.sub(heard, text)


def traditional(text: str, dice: random.Random) -> str:
    """In traditional characters."""
    import opencc

    return opencc.OpenCC("s2t").convert(text)


@cache
def _sounds() -> tuple[dict[str, str], dict[str, list[str]]]:
    """The sound of each of GB 2312's 3,755 common characters, and the characters of each sound."""
    import pypinyin

    common = [bytes([high, low]).decode("gb2312", "ignore") for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF)]
    sounds = {one: pypinyin.pinyin(one, style=pypinyin.Style.TONE3)[0][0] for one in common if one}
    alike = defaultdict(list)
    for one, sound in sounds.items():
        alike[sound].append(one)
    return sounds, alike


PERTURBATIONS: dict[str, Perturb] = {
    **{"mild_mix": mild_mix, "typos": typos, "lower": lower, "spaces": spaces, "contractions": contractions},
    **{"homophones": homophones, "traditional": traditional},
}


def perturbed(text: str, name: str, seed: str) -> str:
    """The same text, name and seed give the same change."""
    return PERTURBATIONS[name](text, random.Random(f"{seed} {name} {text}"))
