"""Conversations as training samples: the reader of users' .jsonl files, and a source of whole conversations for `mixture.py`.

One conversation per line, in any of the shapes that circulate:

    {"messages": [{"role", "content", "tool_calls"?, "loss"?} ..], "tools"?}            OpenAI; GLM-4, with the tools in the system message
    {"conversations": [{"role", "content", "loss"?} ..], "tools"?}                      ChatGLM3, whose role "tool" is a call and its result in one
    {"conversations": [{"from": "human" | "gpt" | "system", "value"} ..], "system"?}    ShareGPT
    {"prompt", "response", "history"?: [[question, answer] ..], "system"?}              ChatGLM-6B's P-Tuning
    {"instruction", "input"?, "output", "history"?, "system"?}                          Alpaca
    {"content", "summary"}                                                              ADGEN

All become messages in OpenAI's form, and the tokenizer's renderer does the rest. Conversations are never cut in the middle of a turn.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from openglm.config import SpecialTokens, require
from openglm.data.infilling import build_sample
from openglm.data.samples import Ints, Sample
from openglm.runtime import progress
from openglm.text.replies import parse_text

Message = dict[str, Any]
Conversation = tuple[list[Message], "list[Any] | None"]  # messages in OpenAI's form, tools


class Renderer(Protocol):
    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> tuple[list[int], list[int]]: ...


def conversation(record: object) -> Conversation:
    """Messages in OpenAI's form, and tools, from one line's JSON in any known shape. Raises ValueError naming the field."""
    require(isinstance(record, dict), "line", type(record).__name__, "must hold one JSON object")
    for fields, shape in _SHAPES.items():
        if all(field in record for field in fields):
            return shape(record)
    known = " | ".join(", ".join(fields) for fields in _SHAPES)
    raise ValueError(
        f"fields = {', '.join(map(str, record)) or 'none'}: not a conversation; a line needs the fields {known}"
    )


def _text(holder: Mapping[str, Any], field: str, where: str = "") -> str:
    require(isinstance(holder.get(field), str), where + field, holder.get(field), "must be text")
    return holder[field]


def _list(holder: Mapping[str, Any], field: str, kind: type) -> list[Any]:
    """A list whose items are all of one kind."""
    items = holder[field]
    require(isinstance(items, list), field, items, "must be a list")
    for i, item in enumerate(items):
        require(isinstance(item, kind), f"{field}[{i}]", item, f"must be {'an object' if kind is dict else 'a list'}")
    return items


def _tools(holder: Mapping[str, Any]) -> list[Any] | None:
    return _list(holder, "tools", dict) if holder.get("tools") else None


def _from_messages(record: Message) -> Conversation:
    messages, tools = [dict(message) for message in _list(record, "messages", dict)], _tools(record)
    if messages and messages[0].get("role") == "system":
        tools = _tools(messages[0]) or tools
        messages[0].pop("tools", None)
        if tools and not messages[0].get("content"):
            messages = messages[1:]
    for message, after in itertools.pairwise(messages):
        if message.get("role") == "assistant" and after.get("role") == "observation" and not message.get("tool_calls"):
            message.update(
                parse_text(_text(message, "content"), called=True)
            )  # GLM-4 writes a call as name, line end, JSON
    return messages, tools


def _from_conversations(record: Message) -> Conversation:
    turns = _list(record, "conversations", dict)
    if turns and "from" in turns[0]:
        return _system(record) + [_sharegpt(turn, f"conversations[{i}].") for i, turn in enumerate(turns)], _tools(
            record
        )
    messages: list[Message] = []
    for i, turn in enumerate(turns):
        messages = (
            _with_call(messages, turn, f"conversations[{i}].") if turn.get("role") == "tool" else [*messages, turn]
        )
    return messages, _tools(record)


def _sharegpt(turn: Message, where: str) -> Message:
    roles = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
    require(turn.get("from") in roles, f"{where}from", turn.get("from"), f"choose one of {', '.join(roles)}")
    return {"role": roles[turn["from"]], "content": _text(turn, "value", where)}


def _with_call(messages: list[Message], turn: Message, where: str) -> list[Message]:
    """ChatGLM3 puts call and result in one turn; what the assistant said just before belongs to the call."""
    call = {"function": {"name": _text(turn, "name", where), "arguments": turn.get("parameters")}}
    if messages and messages[-1].get("role") == "assistant":
        messages, said = messages[:-1], messages[-1]
    else:
        said = {"role": "assistant", "content": ""}
    result = turn.get("observation")
    content = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    return [*messages, {**said, "tool_calls": [call]}, {"role": "tool", "content": content}]


def _system(record: Message) -> list[Message]:
    return [{"role": "system", "content": _text(record, "system")}] if record.get("system") else []


def _exchange(record: Message, question: str, answer: str) -> Conversation:
    """The system text and the earlier exchanges a record may hold, then its own."""
    messages = _system(record)
    for i, pair in enumerate(_list(record, "history", list) if record.get("history") else ()):
        require(
            len(pair) == 2 and all(isinstance(side, str) for side in pair),
            f"history[{i}]",
            pair,
            "must be [question, answer]",
        )
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return [*messages, {"role": "user", "content": question}, {"role": "assistant", "content": answer}], None


def _from_alpaca(record: Message) -> Conversation:
    given = _text(record, "input") if record.get("input") else ""
    return _exchange(record, _text(record, "instruction") + ("\n" + given if given else ""), _text(record, "output"))


_SHAPES: dict[tuple[str, ...], Callable[[Message], Conversation]] = {
    ("messages",): _from_messages,
    ("conversations",): _from_conversations,
    ("prompt", "response"): lambda record: _exchange(record, _text(record, "prompt"), _text(record, "response")),
    ("instruction", "output"): _from_alpaca,
    ("content", "summary"): lambda record: _exchange(record, _text(record, "content"), _text(record, "summary")),
}


def read_conversations(path: str | Path, check: Callable[[Conversation], Any] = lambda read: read) -> Iterator[Any]:
    """`check(conversation)` for each record of a .jsonl file; see `read_records`."""
    return read_records(path, lambda record: check(conversation(record)), "data.dialogues")


def read_records(path: str | Path, read: Callable[[object], Any], option: str) -> Iterator[Any]:
    """`read(record)` for each line of a .jsonl file; empty lines are skipped. Raises ValueError naming file, line and field, of `read` too."""
    path = Path(path)
    require(path.is_file(), option, str(path), "no such file")
    with (
        path.open("rb") as file,
        progress(f"reading {path.name}", path.stat().st_size, "bytes", shown=path.stat().st_size > 1 << 20) as advance,
    ):
        for number, line in enumerate(file, 1):
            advance(len(line))
            if not line.strip():
                continue
            try:
                yield read(_parse(line))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None


def _parse(line: bytes) -> object:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start + 1})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg}, character {error.pos + 1}); each line must hold one object") from None
    except RecursionError:
        raise ValueError("not a conversation: nested too deeply") from None


def shorten(messages: list[Message]) -> list[Message]:
    """Without the oldest turn (a user's message and all that follows up to the next); the system's stays. Empty when only one turn is left."""
    head = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    starts = [i for i, message in enumerate(messages) if message["role"] == "user" and i > head]
    return messages[:head] + messages[starts[0] :] if starts else []


class DialogueSource:
    """All conversations of a .jsonl file as a stream of the mixture: whole ones, packed so that a row holds as many as fit.

    Everything up to <sop> is part A, the rest part B with loss on the answers alone. One that is longer than `seq_len` loses its oldest turns
    (`shortened` counts these); one whose last turn alone is too long, or teaches nothing, is left out (`dropped`). The file is held in memory as ids.
    """

    def __init__(
        self,
        path: str | Path,
        tokenizer: Renderer,
        special: SpecialTokens,
        seq_len: int,
        span_positions: str,
        seed: int,
    ):
        self.path, self.seq_len, self.shortened, self.dropped = str(path), seq_len, 0, 0
        self._tokenizer, self._special, self._pin = tokenizer, special, span_positions == "pinned"
        rendered = [pair for pair in read_conversations(path, self._fit) if pair]
        require(
            bool(rendered),
            "data.dialogues",
            self.path,
            f"no conversation in it fits into {seq_len} tokens ({self.dropped} were left out)",
        )
        self._ids = np.concatenate([np.array(ids, np.int32) for ids, _ in rendered])
        self._trained = np.concatenate([np.array(mask, np.uint8) for _, mask in rendered])
        self._ends = np.cumsum([len(ids) for ids, _ in rendered])
        self._lengths = np.diff(self._ends, prepend=0)
        self.tokens = len(self._ids)
        self.fingerprint = hashlib.sha256(
            self._ids.tobytes() + self._trained.tobytes() + self._ends.tobytes() + str(seed).encode()
        ).hexdigest()
        self._key = (seed, 3, int(self.fingerprint[:8], 16))
        self._slots = fill_rows(self._lengths - 1, seq_len)
        self.rows = len(self._slots)  # in an epoch
        self._epoch: tuple[int, Ints, Ints] = (-1, self._ends, self._ends)

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def summary(self) -> str:
        """What was read, in one line."""
        return (
            f"{self.path}: {len(self)} conversations, {self.tokens} tokens, {int(self._trained.sum())} of them trained, {self.rows} rows; "
            f"{self.shortened} lost their oldest turns and {self.dropped} were left out to fit {self.seq_len} tokens"
        )

    def samples(self, number: int, rng: np.random.Generator) -> list[Sample]:
        """Conversations of row `number` of this source: every epoch holds each conversation once, in a new order."""
        epoch, row = divmod(number, self.rows)
        if self._epoch[0] != epoch:
            shuffle = np.random.default_rng((*self._key, epoch))
            # Slots are sorted by length, and equal lengths may trade places: so every epoch has the same number of rows.
            self._epoch = epoch, np.lexsort((shuffle.random(len(self)), -self._lengths)), shuffle.permutation(self.rows)
        _, order, rows = self._epoch
        return [self._sample(i) for i in rng.permutation(order[self._slots[rows[row]]]).tolist()]

    def _fit(self, read: Conversation) -> tuple[list[int], list[int]] | None:
        """Ids and loss mask of a conversation after cutting it to size."""
        messages, tools = read
        ids, mask = self._tokenizer.render(messages, tools=tools)
        require(any(mask), "messages", f"{len(messages)} of them", "no assistant's answer to learn from")
        whole = len(ids)
        while len(ids) - 1 > self.seq_len and (messages := shorten(messages)):
            ids, mask = self._tokenizer.render(messages, tools=tools)
        fits = len(ids) - 1 <= self.seq_len and any(mask)
        self.dropped += not fits
        self.shortened += fits and len(ids) < whole
        return (ids, mask) if fits else None

    def _sample(self, i: int) -> Sample:
        here = slice(self._ends[i] - self._lengths[i], self._ends[i])
        return conversation_sample(self._ids[here].astype(np.int64), self._trained[here], self._special, self._pin)


def conversation_sample(ids: Ints, trained: NDArray, special: SpecialTokens, pin: bool) -> Sample:
    """One rendered conversation: what stands before <sop> is part A and ends with [gMASK]; its "long span" is all the rest."""
    gmask = int(np.argmax(ids == special.sop)) - 1
    assert gmask >= 0 and ids[gmask] == special.gmask, (ids[:8], special)
    text, weights = _without(ids, gmask), _without(trained, gmask)
    span = np.array([[gmask, len(text)]])
    return build_sample(text, span, [0], special.gmask, special, suffix=True, pin=pin, loss_mask=weights)


def _without(values: NDArray, at: int) -> NDArray:
    """Without the two values at `at`: [gMASK] and <sop>, which `build_sample` puts back."""
    return np.concatenate((values[:at], values[at + 2 :]))


def fill_rows(lengths: Ints, size: int) -> list[Ints]:
    """Pack lengths into rows of `size`, best fit, longest first. Row -> numbers of its slots; slot j is the j-th longest."""
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(size + 1)]  # rows with so many free places
    rooms = 0  # bit r is set where by_room[r] is not empty
    for slot, length in enumerate(sorted(lengths.tolist(), reverse=True)):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            rooms &= ~(1 << room) if not by_room[room] else -1
        else:
            room, row = size, len(rows)
            rows.append([])
        rows[row].append(slot)
        by_room[room - length].append(row)
        rooms |= 1 << (room - length)
    return [np.array(row) for row in rows]
