"""One answer of a request in OpenAI's words, streamed or whole: what is streamed adds up to what is whole."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from openglm.assistant import Assistant, EngineRequest, Event, Result, Turn
from openglm.serve.service import Batch, Service, Version
from openglm.text.reading import Piece, ReplyReader
from openglm.text.streaming import ReplyStream

_REASONS = {
    "stop": "stop",
    "length": "length",
    "cancelled": "length",
}  # cancelled: by the deadline or the end of the server, so it is not whole


class Choice:
    """Feed it the engine's events; what they add comes out as a message's fields."""

    def __init__(self, assistant: Assistant) -> None:
        self.assistant = assistant
        self.reason: str | None = None
        self.tokens, self.cached, self.echoed = 0, 0, False
        self._pieces: list[str] = []
        self._logprobs: list[Any] = []

    def feed(self, events: Sequence[Event]) -> list[dict[str, Any]]:
        """Take in events; returns the deltas that they make certain, all text in one."""
        self._logprobs += [
            one.logprob
            for one in events
            if one.logprob is not None
            and one.token is not None
            and (self.echoed or self.assistant.tokenizer.decode_bytes([one.token]))
        ]
        result = events[-1].result
        if result is not None:
            self.reason, self.tokens, self.cached = (
                _REASONS[result.finish_reason],
                len(result.ids) - result.repeated,
                result.cached_tokens,
            )
        return self._read(events, result)

    def _read(self, events: Sequence[Event], result: Result | None) -> list[dict[str, Any]]:
        raise NotImplementedError

    def take_logprobs(self) -> list[Any]:
        """Those that no chunk has carried yet."""
        taken, self._logprobs = self._logprobs, []
        return taken

    def name(self, token: int) -> tuple[str, list[int]]:
        """A token as text and as bytes."""
        raw = self.assistant.tokenizer.decode_bytes([token])
        return raw.decode("utf-8", errors="replace"), list(raw)


class ChatChoice(Choice):
    def __init__(
        self,
        assistant: Assistant,
        names: Sequence[str] = (),
        reader: ReplyReader | None = None,
        most: int | None = None,
        begun: bool = False,
    ) -> None:
        """most: so many calls are passed on, and those behind them left out, where the request wants it so. begun: the
        request wrote how the answer begins."""
        super().__init__(assistant)
        self.reply, self.most = ReplyStream(assistant.tokenizer, names, reader, begun), most
        self.calls: list[Any] = []
        self._thoughts: list[str] = []

    def _read(self, events: Sequence[Event], result: Result | None) -> list[dict[str, Any]]:
        text = "".join([self.reply.feed(one.token, one.text) for one in events])
        if result is not None:
            text += self.reply.end(result.ids)[0]
        thoughts, self.reply.thoughts = "".join(self.reply.thoughts), []
        deltas: list[dict[str, Any]] = [{"reasoning_content": thoughts}] if thoughts else []
        deltas += [{"content": text}] if text else []
        self._thoughts.append(thoughts)
        self._pieces.append(text)
        for call in self.reply.calls[len(self.calls) : self.most]:
            function = call["function"]
            written = json.dumps(function["arguments"], ensure_ascii=False)
            deltas.append({"tool_calls": [{"index": len(self.calls), **(made := _call(function["name"], written))}]})
            self.calls.append(made)
        if self.calls and self.reason == "stop":
            self.reason = "tool_calls"
        return deltas

    def message(self) -> dict[str, Any]:
        text, thoughts = "".join(self._pieces), "".join(self._thoughts)
        message = {"role": "assistant", "content": text if text or not self.calls else None, "refusal": None}
        message |= {"reasoning_content": thoughts} if thoughts else {}
        return {**message, "tool_calls": self.calls} if self.calls else message

    def opening(self) -> list[dict[str, Any]]:
        return [{"role": "assistant", "content": ""}]

    def chunk(self, index: int, delta: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "index": index,
            "delta": delta or {},
            "logprobs": None if "role" in (delta or ()) else self._written(),
            "finish_reason": self.reason if delta is None else None,
        }

    def whole(self, index: int) -> dict[str, Any]:
        return {"index": index, "message": self.message(), "logprobs": self._written(), "finish_reason": self.reason}

    def _written(self) -> dict[str, Any] | None:
        taken = self.take_logprobs()
        return (
            {
                "content": [
                    {**self._entry(t.token, t.logprob), "top_logprobs": [self._entry(*pair) for pair in t.top.items()]}
                    for t in taken
                ],
                "refusal": None,
            }
            if taken
            else None
        )

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text, raw = self.name(token)
        return {"token": text, "logprob": logprob, "bytes": raw}


class TurnChoice(ChatChoice):
    """An answer whose tools are run here; each call is a step, in a field of its own beside the text."""

    def __init__(self, assistant: Assistant, turn: Turn) -> None:
        super().__init__(assistant)
        self.turn, self.steps = turn, list[dict[str, Any]]()
        self._ready: list[Piece] = []
        if turn.over:  # nothing was found to answer from
            self.reason, self._pieces = "stop", [turn.text]

    async def batches(self, service: Service, version: Version | None) -> AsyncGenerator[Batch, None]:
        """The events of one request after another, and an empty one when tools have been run."""
        version = version or service.pick()
        while not self.turn.over:
            async with aclosing(service.answer([self.turn.request], version)) as batches:
                async for batch in batches:
                    yield batch
            result = batch[-1][1].result
            assert result is not None, "an answer's last event brings its result"
            self.cached = self.cached or result.cached_tokens
            self._ready = await asyncio.to_thread(self.turn.advance, result.ids)
            self.turn.over = self.turn.over or result.finish_reason == "cancelled"
            self.reason = _REASONS[result.finish_reason] if self.turn.over else None
            yield [(0, Event(0))]

    def feed(self, events: Sequence[Event]) -> list[dict[str, Any]]:
        pieces = [piece for one in events for piece in self.turn.feed(one.token, one.text)] + self._ready
        self._ready, self.tokens = [], self.turn.tokens
        deltas: list[dict[str, Any]] = []
        for kind, what in pieces:
            if kind == "step":
                self.steps.append(dataclasses.asdict(what))
                deltas.append({"steps": self.steps[-1:]})
            else:
                (self._pieces if kind == "content" else self._thoughts).append(what)
                deltas.append({kind: what})
        return deltas + ([found] if self.reason and (found := self._sources()) else [])

    def _sources(self) -> dict[str, Any]:
        """What a checked answer cites, and where in it, in OpenAI's form."""
        if (checked := self.turn.checked) is None:
            return {}
        annotations = [
            {
                "type": "url_citation",
                "url_citation": {"start_index": start, "end_index": end, "url": source.url, "title": source.title},
            }
            for start, end, source in checked.marks
        ]
        citations = [dataclasses.asdict(citation) for citation in checked.citations]
        return {"citations": citations, "annotations": annotations, "problems": checked.problems}

    def opening(self) -> list[dict[str, Any]]:
        known = self.turn.over and not self.turn.tokens
        return [{"role": "assistant", "content": self.turn.text}, self._sources()] if known else super().opening()

    def message(self) -> dict[str, Any]:
        return super().message() | ({"steps": self.steps} if self.steps else {}) | self._sources()


class CallChoice(ChatChoice):
    """A call that the request demanded: the answer is its arguments and nothing else."""

    def __init__(self, assistant: Assistant, name: str) -> None:
        super().__init__(assistant)
        self.call = _call(name, "")

    def _read(self, events: Sequence[Event], result: Result | None) -> list[dict[str, Any]]:
        text = _text(events)
        self.call["function"]["arguments"] += text
        self.calls = [self.call]
        if result is not None and self.reason == "stop":
            self.reason = "tool_calls"
        return [{"tool_calls": [{"index": 0, "function": {"arguments": text}}]}] if text else []

    def opening(self) -> list[dict[str, Any]]:
        return [
            {"role": "assistant", "content": None},
            {"tool_calls": [{"index": 0, **self.call, "function": {**self.call["function"], "arguments": ""}}]},
        ]


class TextChoice(Choice):
    """A text that goes on, or fills a blank. continues: what its answer repeats of the prompt, see `SamplingParams`."""

    def __init__(self, assistant: Assistant, continues: bytes | None = None) -> None:
        super().__init__(assistant)
        self._offset, self._repeats = 0, len(continues or b"")

    @classmethod
    def done(cls, assistant: Assistant, text: str) -> TextChoice:
        """One whose text is known already."""
        choice = cls(assistant)
        choice.reason, choice._pieces, choice.tokens = "stop", [text], len(assistant.tokenizer.encode(text))
        return choice

    @classmethod
    def echo(cls, assistant: Assistant, text: str, score: Result | None, alone: bool) -> TextChoice:
        """One that begins with its prompt, of which `score` has the log-probabilities, and ends with it where `alone`.
        What nothing stands before has none, as in OpenAI's answers."""
        choice = cls(assistant)
        choice.reason, choice._pieces, choice.echoed = "length" if alone else None, [text], True
        first, *others = score.logprobs if score else [None]
        choice._logprobs = [replace(first, logprob=None, top=None), *others] if first else []  # type: ignore[arg-type]
        return choice

    def _read(self, events: Sequence[Event], result: Result | None) -> list[dict[str, Any]]:
        text = _text(events)
        self._pieces.append(text)
        return [{"text": text}] if text else []

    def opening(self) -> list[dict[str, Any]]:
        """What is known before the engine says anything."""
        return [{"text": "".join(self._pieces)}] if self.reason or self.echoed else []

    def chunk(self, index: int, delta: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "index": index,
            "text": (delta or {}).get("text", ""),
            "logprobs": self._written(),
            "finish_reason": self.reason if delta is None else None,
        }

    def whole(self, index: int) -> dict[str, Any]:
        return {
            "index": index,
            "text": "".join(self._pieces),
            "logprobs": self._written(),
            "finish_reason": self.reason,
        }

    def _written(self) -> dict[str, Any] | None:
        taken, texts, offsets, where = [], [], [], self._offset
        for one in self.take_logprobs():
            raw = bytes(self.name(one.token)[1])
            if (shown := raw[self._repeats :]) or self.echoed:
                taken.append(one)
                texts.append(shown.decode("utf-8", errors="replace"))
            self._repeats = max(self._repeats - len(raw), 0)
        if not taken:
            return None
        for text in texts:
            offsets.append(where)
            where += len(text)
        self._offset = where
        tops = [t.top and {self.name(token)[0]: value for token, value in t.top.items()} for t in taken]
        return {
            "tokens": texts,
            "token_logprobs": [t.logprob for t in taken],
            "top_logprobs": tops,
            "text_offset": offsets,
        }


@dataclass
class Answering:
    """Requests to the engine, and the choice that each becomes."""

    requests: list[EngineRequest]
    choices: list[Any]
    prompt_tokens: int

    def batches(self, service: Service, version: Version | None) -> AsyncGenerator[Batch, None]:
        """All events, as `Service.answer` gives them."""
        for choice in self.choices:
            if isinstance(choice, TurnChoice):
                return choice.batches(service, version)
        return service.answer(self.requests, version)

    def feed(self, batch: Batch) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Take in events of several choices; each one's index, and the deltas that came of it."""
        by_index: dict[int, list[Event]] = {}
        for index, one in batch:
            by_index.setdefault(index, []).append(one)
        for index, events in by_index.items():
            yield index, self.choices[index].feed(events)

    def usage(self) -> dict[str, Any]:
        answer = sum(choice.tokens for choice in self.choices)
        cached = min(max((choice.cached for choice in self.choices), default=0), self.prompt_tokens)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": answer,
            "total_tokens": self.prompt_tokens + answer,
            "prompt_tokens_details": {"cached_tokens": cached},
        }


def _text(events: Sequence[Event]) -> str:
    return "".join([one.text for one in events])


def _call(name: str, arguments: str) -> dict[str, Any]:
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
