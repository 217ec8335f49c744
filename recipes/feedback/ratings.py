"""What people thought of answers, sent through a server's own feedback route: `python ratings.py URL --heldout FILE`.

The ratings are those of chitchat-dataset (PyPI, MIT): strangers chatted and then said how witty, upbeat and interesting
the conversation was. Each reply counts as liked where the three ratings of its conversation are high, as disliked where
they are low. Only messages that have replies of both kinds make pairs; a fifth of the messages is held out.
"""

from __future__ import annotations

import itertools
import json
import re
import zlib
from collections import defaultdict
from pathlib import Path

import httpx
import tyro

from openglm import runtime
from openglm.data.sources import fetch
from openglm.files import write_file

CACHE = runtime.cache_folder() / "packages"
LIKED, DISLIKED = 24, 15  # sums of three ratings from 1 to 10; 15 is what the form began with
MOST = 6  # replies of one kind to one message
LONGEST = 100  # characters of a message


def exchanges(file: Path) -> dict[str, tuple[set[str], set[str]]]:
    """Message -> replies that were liked, and replies that were disliked."""
    found: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for chat in json.loads(file.read_text(encoding="utf-8")).values():
        ratings, turns = chat.get("ratings") or {}, chat["messages"]
        scores = [ratings.get(name) for name in ("witty", "upbeat", "interesting")]
        if not all(isinstance(score, int | float) for score in scores):
            continue
        liked, disliked = sum(scores) >= LIKED, sum(scores) <= DISLIKED
        if not (liked or disliked):
            continue
        texts = [" ".join(part["text"].strip() for part in turn) for turn in turns]
        for message, reply in itertools.pairwise(texts):
            message = re.sub(r"[^\w' ]+", "", message.lower()).strip()
            if message and reply and max(len(message), len(reply)) <= LONGEST:
                found[message][disliked].add(reply)
    return {message: sides for message, sides in found.items() if sides[0] - sides[1] and sides[1] - sides[0]}


def main(url: str, heldout: Path, cache: Path = CACHE) -> None:
    """Send the ratings, and write the messages that were held out to a file: one pair of replies to each."""
    (file,) = fetch("pypi:chitchat-dataset==0.9.0", cache).glob("**/dataset.json")
    known = exchanges(file)
    kept = [message for message in known if zlib.crc32(message.encode()) % 5 == 0]
    sent = 0
    with httpx.Client(base_url=url, timeout=60) as client:
        for number, (message, sides) in enumerate(known.items()):
            if message in kept:
                continue
            for kind, replies in zip(("up", "down"), sides, strict=True):
                for reply in sorted(replies)[:MOST]:
                    row = {"conversation": f"{number:016d}", "kind": kind, "answer": reply}
                    row["messages"] = [{"role": "user", "content": message}]
                    client.post("/v1/feedback", json=row).raise_for_status()
                    sent += 1
    pairs = [(message, min(up - down), min(down - up)) for message, (up, down) in known.items() if message in kept]
    lines = (json.dumps(dict(zip(("prompt", "chosen", "rejected"), pair, strict=True))) + "\n" for pair in pairs)
    write_file(heldout, "".join(lines))
    print(f"{sent} ratings of {len(known) - len(kept)} messages sent; {len(kept)} messages held out")


if __name__ == "__main__":
    tyro.cli(main)
