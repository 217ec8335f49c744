"""Build nano's chat data: `python recipes/nano/chat_data.py --out DIR --cache DIR` writes chat.jsonl and chat-heldout.jsonl.

A line is {"messages": [{"role", "content"}, ...], "task": ..., "language": ...}. The same seed and the same packages give the same files.
Leaves out what `chat_probe.py` asks, what the corpus holds out, and what shares 13 words with an evaluation item.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from chat_probe import PROMPTS
from chat_records import read_evaluation, read_records
from chat_skills import HERE, Exchange, Skills, read_lines
from chat_text import HAN, key

from openglm import runtime
from openglm.data.clean import contamination_index, drop_contaminated_lines, is_held_out

CACHE = runtime.cache_folder() / "packages"
SHARES = {
    "identity": 0.11,
    "poem": 0.24,
    "blank": 0.17,
    "dialogue": 0.24,
    "knowledge": 0.14,
    "refusal": 0.03,
    "mixed": 0.07,
}
SYSTEM = {
    "zh": ["你是 nano，一个小型的中英双语模型。", "你是一个友好的助手，名叫 nano。", "你是 nano。请简短地回答。"],
    "en": [
        "You are nano, a small bilingual model.",
        "You are a friendly assistant called nano.",
        "You are nano. Answer briefly.",
    ],
}


def dialogue(skills: Skills, rng: Random, lang: str) -> Exchange:
    """Hand-written talk in both languages; in English also talk between people."""
    rest = [Skills.echo, Skills.memory, Skills.dialogue, Skills.repeat]
    make = rng.choices(
        [Skills.intent, Skills.conversation, *rest], {"zh": [55, 0, 17, 12, 10, 6], "en": [40, 22, 15, 10, 8, 5]}[lang]
    )[0]
    return skills.intent(rng, lang, "smalltalk") if make is Skills.intent else make(skills, rng, lang)


def poem(skills: Skills, rng: Random, lang: str) -> Exchange:
    make = rng.choices([skills.poem_continue, skills.poem_next, skills.poem_write], [55, 18, 27])[0]
    return make(rng, lang if rng.random() < 0.35 else "zh")


def exchange(skills: Skills, rng: Random, task: str, lang: str) -> Exchange:
    if task in ("identity", "refusal"):
        return skills.intent(rng, lang, task)
    return {"poem": poem, "dialogue": dialogue, "blank": Skills.blank, "knowledge": Skills.knowledge}[task](
        skills, rng, lang
    )


def conversation(skills: Skills, rng: Random) -> dict[str, Any]:
    """One to four exchanges, of one task or of several; sometimes with a system message."""
    task = rng.choices(list(SHARES), list(SHARES.values()))[0]
    lang = "zh" if rng.random() < 0.55 else "en"
    count = rng.choice([2, 3, 3, 4]) if task == "mixed" else rng.choices([1, 2, 3, 4], [64, 21, 10, 5])[0]
    plain = [name for name in SHARES if name != "mixed"]
    tasks = [rng.choice(plain) for _ in range(count)] if task == "mixed" else [task] * count
    pairs = [
        pair
        for name in tasks
        for pair in exchange(skills, rng, name, lang if rng.random() < 0.93 else {"zh": "en", "en": "zh"}[lang])
    ]
    messages = [
        {"role": role, "content": text}
        for pair in shorten(list(dict(pairs).items()))
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    if rng.random() < 0.07:
        messages.insert(0, {"role": "system", "content": rng.choice(SYSTEM[lang])})
    return {"messages": messages, "task": task, "language": lang}


def shorten(pairs: Exchange, limit: float = 0.85) -> Exchange:
    """As many pairs as fit in the context with room to spare: 600 Han characters or 1500 others are about 450 tokens."""
    size, kept = 0.0, []
    for pair in pairs:
        text = "".join(pair)
        han = len(re.findall(f"[{HAN}]", text))
        size += han / 600 + (len(text) - han) / 1500 + 0.01
        if size > limit:
            break
        kept.append(pair)
    return kept


def is_clean(item: dict[str, Any], asked: frozenset[str], evaluation: Any) -> bool:
    """No prompt of the probe among the user's messages, no run of 13 words of an evaluation item."""
    if not item["messages"] or any(key(m["content"]) in asked for m in item["messages"] if m["role"] == "user"):
        return False
    return not drop_contaminated_lines("\n".join(m["content"] for m in item["messages"]), evaluation)[1]


def conversations(skills: Skills, count: int, seed: int, evaluation: Any = ()) -> Iterator[dict[str, Any]]:
    """`count` conversations, a function of the records, the hand-written lines and the seed."""
    asked = frozenset(key(prompt.text) for prompt in PROMPTS)
    rng, done = Random(seed), 0
    while done < count:
        item = conversation(skills, rng)
        if is_clean(item, asked, evaluation):
            done += 1
            yield item


def write(path: Path, items: list[dict[str, Any]]) -> None:
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
    os.replace(part, path)


def main(out: Path, cache: Path = CACHE, count: int = 90_000, seed: int = 1, heldout: float = 0.015) -> None:
    """Write chat.jsonl and chat-heldout.jsonl.

    Args:
        out: folder to write to
        cache: folder of the packages, the one that `build_corpus.py` uses
        count: conversations in all
        seed: another seed, other conversations
        heldout: share of conversations set aside
    """
    lines = read_lines()
    print("reading the packages (a minute)", file=sys.stderr)
    skills = Skills(lines, read_records(cache, lines.filter, HERE / "sources.toml"))
    print("reading the evaluation items", file=sys.stderr)
    evaluation = contamination_index(read_evaluation(cache, HERE / "sources.toml"))
    print(f"making {count} conversations", file=sys.stderr)
    sides: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for item in conversations(skills, count, seed, evaluation):
        sides[is_held_out(json.dumps(item["messages"], ensure_ascii=False), heldout)].append(item)
    out.mkdir(parents=True, exist_ok=True)
    for name, items in zip(("chat.jsonl", "chat-heldout.jsonl"), sides, strict=True):
        write(out / name, items)
        print(
            f"{out / name}: {len(items)} conversations, {dict(Counter(item['task'] for item in items))}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
