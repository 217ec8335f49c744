"""One answer of a request as deltas of a message in OpenAI's words. What is streamed adds up to what is whole, for a
whole answer is read from the same deltas."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from openglm.assistant import Assistant, EngineRequest, Event, Result, Turn
from openglm.serve.schemas import Json
from openglm.serve.service import Batch, Service, Version
from openglm.text.reading import Piece, ReplyReader
from openglm.text.streaming import ReplyStream

# cancelled: by the deadline or the end of the server, so it is not whole
_INSIDE = range(0x80, 0xC0)  # bytes of a letter behind its first
_REASONS = {"stop": "stop", "length": "length", "cancelled": "length"}


class Choice:
    """Feed it the engine's events; what they add comes out as a message's fields."""

    def __init__(self, assistant: Assistant) -> None:
        self.assistant = assistant
        self.reason: str | None = None
        self.tokens = self.cached = 0
        self.opening: list[Json] = []
        """deltas that come before all that the engine says"""
        self.said: list[Json] = []
        """all deltas so far"""
        self._logprobs: list[Any] = []

    def feed(self, events: Sequence[Event]) -> list[Json | None]:
        """Take in events; returns the deltas that they make certain, all text in one, and None at the end."""
        opening, self.opening = self.opening, []
        self._take(events)
        found = [*opening, *self._read(events)]
        self.said += found
        return [*found, *([None] if self.reason else [])]

    def _take(self, events: Sequence[Event]) -> None:
        self._logprobs += [one.logprob for one in events if one.logprob is not None and self._shows(one.token)]
        if events and (result := events[-1].result):
            self.reason, self.cached = _REASONS[result.finish_reason], result.cached_tokens
            self.tokens = len(result.ids) - result.repeated

    def _shows(self, token: int | None) -> bool:
        """Whether a token is part of the text, and no mark."""
        return token is not None and bool(self.assistant.tokenizer.decode_bytes([token]))

    def _read(self, events: Sequence[Event]) -> list[Json]:
        text = "".join([one.text for one in events])
        return [self._delta(text)] if text else []

    def _delta(self, text: str) -> Json:
        raise NotImplementedError

    def text(self, field: str) -> str:
        """All that was said in this field."""
        return "".join([delta.get(field) or "" for delta in self.said])

    def name(self, token: int) -> tuple[str, list[int]]:
        """A token as text and as bytes."""
        raw = self.assistant.tokenizer.decode_bytes([token])
        return raw.decode("utf-8", errors="replace"), list(raw)

    def take_logprobs(self) -> list[Any]:
        """Those that no chunk has carried yet."""
        taken, self._logprobs = self._logprobs, []
        return taken


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
        self.opening = [{"role": "assistant", "content": ""}]
        self.reply, self.most, self._called = ReplyStream(assistant.tokenizer, names, reader, begun), most, 0

    def _read(self, events: Sequence[Event]) -> list[Json]:
        text = self.reply.feed([(one.token, one.text) for one in events])
        if result := events[-1].result:
            text += self.reply.end(result.ids)[0]
        thoughts, self.reply.thoughts = "".join(self.reply.thoughts), []
        deltas: list[Json] = [{"reasoning_content": thoughts}] if thoughts else []
        deltas += [{"content": text}] if text else []
        for call in self.reply.calls[self._called : self.most]:
            function = call["function"]
            made = new_call(function["name"], json.dumps(function["arguments"], ensure_ascii=False))
            deltas.append({"tool_calls": [{"index": self._called, **made}]})
            self._called += 1
        if self._called and self.reason == "stop":
            self.reason = "tool_calls"
        return deltas

    def message(self) -> Json:
        text, thoughts, calls = self.text("content"), self.text("reasoning_content"), self.calls()
        steps = [step for delta in self.said for step in delta.get("steps", ())]
        more = {"reasoning_content": thoughts, "tool_calls": calls, "steps": steps}
        content = text if text or not calls else None
        message = {"role": "assistant", "content": content, "refusal": None}
        return message | {name: value for name, value in more.items() if value}

    def calls(self) -> list[Json]:
        found: list[Json] = []
        for call in (call for delta in self.said for call in delta.get("tool_calls", ())):
            if "id" in call:
                found.append(new_call(call["function"]["name"], "", call["id"]))
            found[-1]["function"]["arguments"] += call["function"]["arguments"]
        return found

    def chunk(self, delta: Json | None) -> Json:
        """A delta in a stream of OpenAI's."""
        return {"delta": delta or {}, "logprobs": None if "role" in (delta or ()) else self._chances()}

    def whole(self) -> Json:
        """The whole answer in OpenAI's words."""
        return {"message": self.message(), "logprobs": self._chances()}

    def _chances(self) -> Json | None:
        entries = [
            {**self._chance(one.token, one.logprob), "top_logprobs": [self._chance(*top) for top in one.top.items()]}
            for one in self.take_logprobs()
        ]
        return {"content": entries, "refusal": None} if entries else None

    def _chance(self, token: int, logprob: float) -> Json:
        text, raw = self.name(token)
        return {"token": text, "logprob": logprob, "bytes": raw}


class TurnChoice(ChatChoice):
    """An answer whose tools are run here; each call is a step, in a field of its own beside the text."""

    def __init__(self, assistant: Assistant, turn: Turn) -> None:
        super().__init__(assistant)
        self.turn, self._ready = turn, list[Piece]()
        if turn.over:  # nothing was found to answer from
            self.reason, self.opening = "stop", [{"role": "assistant", "content": turn.text}]

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

    def _take(self, events: Sequence[Event]) -> None:
        """Tokens are the turn's, and the reason is known when its last request has ended."""
        self.tokens = self.turn.tokens

    def _read(self, events: Sequence[Event]) -> list[Json]:
        pieces = [piece for one in events for piece in self.turn.feed(one.token, one.text)] + self._ready
        self._ready = []
        deltas: list[Json] = []
        for kind, group in itertools.groupby(pieces, lambda piece: piece[0]):
            found = [what for _, what in group]
            steps = kind == "step"
            deltas.append({"steps": [dataclasses.asdict(step) for step in found]} if steps else {kind: "".join(found)})
        return [*deltas, self._sources()] if self.reason and self.turn.checked is not None else deltas

    def _sources(self) -> Json:
        """What a checked answer cites, and where in it, in OpenAI's form."""
        checked = self.turn.checked
        annotations = [
            {
                "type": "url_citation",
                "url_citation": {"start_index": start, "end_index": end, "url": source.url, "title": source.title},
            }
            for start, end, source in checked.marks
        ]
        citations = [dataclasses.asdict(citation) for citation in checked.citations]
        return {"citations": citations, "annotations": annotations, "problems": checked.problems}

    def message(self) -> Json:
        return super().message() | ({} if self.turn.checked is None else self._sources())


class CallChoice(ChatChoice):
    """A call that the request demanded: the answer is its arguments and nothing else."""

    def __init__(self, assistant: Assistant, name: str) -> None:
        super().__init__(assistant)
        self.opening = [{"role": "assistant", "content": None}, {"tool_calls": [{"index": 0, **new_call(name, "")}]}]

    def _read(self, events: Sequence[Event]) -> list[Json]:
        self.reason = "tool_calls" if self.reason == "stop" else self.reason
        return Choice._read(self, events)

    def _delta(self, text: str) -> Json:
        return {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}


class TextChoice(Choice):
    """A text that goes on, or fills a blank. continues: what its answer repeats of the prompt, see `SamplingParams`."""

    def __init__(self, assistant: Assistant, continues: bytes | None = None) -> None:
        super().__init__(assistant)
        self._offset, self._repeats, self._echoes = 0, len(continues or b""), False

    @classmethod
    def done(cls, assistant: Assistant, text: str) -> TextChoice:
        """One whose text is known already."""
        choice = cls(assistant)
        choice.reason, choice.opening = "stop", [{"text": text}]
        choice.tokens = len(assistant.tokenizer.encode(text))
        return choice

    @classmethod
    def echo(cls, assistant: Assistant, text: str, score: Result | None, alone: bool) -> TextChoice:
        """One that begins with its prompt, of which `score` has the log-probabilities, and ends with it where `alone`.
        What nothing stands before has none, as in OpenAI's answers."""
        choice = cls(assistant)
        choice.reason, choice.opening, choice._echoes = "length" if alone else None, [{"text": text}], True
        if score:
            first, *others = score.logprobs
            choice._logprobs = [replace(first, logprob=None, top=None), *others]  # type: ignore[arg-type]
        return choice

    def _shows(self, token: int | None) -> bool:
        return self._echoes or super()._shows(token)

    def _delta(self, text: str) -> Json:
        return {"text": text}

    def chunk(self, delta: Json | None) -> Json:
        return {"text": (delta or {}).get("text", ""), "logprobs": self._chances()}

    def whole(self) -> Json:
        return {"text": self.text("text"), "logprobs": self._chances()}

    def _chances(self) -> Json | None:
        taken, texts, offsets = [], [], []
        for one in self.take_logprobs():
            raw = bytes(self.name(one.token)[1])
            if (shown := raw[self._repeats :]) or self._echoes:
                taken.append(one)
                texts.append(shown.decode("utf-8", errors="replace"))
                # In letters of the text: a token may begin or end inside one.
                offsets.append(self._offset - (shown[0] in _INSIDE if shown else 0))
                self._offset += sum(byte not in _INSIDE for byte in shown)
            self._repeats = max(self._repeats - len(raw), 0)
        if not taken:
            return None
        tops = [one.top and {self.name(token)[0]: value for token, value in one.top.items()} for one in taken]
        chances = {"token_logprobs": [one.logprob for one in taken], "top_logprobs": tops}
        return {"tokens": texts, **chances, "text_offset": offsets}


@dataclass
class Answering:
    """Requests to the engine, and the choice that each becomes."""

    requests: list[EngineRequest]
    choices: list[Any]
    prompt_tokens: int

    def batches(self, service: Service, version: Version | None) -> AsyncGenerator[Batch, None]:
        """All events, as `Service.answer` gives them."""
        first = self.choices[0]
        turns = isinstance(first, TurnChoice)
        return first.batches(service, version) if turns else service.answer(self.requests, version)

    def feed(self, batch: Batch) -> list[tuple[int, Json | None]]:
        """Take in events of several choices; returns the index of a choice and a delta of it, for each delta."""
        by_index: dict[int, list[Event]] = {}
        for index, one in batch:
            by_index.setdefault(index, []).append(one)
        return [(index, delta) for index, events in by_index.items() for delta in self.choices[index].feed(events)]

    def usage(self) -> Json:
        answer = sum(choice.tokens for choice in self.choices)
        cached = min(max(choice.cached for choice in self.choices), self.prompt_tokens)
        counts = {"prompt_tokens": self.prompt_tokens, "completion_tokens": answer}
        total = {"total_tokens": self.prompt_tokens + answer}
        return {**counts, **total, "prompt_tokens_details": {"cached_tokens": cached}}


def new_call(name: str, arguments: str, id: str | None = None) -> Json:
    """A call in OpenAI's words."""
    id = f"call_{uuid.uuid4().hex[:24]}" if id is None else id
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def new_function(**fields: Any) -> Json:
    """A tool, or the choice of one, in OpenAI's words."""
    return {"type": "function", "function": fields}
