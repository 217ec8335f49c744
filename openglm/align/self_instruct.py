"""Self-Instruct (arXiv 2212.10560): a model writes new instructions after the pattern of a few, and answers them.

Of the known instructions some are shown, most of them written by people, and the model goes on with the list. What it
writes is kept where it is new, of the seeds' language, of a usual length and something that a text can answer; every
reason to leave one out is counted.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from openglm.config import require
from openglm.runtime import progress

Ask = Callable[[str, int], tuple[str, bool]]
"""(question, seed) -> the answer, and whether it came to its end"""
SHOWN, OWN = 8, 2  # instructions in a question; of these, at most so many by the model (the paper's numbers)
OVERLAP = 0.7  # of ROUGE-L, from which two instructions are the same (the paper's)
_WIDEST, _SHORTEST, _LONGEST = 8, 4, 300  # lines taken from an answer; characters of an instruction
_HAN = re.compile(r"[\u3400-\u9fff]")
_ITEM = re.compile(r"^\s*\d+\s*[.．、):：]\s*(.+?)\s*$", re.M)
_NO_TEXT = re.compile(
    r"\b(images?|pictures?|photos?|graphs?|videos?|audio|files?|draw|plot|website|url)\b|图片|图像|照片|视频|音频|文件|画一|网址",
    re.I,
)
_UNSAFE = re.compile(
    r"\b(kill|suicide|bombs?|weapons?|porn\w*|nude|rape|steal|hack|drugs?)\b|自杀|杀人|炸弹|武器|色情|裸体|毒品|盗号|诈骗",
    re.I,
)


@dataclass(frozen=True)
class Found:
    """What is there when the work ends."""

    records: int
    """in the file, those of earlier calls included"""
    left_out: Counter[str]
    """instructions and answers by reason, of this call"""


def self_instruct(seeds: Sequence[str], ask: Ask, out: Path, count: int, seed: int = 1) -> Found:
    """Append records {"prompt", "response"} to `out` until it has `count`; the same call goes on where it stopped.

    seeds: instructions by people. Stops early, with fewer records, where the model finds nothing new any more. Raises
    ValueError for too few seeds or a file that is not of this kind.
    """
    require(len(set(seeds)) >= 2, "seeds", f"{len(set(seeds))} instructions", "give two or more to go by")
    own = [record["prompt"] for record in _read(out)]
    known = {text: _pieces(text) for text in [*seeds, *own]}
    left_out: Counter[str] = Counter()
    han = sum(map(is_han, seeds)) * 2 > len(seeds)
    fruitless = asked = 0
    with progress("instructions", count, "records") as advance, out.open("a", encoding="utf-8") as file:
        advance(len(own))
        while len(own) < count and fruitless < 20:
            fruitless += 1
            asked += 1
            rng = random.Random(f"{seed} {len(own)} {asked}")
            written, _ = ask(question(seeds, own, han, rng), rng.getrandbits(32))
            for text in _ITEM.findall(written)[:_WIDEST]:
                reason = unfit(text, known, han)
                if not reason:
                    answer, ended = ask(text, rng.getrandbits(32))
                    reason = unusable(text, answer, ended)
                if reason:
                    left_out[reason] += 1
                    continue
                file.write(json.dumps({"prompt": text, "response": answer}, ensure_ascii=False) + "\n")
                file.flush()
                own.append(text)
                known[text] = _pieces(text)
                fruitless = 0
                advance(1)
                if len(own) == count:
                    break
    return Found(len(own), left_out)


def question(seeds: Sequence[str], own: Sequence[str], han: bool, rng: random.Random) -> str:
    """Known instructions as a list to go on with."""
    mine = rng.sample(own, min(OWN, len(own)))
    shown = [*rng.sample(seeds, min(SHOWN - len(mine), len(seeds))), *mine]
    rng.shuffle(shown)
    lines = "\n".join(f"{number}. {text}" for number, text in enumerate(shown, 1))
    ask = (
        "请再写几条不同的指令，每行一条，接着编号："
        if han
        else "Write more instructions of other kinds, one a line, and go on with the numbers:"
    )
    return f"{lines}\n{ask}\n{len(shown) + 1}."


def unfit(text: str, known: dict[str, list[str]], han: bool) -> str:
    """Why an instruction is left out; "" where it is not."""
    if not _SHORTEST <= len(text) <= _LONGEST:
        return "too short or too long"
    if is_han(text) != han:
        return "of another language"
    if _NO_TEXT.search(text):
        return "asks for more than text"
    if _UNSAFE.search(text):
        return "unsafe"
    pieces = _pieces(text)
    return "known already" if any(rouge_l(pieces, other) >= OVERLAP for other in known.values()) else ""


def unusable(text: str, answer: str, ended: bool) -> str:
    """Why an answer is left out; "" where it is not."""
    answer = answer.strip()
    if not answer:
        return "no answer"
    if not ended:
        return "answer without an end"
    if _UNSAFE.search(answer):
        return "unsafe answer"
    if rouge_l(_pieces(answer), _pieces(text)) >= OVERLAP:
        return "answer repeats the instruction"
    pieces = _pieces(answer)
    return "answer repeats itself" if len(pieces) > 12 and len(set(pieces)) < len(pieces) / 4 else ""


def is_han(text: str) -> bool:
    """Whether Chinese characters outweigh other words."""
    return len(_HAN.findall(text)) > len(re.findall(r"[A-Za-z]+", text))


def rouge_l(one: Sequence[str], other: Sequence[str]) -> float:
    """F-measure of the longest common subsequence (Lin 2004)."""
    row = [0] * (len(other) + 1)
    for piece in one:
        above = 0
        for place, also in enumerate(other, 1):
            above, row[place] = row[place], above + 1 if piece == also else max(row[place], row[place - 1])
    return 2 * row[-1] / (len(one) + len(other)) if one or other else 0.0


def _pieces(text: str) -> list[str]:
    """Words, and Chinese characters one by one."""
    return re.findall(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+", text.lower())


def _read(out: Path) -> list[dict[str, str]]:
    if not out.is_file():
        return []
    records = []
    for number, line in enumerate(out.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            records.append({name: record[name] for name in ("prompt", "response")})
        except (ValueError, LookupError, TypeError):
            raise ValueError(f"{out}, line {number}: no record of glm data self-instruct; name another --to") from None
    return records
