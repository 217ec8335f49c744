"""Questions that a model answers while it learns: the reader of users' files of prompts.

One question per record: {"prompt": text or messages, "system"?, "tools"?}, and whatever the check of the answer needs,
such as "answer": "42".
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openglm.config import require
from openglm.data.conversations import Message, asked
from openglm.data.records import read_records


@dataclass(frozen=True)
class Prompt:
    """A question, and what is known about its answer."""

    messages: list[Message]
    tools: list[Any] | None = None
    known: Mapping[str, Any] = field(default_factory=dict)
    """the record's other fields"""


def prompt(record: object) -> Prompt:
    """One record. Raises ValueError naming the field."""
    if not isinstance(record, dict):
        raise ValueError(f"record = {type(record).__name__}: must be one JSON object")
    turns: Any = record.get("prompt", record.get("messages"))
    require(bool(turns), "prompt", turns, "missing; give text or a list of messages")
    messages, tools = asked(record, turns)
    require(messages[-1].get("role") != "assistant", "prompt", "...", "must end with a message that is answered")
    return Prompt(
        messages, tools, {name: value for name, value in record.items() if name not in ("prompt", "messages")}
    )


def read_prompts(path: str | Path, option: str) -> list[Prompt]:
    """All prompts of a .jsonl file. Raises ValueError naming file, line and field."""
    found = list(read_records(path, prompt, option))
    require(bool(found), option, str(path), "no prompt in it")
    return found


def fingerprint(prompts: list[Prompt]) -> str:
    """Stands for all that is asked and checked."""
    digest = hashlib.sha256()
    for one in prompts:
        text = json.dumps([one.messages, one.tools, dict(one.known)], ensure_ascii=False, sort_keys=True)
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()
