"""Pairs of a better and a worse answer to a prompt: the reader of users' files, and rows for reward models and DPO.

One pair per record, in any of the shapes that circulate; an answer is text, a message or a list of messages:

    {"prompt": text or messages, "chosen", "rejected", "system"?, "tools"?}             ours (`glm data feedback`), TRL
    {"chosen": [messages], "rejected": [messages]}                                      TRL, the prompt in both
    {"chosen": "\\n\\nHuman: .. \\n\\nAssistant: ..", "rejected"}                           Anthropic's HH
    {"conversations": [{"from", "value"} ..], "chosen": {"from", "value"}, "rejected"}  LLaMA-Factory
    {"instruction", "input"?, "chosen", "rejected"}                                     Alpaca

"margin" (a number, default 0) says by how much the better one is better, "tie": true that neither is.
"""

import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openglm.config import SpecialTokens, require
from openglm.data.conversations import Conversation, Message, asked, conversation
from openglm.data.dialogue import Rendered, Renderer, conversation_sample, fit
from openglm.data.mixture import Row, pack
from openglm.data.packing import PackedEpochs
from openglm.data.samples import Ints, Sample

CHOSEN, REJECTED = 0, 1
_HH_TURN = re.compile(r"\n\n(Human|Assistant): ?")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class Preference:
    """Two ways to go on from a prompt, in OpenAI's messages."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    tools: list[Any] | None = None
    margin: float = 0.0
    tie: bool = False


def preference(record: object) -> Preference:
    """One record in any known shape. Raises ValueError naming the field."""
    if not isinstance(record, dict):
        raise ValueError(f"record = {type(record).__name__}: must be one JSON object")
    for field in ("chosen", "rejected"):
        require(field in record, field, None, "a pair needs the fields chosen and rejected")
    prompt, tools = _prompt(record)
    chosen, rejected = (_answer(record[field], field) for field in ("chosen", "rejected"))
    if not prompt:
        prompt, chosen, rejected = _split_prompt(chosen, rejected)
    margin, tie = record.get("margin", 0.0), record.get("tie", False)
    number = isinstance(margin, int | float) and not isinstance(margin, bool) and math.isfinite(margin)
    require(number and margin >= 0, "margin", margin, "must be a number, 0 or more")
    require(isinstance(tie, bool), "tie", tie, "must be true or false")
    require(tie or chosen != rejected, "rejected", "...", "is the chosen answer again")
    return Preference(prompt, chosen, rejected, tools, float(margin), tie)


def _prompt(record: Message) -> Conversation:
    """What both answers have before them; empty where the answers hold it."""
    turns = record.get("prompt") or record.get("messages") or record.get("conversations")
    if "instruction" in record:
        parts = [record[name] for name in ("instruction", "input") if record.get(name)]
        require(all(isinstance(part, str) for part in parts), "instruction", parts, "must be text, and input too")
        turns = "\n".join(parts)
    return asked(record, turns) if turns else ([], None)


def _answer(value: object, field: str) -> list[Message]:
    if isinstance(value, str):
        pieces = _HH_TURN.split(value)
        if len(pieces) > 1 and not pieces[0].strip():
            said = zip(pieces[1::2], pieces[2::2], strict=True)
            return [{"role": _HH_ROLES[who], "content": text.strip()} for who, text in said]
        return [{"role": "assistant", "content": value}]
    turns: list[Any] = value if isinstance(value, list) else [value]
    require(bool(turns) and all(isinstance(turn, dict) for turn in turns), field, value, "must be text or messages")
    key = "messages" if "role" in turns[0] else "conversations"
    return conversation({key: turns})[0]


def _split_prompt(chosen: list[Message], rejected: list[Message]) -> tuple[list[Message], list[Message], list[Message]]:
    """The messages that both begin with, and what is left of each."""
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
    common = min(len(list(pairs)), len(chosen) - 1, len(rejected) - 1)
    require(common > 0, "prompt", None, "missing, and the two answers do not begin with the same messages")
    return chosen[:common], chosen[common:], rejected[common:]


@dataclass(frozen=True, kw_only=True)
class PreferenceRow(Row):
    """Rows come in twos: one holds the chosen answers of some pairs, packed, the next the rejected ones of the same.

    Trained are the answers' tokens and the tokens that end them. All arrays but `pairs` have length seq_len.
    """

    pair: Ints
    """number of the pair in its two rows"""
    side: Ints
    """CHOSEN or REJECTED"""
    end: NDArray[np.float32]
    """1 where an answer's last trained target is predicted"""
    reference: NDArray[np.float32]
    """log-probability of the target under the reference; 0 until `PreferenceRows.reference` is set"""
    margin: NDArray[np.float32]
    tie: NDArray[np.bool_]
    pairs: Ints
    """[] how many pairs this row and its twin hold; 0 in the second, so that a sum counts each once"""


class PreferenceRows:
    """All pairs of a file as rows: every epoch holds each pair once, packed anew.

    A prompt that is too long loses its oldest turns, the same for both answers (`shortened` counts these); a pair that
    does not fit even then is left out (`dropped`). Raises ValueError where no pair is left.
    """

    def __init__(
        self,
        preferences: Iterable[Preference],
        tokenizer: Renderer,
        special: SpecialTokens,
        *,
        seq_len: int,
        span_positions: str,
        seed: int,
    ) -> None:
        self.seq_len, self.shortened, self.dropped, self._seed = seq_len, 0, 0, seed
        self._special, self._span_positions = special, span_positions
        self.samples: list[tuple[Sample, Sample]] = []
        marks = []
        for given in preferences:
            pair = self._fit(given, tokenizer)
            if pair:
                self.samples.append(pair)
                marks.append((given.margin, given.tie))
        left = f"none of {self.dropped} pairs fits into {seq_len} tokens; raise train.seq_len"
        require(bool(self.samples), "data.pairs", len(self.samples), left if self.dropped else "no pair in it")
        self._margins = np.array([margin for margin, _ in marks], np.float32)
        self._ties = np.array([tie for _, tie in marks], bool)
        self._packed = PackedEpochs(np.array([max(map(len, pair)) for pair in self.samples]), seq_len, (seed, 4))
        self.reference: Sequence[Sequence[NDArray[np.float32]]] | None = None
        """log-probabilities of every sample's targets under the reference"""
        self.fingerprint = self._hash()

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return 2 * self._packed.rows

    @property
    def summary(self) -> str:
        """What was read, in one line."""
        sizes = np.array([[sample.loss_mask.sum() for sample in pair] for pair in self.samples])
        longer = int((sizes[:, CHOSEN] > sizes[:, REJECTED]).sum())
        return (
            f"{len(self)} pairs in {self.rows} rows of {self.seq_len} tokens; chosen answers have"
            f" {sizes[:, CHOSEN].mean():.0f} tokens on average, rejected ones {sizes[:, REJECTED].mean():.0f}, and the"
            f" chosen one is longer in {longer} pairs; {self.shortened} prompts lost their oldest turns and"
            f" {self.dropped} pairs were left out to fit"
        )

    def each(self) -> Iterator[tuple[list[int], int, PreferenceRow]]:
        """The pairs, the side and the row, for all rows of an epoch."""
        for number in range(self._packed.rows):
            pairs = self.pairs_of(number)
            for side in (CHOSEN, REJECTED):
                yield pairs, side, self._pack(pairs, side)

    def row(self, index: int) -> PreferenceRow:
        twin, side = divmod(index, 2)
        return self._pack(self.pairs_of(twin), side)

    def pairs_of(self, twin: int) -> list[int]:
        """Numbers of the pairs in two rows, counted over all epochs."""
        return self._packed.items(twin).tolist()

    def _pack(self, pairs: list[int], side: int) -> PreferenceRow:
        samples = [self.samples[pair][side] for pair in pairs]
        row = pack(samples, self.seq_len, self._special.pad)
        inside = row.segment >= 0
        own = np.where(inside, np.array(pairs)[row.segment], 0)  # the pair of each token
        reference: NDArray[np.float32] = np.zeros(self.seq_len, np.float32)
        if self.reference is not None:
            reference[inside] = np.concatenate([self.reference[pair][side] for pair in pairs])
        ends = np.cumsum([len(sample) for sample in samples])
        last = [end - 1 - int(np.argmax(s.loss_mask[::-1] > 0)) for end, s in zip(ends, samples, strict=True)]
        end: NDArray[np.float32] = np.zeros(self.seq_len, np.float32)
        end[last] = 1
        return PreferenceRow(
            **vars(row),
            pair=np.maximum(row.segment, 0),
            side=np.full(self.seq_len, side),
            end=end,
            reference=reference,
            margin=np.where(inside, self._margins[own], 0),
            tie=inside & self._ties[own],
            pairs=np.array(len(pairs) if side == CHOSEN else 0),
        )

    def _fit(self, given: Preference, tokenizer: Renderer) -> tuple[Sample, Sample] | None:
        def render(prompt: list[Message]) -> tuple[Rendered, Rendered] | None:
            chosen, rejected = (
                tokenizer.render([*prompt, *answer], tools=given.tools) for answer in (given.chosen, given.rejected)
            )
            require(any(chosen[1]) and any(rejected[1]), "chosen", "...", "an answer without a token to learn from")
            return (chosen, rejected) if max(len(chosen[0]), len(rejected[0])) - 1 <= self.seq_len else None

        best, lost = fit(render, [{**message, "loss": False} for message in given.prompt])
        self.shortened += best is not None and lost > 0
        self.dropped += best is None
        if best is None:
            return None
        chosen, rejected = (conversation_sample(*answer, self._special, self._span_positions) for answer in best)
        return chosen, rejected

    def _hash(self) -> str:
        digest = hashlib.sha256(f"{self._seed} {self.seq_len}".encode())
        for pair, margin, tie in zip(self.samples, self._margins.tolist(), self._ties.tolist(), strict=True):
            digest.update(f"{margin} {tie}".encode())
            for sample in pair:
                digest.update(sample.tokens.tobytes() + sample.loss_mask.tobytes())
        return digest.hexdigest()
