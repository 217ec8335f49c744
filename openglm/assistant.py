"""A model, its tokenizer and the chat format in one object: what the terminal, the server and the tests talk to."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

from openglm.checkpoints.load import load_model
from openglm.config import require
from openglm.engine.engine import Engine
from openglm.engine.params import Event, SamplingParams
from openglm.text.render import parse_reply
from openglm.text.tokenizer import load_tokenizer


@dataclass
class Reply:
    """A whole answer. `usage` counts prompt_tokens and completion_tokens; `dropped` counts old messages that no longer fitted."""

    text: str
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    usage: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    dropped: int = 0


class Assistant:
    """`Assistant("nano").reply([{"role": "user", "content": "你好"}]).text`"""

    def __init__(self, path_or_name: str | PathLike[str] = "nano", *, device: str | None = None) -> None:
        self.model = load_model(path_or_name, device=device)
        self.tokenizer = load_tokenizer(path_or_name)
        self.engine = Engine(self.model, tokenizer=self.tokenizer)

    def reply(self, messages: Sequence[Mapping[str, Any]], **sampling: Any) -> Reply:
        """The whole answer; options as for `stream`."""
        answer = Reply("")
        for _ in self.stream(messages, answer=answer, **sampling):
            pass
        return answer

    def stream(
        self, messages: Sequence[Mapping[str, Any]], *, max_tokens: int = 256, temperature: float = 0.5, top_p: float = 0.8, seed: int | None = None, answer: Reply | None = None
    ) -> Iterator[str]:
        """Pieces of text as they are generated; whole characters only. `answer`, where given, is filled in by the end.

        Where the conversation outgrows the model's context, the oldest messages are left out (a system message stays) and counted in
        `answer.dropped`. Raises ValueError where the last message alone is too long, or an option is wrong.
        """
        require(max_tokens > 0, "max_tokens", max_tokens, "must be a positive whole number")
        answer = answer if answer is not None else Reply("")
        start, config = time.perf_counter(), self.model.config
        prompt, answer.dropped = self._fitting(list(messages), config.max_positions)
        params = SamplingParams(max_tokens=min(max_tokens, config.max_positions - len(prompt)), temperature=temperature, top_p=top_p, seed=seed)
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

    def _fitting(self, messages: list[Mapping[str, Any]], room: int) -> tuple[list[int], int]:
        """Prompt ids that leave an eighth of the context for the answer, and how many old messages that cost."""
        system = messages[:1] if messages and messages[0].get("role") == "system" else []
        turns, limit = messages[len(system) :], room - room // 8
        for first in range(max(len(turns), 1)):
            if first and turns[first].get("role") != "user":
                continue
            ids, _ = self.tokenizer.render(system + turns[first:], generation_prompt=True)
            if len(ids) <= limit:
                return ids, first
        raise ValueError(f"messages: the last one takes {len(ids)} tokens and this model reads at most {limit} (context {room}); shorten it")

    def fill(self, text: str, blank: str = "___", *, max_tokens: int = 32, temperature: float = 0.0, seed: int | None = None) -> list[str]:
        """What belongs into each `blank` of the text, by blank infilling: the model reads both sides of all blanks, and its own earlier fillings."""
        special, config = self.tokenizer.special, self.model.config
        pieces = text.split(blank)
        require(config.mask == "prefix", "model", "causal", "reads only the past, so it cannot fill blanks; take a GLM model")
        require(len(pieces) > 1, "text", text, f"has no blank; write {blank} where words are missing")
        parts: list[str | int] = [pieces[0]]
        for piece in pieces[1:]:
            parts += [special["[MASK]"], piece]
        ids, fillings = self.tokenizer.encode_parts(parts), []
        params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed, stop_ids=(special["<eop>"],), ignore_eos=True)
        for _ in pieces[1:]:
            ids.append(special["<sop>"])
            *_, event = self.engine.stream(ids, params)
            span = [token for token in self._ids(event) if token != special["<eop>"]]
            ids += span
            fillings.append(self.tokenizer.decode(span))
        return fillings
