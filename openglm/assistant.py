"""A model, its tokenizer and the chat format in one object: what the terminal, the server and the tests talk to."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from typing import Any

from openglm.checkpoints.load import load_model
from openglm.checkpoints.native import resolve
from openglm.config import EngineConfig, require
from openglm.engine.engine import Engine
from openglm.engine.params import Event, Result, SamplingParams
from openglm.text.load import load_tokenizer
from openglm.text.render import parse_reply

__all__ = ["Assistant", "Event", "Reply", "Result", "SamplingParams"]
_CALL = "<|observation|>"  # closes an answer that calls a tool


@dataclass
class Reply:
    """A whole answer. `usage` counts prompt_tokens and completion_tokens; `dropped` counts old messages that no longer fitted."""

    text: str
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    usage: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    dropped: int = 0


class Assistant:
    """`Assistant("nano").reply([{"role": "user", "content": "你好"}]).text`

    The CPU kernels take the weights over, so that they are in memory once: `model` then serves for its configuration alone, unless an
    `engine` configuration with `keep_weights` is given.
    """

    def __init__(
        self,
        path_or_name: str | PathLike[str] = "nano",
        *,
        device: str | None = None,
        quantize: str | None = None,
        engine: EngineConfig | None = None,
    ) -> None:
        self.folder = resolve(path_or_name)
        self.model = load_model(path_or_name, device=device, quantize=quantize)
        self.tokenizer = load_tokenizer(path_or_name)
        self.engine = Engine(self.model, engine or EngineConfig(keep_weights=False), tokenizer=self.tokenizer)

    @cached_property
    def fingerprint(self) -> str:
        """Names the weights in what is kept of answers: a hash of the manifest, or of the configuration and the files' sizes where there is none."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.iterdir()):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            digest.update(path.read_bytes() if path.name in ("manifest.json", "config.json") else b"")
        return digest.hexdigest()[:16]

    def reply(self, messages: Sequence[Mapping[str, Any]], **sampling: Any) -> Reply:
        """The whole answer; options as for `stream`."""
        answer = Reply("")
        for _ in self.stream(messages, answer=answer, **sampling):
            pass
        return answer

    def stream(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None = None, max_tokens: int = 256, temperature: float = 0.5, top_p: float = 0.8,
        seed: int | None = None, answer: Reply | None = None,
    ) -> Iterator[str]:  # fmt: skip
        """Pieces of text as they are generated; whole characters only. `answer`, where given, is filled in by the end.

        Where the conversation outgrows the model's context, the oldest messages are left out (a system message stays) and counted in
        `answer.dropped`. Raises ValueError where the last message alone is too long, or an option is wrong.
        """
        require(max_tokens > 0, "max_tokens", max_tokens, "must be a positive whole number")
        answer = answer if answer is not None else Reply("")
        start, config = time.perf_counter(), self.model.config
        prompt, answer.dropped = self._fitting(list(messages), config.max_positions, tools)
        params = SamplingParams(
            max_tokens=min(max_tokens, config.max_positions - len(prompt)),
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        )
        for event in self.engine.stream(prompt, params):
            if event.text:
                yield event.text
        ids = self._ids(event)
        message = parse_reply(self.tokenizer, ids)
        answer.text, answer.tool_calls = message["content"], message.get("tool_calls", [])
        answer.usage = {"prompt_tokens": len(prompt), "completion_tokens": len(ids)}
        answer.seconds = time.perf_counter() - start

    @staticmethod
    def _ids(last: Event) -> list[int]:
        """The tokens of an answer that has ended. Raises ValueError where it failed."""
        if last.result.error:
            raise ValueError(last.result.error)
        return last.result.ids

    def _fitting(
        self, messages: list[Mapping[str, Any]], room: int, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> tuple[list[int], int]:
        """Prompt ids that leave an eighth of the context for the answer, and how many old messages that cost."""
        system = messages[:1] if messages and messages[0].get("role") == "system" else []
        turns, limit = messages[len(system) :], room - room // 8
        starts = [0] + [first for first in range(1, len(turns)) if turns[first].get("role") == "user"]
        starts = [first for first in starts if _characters(turns[first:]) <= self.most_characters] or starts[-1:]
        low, high = 0, len(starts)  # halve the number of starts still in question: the fewer turns, the fewer tokens
        fitting = None
        while low < high:
            middle = (low + high) // 2 if fitting or low else 0  # the whole conversation first: it nearly always fits
            ids, _ = self.tokenizer.render(system + turns[starts[middle] :], tools, generation_prompt=True)
            if len(ids) <= limit:
                fitting, high = (ids, starts[middle]), middle
            else:
                low = middle + 1
        require(
            fitting is not None,
            "messages",
            f"{len(ids)} tokens",
            f"this model reads at most {limit} (context {room}); shorten the last message",
        )
        return fitting

    def ask(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        cut: bool = False,
    ) -> tuple[list[int], int]:
        """Prompt ids of a conversation, and how many of its oldest messages were left out for it to fit: with `cut` as many as need be, else none."""
        if cut:
            return self._fitting(list(messages), self.model.config.max_positions, tools)
        self.require_short("messages", _characters(messages) + len(str(tools)))
        ids, _ = self.tokenizer.render(messages, tools, generation_prompt=True)
        return ids, 0

    def go_on(self, prompt: str) -> list[int]:
        """Prompt ids for text that the model is to go on with."""
        self.require_short("prompt", len(prompt))
        if self.model.config.mask == "prefix":
            return self.tokenizer.prompt(prompt)
        return [self.tokenizer.tokens.gmask, self.tokenizer.tokens.sop, *self.tokenizer.encode(prompt)]

    def blank(self, before: str, after: str, room: int | None = None) -> list[int]:
        """Prompt ids for text that the model is to write between two others; of both, only what lies nearest where `room` tokens are not enough."""
        if room is None:
            self.require_short("prompt", len(before) + len(after))
        before, after = before[-self.most_characters :], after[: self.most_characters]
        require(
            self.model.config.mask == "prefix",
            "suffix",
            after[:20],
            "this model reads only the past, so it cannot fill blanks; leave the suffix out",
        )
        mask = self.tokenizer.tokens.mask
        ids = self.tokenizer.encode_parts([before, mask, after])
        head, tail = self._blanks_frame(ids)
        left, right = ids[: ids.index(mask)], ids[ids.index(mask) + 1 :]
        if room is not None:
            room = max(room - len(head) - 1 - len(tail), 0)
            ahead = min(
                len(left), max(room * 3 // 4, room - len(right))
            )  # what was just written says more than what follows
            left, right = left[len(left) - ahead :], right[: room - ahead]
        return [*head, *left, mask, *right, *tail]

    def _blanks_frame(self, ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """Ids before and behind a text with blanks, the last of which opens the first filling. [gMASK], which ChatGLM-6B always gets, would be read as one more."""
        head, tail = self.tokenizer.format.frame(self.tokenizer.special, ids)
        return head, [token for token in tail if token != self.tokenizer.tokens.gmask]

    @cached_property
    def most_characters(self) -> int:
        """A longer text is not worth the time of cutting it into tokens: it cannot fit the context, even where it is normalised to a quarter."""
        longest = max(len(self.tokenizer.decode_bytes([token])) for token in range(self.tokenizer.vocab_size))
        return 4 * longest * self.model.config.max_positions

    def require_short(self, option: str, characters: int) -> None:
        require(
            characters <= self.most_characters,
            option,
            f"{characters} characters",
            f"do not fit the context of {self.model.config.max_positions} tokens; shorten it",
        )

    @property
    def blank_ends(self) -> tuple[int, ...]:
        """The token that ends the text in a blank."""
        return (self.tokenizer.tokens.eop,)

    def called(self, ids: Sequence[int]) -> dict[str, Any] | None:
        """A finished answer as a message, where it calls a tool."""
        if not ids or ids[-1] != self.tokenizer.special.get(_CALL):
            return None
        message = parse_reply(self.tokenizer, ids)
        return message if message.get("tool_calls") else None

    def call_opening(self, name: str) -> list[int]:
        """Ids with which an answer begins that calls this tool; its arguments as JSON follow."""
        return self.tokenizer.encode(f"{name}\n{self.tokenizer.format.turns.call_opening}")

    def fill(
        self, text: str, blank: str = "___", *, max_tokens: int = 32, temperature: float = 0.0, seed: int | None = None
    ) -> list[str]:
        """What belongs into each `blank` of the text, by blank infilling: the model reads both sides of all blanks, and its own earlier fillings."""
        tokens, pieces = self.tokenizer.tokens, text.split(blank)
        require(
            self.model.config.mask == "prefix",
            "model",
            "causal",
            "reads only the past, so it cannot fill blanks; take a GLM model",
        )
        require(len(pieces) > 1, "text", text, f"has no blank; write {blank} where words are missing")
        parts: list[str | int] = [pieces[0]]
        for piece in pieces[1:]:
            parts += [tokens.mask, piece]
        ids, fillings = self.tokenizer.encode_parts(parts), []
        head, tail = self._blanks_frame(ids)
        ids = [*head, *ids, *tail[:-1]]
        params = SamplingParams(
            max_tokens=max_tokens, temperature=temperature, seed=seed, stop_ids=self.blank_ends, ignore_eos=True
        )
        for _ in pieces[1:]:
            ids.append(tokens.sop)
            *_, event = self.engine.stream(ids, params)
            span = [token for token in self._ids(event) if token not in self.blank_ends]
            ids += span
            fillings.append(self.tokenizer.decode(span))
        return fillings


def _characters(messages: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(message.get("content") or "") for message in messages)
