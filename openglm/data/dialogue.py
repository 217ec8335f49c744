"""A source of whole conversations for `mixture.py`: users' files as training samples, and an account of what is not
taught.

The tokenizer's renderer says which tokens are trained. Conversations are never cut in the middle of a turn.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from openglm.config import SpecialTokens, require
from openglm.data.conversations import Message, conversation, unused
from openglm.data.infilling import build_sample
from openglm.data.packing import PackedEpochs
from openglm.data.records import read_records
from openglm.data.samples import Sample

Fitted = TypeVar("Fitted")
Rendered = tuple[list[int], list[int]]  # ids, loss mask
_LOST = 0.05  # share of conversations above which their loss gets a line of its own


class Renderer(Protocol):
    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> Rendered: ...


def shorten(messages: list[Message], turns: int = 1) -> list[Message]:
    """Without the oldest turns (a user's message and all that follows up to the next); the system's stays. Empty when
    none is left."""
    head = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    starts = [i for i, message in enumerate(messages) if message["role"] == "user" and i > head]
    return messages[:head] + messages[starts[turns - 1] :] if len(starts) >= turns else []


def fit(
    render: Callable[[list[Message]], Fitted | None], messages: list[Message], few: int = 0
) -> tuple[Fitted | None, int]:
    """The conversation with as many of its last turns as `render` gives something for, None where there is no such; and
    how many turns it lost, `few` at least.

    Fewer turns are never longer, so halving finds them: a long conversation is rendered some times, not once a turn.
    """
    best, lost = render(shorten(messages, few) if few else messages), few
    if best is not None:
        return best, few
    few, many = few + 1, 1 + sum(message["role"] == "user" for message in messages)
    while few < many:
        middle = (few + many) // 2
        kept = shorten(messages, middle)
        found = render(kept) if kept else None
        if found is None and kept:
            few = middle + 1
        else:
            best, many = found or best, middle
    return best, many if best else lost


class DialogueSource:
    """All conversations of a file or folder as a stream of the mixture: whole ones, packed so that a row holds as many
    as fit.

    Everything up to <sop> is part A, the rest part B with loss on the answers alone. One that is longer than `seq_len`
    loses its oldest turns; one whose last turn alone is too long, or teaches nothing, is left out. `counts` says how
    many of each. The file is held in memory as ids.
    fields: see `conversation`. skip_bad: leave out records that cannot be read. Raises ValueError of one line for these
    otherwise, and where nothing is left, with the name of the `option`.
    """

    def __init__(
        self,
        path: str | Path,
        tokenizer: Renderer,
        special: SpecialTokens,
        seq_len: int,
        span_positions: str,
        seed: int,
        *,
        fields: Mapping[str, str] | None = None,
        skip_bad: bool = False,
        option: str = "data.dialogues",
    ):
        self.path, self.seq_len, self.counts = str(path), seq_len, Counter[str]()
        self._tokenizer, self._special, self._span_positions = tokenizer, special, span_positions
        self._fields, self._longest = fields or {}, 0
        self._turns = getattr(getattr(tokenizer, "format", None), "turns", None)
        records = read_records(path, self._read, option, skip_bad)
        rendered = [pair for pairs in records for pair in pairs]
        lost = f"nothing in it to learn from in rows of {seq_len} tokens: {self._account() or 'it is empty'}"
        require(bool(rendered), option, self.path, lost)
        self._ids = [np.array(ids, np.int32) for ids, _ in rendered]
        self._trained = [np.array(mask, np.uint8) for _, mask in rendered]
        lengths = np.array([len(ids) for ids in self._ids])
        self.tokens = int(lengths.sum())
        arrays: list[NDArray] = [*self._ids, *self._trained, lengths.cumsum()]
        content = b"".join(array.tobytes() for array in arrays) + str(seed).encode()
        self.fingerprint = hashlib.sha256(content).hexdigest()
        self._packed = PackedEpochs(lengths - 1, seq_len, (seed, 3, int(self.fingerprint[:8], 16)))
        self.rows = self._packed.rows  # in an epoch

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def summary(self) -> str:
        """What was read, and what of it is not taught, in one line."""
        read = (
            f"{self.path}: {len(self)} conversations, {self.tokens} tokens, {sum(map(np.sum, self._trained))} of them"
            f" trained, {self.rows} rows"
        )
        return "; ".join(filter(None, [read, self._account()]))

    @property
    def warning(self) -> str:
        """A line where more than a few conversations are taught in part or not at all; else empty."""
        gone = self.counts["too long"] + self.counts["nothing"]
        lost, total = gone + self.counts["shortened"], gone + len(self)
        if lost <= _LOST * total:
            return ""
        longest = f"; the longest has {self._longest} tokens, train.seq_len is {self.seq_len}"
        return (
            f"warning: {self.path}: {lost} of {total} conversations lost turns or were left out"
            f"{longest if self._longest > self.seq_len else ''}"
        )

    def _account(self) -> str:
        """What is not taught, by reason, with counts."""
        words = {
            "shortened": f"lost their oldest turns to fit {self.seq_len} tokens",
            "too long": f"were left out, their last turn being longer than {self.seq_len} tokens",
            "nothing": "were left out, having no answer to learn from",
            "empty": "answers are empty and not taught",
            "split": "stand for a conversation's earlier answers, which this format shows otherwise than it asks for them",
            "thoughts": "answers have thoughts that are not taught: this model's format has none",
            "without": "answers without thoughts are taught with empty ones",
        }
        parts = [f"{self.counts[name]} {text}" for name, text in words.items() if self.counts[name]]
        names = {name: count for name, count in self.counts.items() if name not in words}
        if names:
            parts.append("fields not used: " + ", ".join(f"{name} ({count})" for name, count in names.items()))
        return "; ".join(parts)

    def rendered(self) -> Iterator[Rendered]:
        """Ids and loss mask of each conversation, in the file's order."""
        for ids, trained in zip(self._ids, self._trained, strict=True):
            yield ids.tolist(), trained.tolist()

    def samples(self, number: int, rng: np.random.Generator) -> list[Sample]:
        """Conversations of row `number` of this source: every epoch holds each conversation once, in a new order."""
        return [
            conversation_sample(self._ids[i], self._trained[i], self._special, self._span_positions)
            for i in rng.permutation(self._packed.items(number)).tolist()
        ]

    def _read(self, record: object) -> list[Rendered]:
        """The samples of one record: one, or one for each answer where the format shows earlier answers otherwise."""
        messages, tools = conversation(record, self._fields)
        counts = Counter(unused(record, self._fields, messages))
        alone = self._turns is not None and self._turns.alone(messages)
        answers = self._check_answers(messages, counts)
        found: list[Rendered] = []
        lost = 0
        for end in answers if alone else answers[-1:]:
            part = [{**message, "loss": False} for message in messages[:end]] if alone else messages
            rendered, lost = self._fit([*part, messages[end]] if alone else part, tools, counts, lost)
            found += [rendered] if rendered else []
        if not answers:
            self._tokenizer.render(messages, tools=tools)  # a fault in it matters more
            said = any(message["role"] == "assistant" for message in messages)
            require(said, "messages", f"{len(messages)} of them", "no assistant's answer to learn from")
            counts["nothing"] += 1
        counts["split"] += max(len(found) - 1, 0)
        self.counts += counts
        return found

    def _check_answers(self, messages: list[Message], counts: Counter[str]) -> list[int]:
        """Numbers of the messages that are taught. An empty one is not: it would teach to say nothing."""
        answers = []
        for number, message in enumerate(messages):
            if message.get("role") != "assistant":
                continue
            content, thoughts = message.get("content"), message.get("reasoning_content")
            if content is not None and not message.get("tool_calls") and not (str(content).strip() or thoughts):
                messages[number] = {**message, "loss": False}
                counts["empty"] += 1
            elif message.get("loss", True):
                answers.append(number)
                thinks = self._turns is not None and self._turns.thinks
                counts["thoughts"] += bool(thoughts) and not thinks
                counts["without"] += thinks and not (thoughts or "</think>" in str(content))
        return answers

    def _fit(
        self, messages: list[Message], tools: list[Any] | None, counts: Counter[str], lost: int
    ) -> tuple[Rendered | None, int]:
        """Ids and loss mask of a conversation with as many of its last turns as fit, and how many it lost."""

        def render(kept: list[Message]) -> Rendered | None:
            ids, mask = self._tokenizer.render(kept, tools=tools)
            self._longest = max(self._longest, len(ids))
            return (ids, mask) if len(ids) - 1 <= self.seq_len else None

        best, lost = fit(render, messages, lost)
        trained = best is not None and any(best[1])
        counts["shortened"] += trained and lost > 0
        counts["too long" if best is None else "nothing"] += not trained
        return (best if trained else None), lost


def conversation_sample(
    ids: Sequence[int] | NDArray, trained: Sequence[int] | NDArray, special: SpecialTokens, span_positions: str
) -> Sample:
    """One rendered conversation: what stands before <sop> is part A and ends with [gMASK]; its "long span" is all the
    rest.
    """
    ids = np.asarray(ids, np.int64)
    gmask = int(np.argmax(ids == special.sop)) - 1
    assert gmask >= 0 and ids[gmask] == special.gmask, (ids[:8], special)
    text, weights = _without(ids, gmask), _without(np.asarray(trained), gmask)
    span = np.array([[gmask, len(text)]])
    pin = span_positions == "pinned"
    return build_sample(text, span, [0], special.gmask, special, suffix=True, pin=pin, loss_mask=weights)


def _without(values: NDArray, at: int) -> NDArray:
    """Without the two values at `at`: [gMASK] and <sop>, which `build_sample` puts back."""
    return np.concatenate((values[:at], values[at + 2 :]))
