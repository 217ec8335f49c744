"""A model, its tokenizer and the chat format in one object: what the terminal, the server and the tests talk to."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openglm.checkpoints.load import adapter_for, load_model, network_and_tokenizer
from openglm.checkpoints.native import resolve
from openglm.config import EngineConfig, require
from openglm.engine.engine import Engine
from openglm.engine.filling import Choice, Filler, Filling, Found, Prompt, Rounds, together
from openglm.engine.params import EngineRequest, Event, Result, SamplingParams
from openglm.text.formats import RoleTurns
from openglm.text.reading import Piece, ReplyReader
from openglm.text.render import reader_of
from openglm.text.steps import BEGIN
from openglm.text.thinking import AS_USUAL, Thinking, ThinkingTurns
from openglm.tools.turn import Step, Turn

if TYPE_CHECKING:
    from openglm.tools.registry import Tools
    from openglm.web.citations import Citation, Source
    from openglm.web.sources import Web

__all__ = [
    "Assistant",
    "Choice",
    "EngineRequest",
    "Event",
    "Filling",
    "Found",
    "Reply",
    "Result",
    "Rounds",
    "SamplingParams",
    "Thinking",
    "Turn",
]
CANDIDATES = 16
"""fillings of a blank that are tried where nothing else is said"""


@dataclass
class Reply:
    """A whole answer. `steps`: calls of tools that were run; `tool_calls`: those that are left to the caller;
    `citations`: the sources that its marks such as [1] name; `problems`: what could not be used as a source, a line
    each; `reasoning`: its thoughts; `messages`: what it adds to the conversation; `usage` counts prompt_tokens and
    completion_tokens; `dropped` counts old messages that no longer fitted."""

    text: str
    steps: list[Step] = field(default_factory=list)
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    usage: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    dropped: int = 0
    reasoning: str = ""
    citations: list[Citation] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Assistant:
    """`Assistant("nano").reply([{"role": "user", "content": "你好"}]).text`

    The CPU kernels take the weights over, so that they are in memory once: `model` then serves for its configuration
    alone, unless an `engine` configuration with `keep_weights` is given.
    """

    def __init__(
        self,
        path_or_name: str | Path = "nano",
        *,
        adapter: str | Path | None = None,
        adapters: Mapping[str, str | Path] | None = None,
        device: str | None = None,
        quantize: str | None = None,
        engine: EngineConfig | None = None,
        format: str | None = None,
        tools: Tools | None = None,
        web: Web | str | Path | None = None,
        reflect: bool = False,
    ) -> None:
        """adapters: folders of adapters by the names by which requests to the engine choose one. format: the form of
        conversations (text/formats.py) where the folder does not tell it, or tells it wrong. tools: what the model may
        call while it answers; a conversation that brings tools of its own is answered with these instead, and their
        calls are left to the caller. web: sources to answer from, as `Web`, the folder of an index or the name of a
        search engine. reflect: check what answers claim before they are shown (tools/turn.py)."""
        self.folder = resolve(path_or_name)
        # First, for weights may take minutes.
        declared, self.tokenizer = network_and_tokenizer(self.folder, format)
        self.adapter, self.tools, self.reflect = Path(adapter) if adapter else None, tools, reflect
        self.web = _as_web(web)
        self.adapters = {name: Path(folder) for name, folder in (adapters or {}).items()}
        chosen = {name: adapter_for(self.folder, declared, folder) for name, folder in self.adapters.items()}
        self.model = load_model(self.folder, adapter=self.adapter, device=device, quantize=quantize, format=format)
        self.model.config = dataclasses.replace(self.model.config, tokens=declared.tokens)
        self.engine = Engine(
            self.model,
            engine or EngineConfig(keep_weights=False),
            tokenizer=self.tokenizer,
            adapters={name: each.to(self.model.device, self.model.dtype) for name, each in chosen.items()},
        )

    @cached_property
    def fingerprint(self) -> str:
        """Names the weights in what is kept of answers: a hash of the manifest, or of the configuration and the files'
        sizes where there is none."""
        return self.fingerprint_with(None)

    def fingerprint_with(self, adapter: str | None) -> str:
        """The same for one of `adapters`."""
        digest = hashlib.sha256()
        folders = [
            self.folder,
            *([self.adapter] if self.adapter else []),
            *([self.adapters[adapter]] if adapter else []),
        ]
        for path in (path for folder in folders for path in sorted(folder.iterdir())):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            digest.update(path.read_bytes() if path.name in ("manifest.json", "config.json") else b"")
        return digest.hexdigest()[:16]

    @property
    def context(self) -> int:
        """Longest prompt and answer together, in tokens."""
        return self.engine.context

    def reply(self, messages: Sequence[Mapping[str, Any]], **sampling: Any) -> Reply:
        """The whole answer; options as for `stream`."""
        answer = Reply("")
        for _ in self.stream(messages, answer=answer, **sampling):
            pass
        return answer

    def stream(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        max_tokens: int = 256,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        thinking: Thinking = AS_USUAL,
        web: bool | None = None,
        quoted: bool = False,
        answer: Reply | None = None,
    ) -> Iterator[str]:
        """Pieces of text as they are generated; whole characters only. Thoughts and steps are left out, or with
        `quoted` come as quotations in Markdown. `answer`, where given, is filled in by the end. temperature, top_p:
        None takes the model's own, as its makers or its folder say. web: answer from the sources, which are checked
        before the answer comes, in one piece; None: where the assistant has any.

        Where the conversation outgrows the model's context, the oldest messages are left out (a system message stays)
        and counted in `answer.dropped`. Raises ValueError where the last message alone is too long, or an option is
        wrong.
        """
        require(max_tokens > 0, "max_tokens", max_tokens, "must be a positive whole number")
        answer = answer if answer is not None else Reply("")
        start = time.perf_counter()
        params = SamplingParams(max_tokens, seed=seed, **self.sampling(temperature=temperature, top_p=top_p))
        turn = self.turn(messages, params, tools, thinking, web=web)
        answer.usage = {"prompt_tokens": len(turn.request[0])}
        quote = _Quotes(quoted)
        if turn.over:
            yield turn.text
        while not turn.over:
            for event in self.engine.stream(*turn.request):
                yield from quote(turn.feed(event.token, event.text))
            yield from quote(turn.advance(self._ids(event)))
        answer.text, answer.reasoning, answer.messages = turn.text, turn.reasoning, turn.added
        answer.steps, answer.tool_calls, answer.dropped = turn.steps, turn.tool_calls, turn.dropped
        if turn.checked is not None:
            answer.citations, answer.problems = turn.checked.citations, turn.checked.problems
        answer.usage["completion_tokens"] = turn.tokens
        answer.seconds = time.perf_counter() - start

    def turn(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: Thinking = AS_USUAL,
        *,
        cut: bool = True,
        web: bool | None = None,
        stop: threading.Event | None = None,
    ) -> Turn:
        """An answer that is still to be generated, in as many requests as it calls tools. tools: those that are left
        to the caller; None: this assistant's own. Models that call tools inside their answers know the built-in
        ones. cut: as for `chat_prompt`. web: as for `stream`; it searches and fetches at once, until `stop` is set."""
        if web or (web is None and self.web is not None):
            return self._from_sources(messages, params, tools, thinking, cut, stop)
        own = self.tools if tools is None else None
        listed = list(tools or ()) if own is None else own.added if BEGIN in self.tokenizer.special else own.schemas
        ask = partial(self.chat_prompt, tools=listed, cut=cut, thinking=thinking)
        return Turn(self.tokenizer, own, listed, ask, messages, params, self.context, thinking, self.reflect)

    def _from_sources(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams,
        tools: Sequence[Mapping[str, Any]] | None,
        thinking: Thinking,
        cut: bool,
        stop: threading.Event | None,
    ) -> Turn:
        """No tool can be called in such an answer, whatever a page says."""
        from openglm.web.sources import prompt

        if self.web is None:
            raise ValueError("web = True: this model has no sources; start it with --web INDEX")
        require(not tools, "tools", len(tools or ()), "are not for answers from sources; leave tools or web out")
        *before, last = messages
        require(last.get("role") == "user", "messages", last.get("role"), "the last one must be the user's question")
        question = last["content"]
        self.require_short("question", len(question))
        most = self.context * 3 // 4  # the rest is for the answer

        def asked(sources: Sequence[Source]) -> list[Mapping[str, Any]]:
            return [*before, {**last, "content": prompt(question, sources)}]

        def fits(sources: Sequence[Source]) -> bool:
            messages = asked(sources)[-1:] if cut else asked(sources)
            return len(self._prompt(messages, None, thinking)) <= most

        way_out = f"fills the context of {self.context} tokens, which has no room for sources; shorten it"
        require(fits([]), "question", f"{len(question)} characters", way_out)
        found = self.web.find(question, stop).fitting(fits)
        ask = partial(self.chat_prompt, cut=cut, thinking=thinking)
        turn = Turn(self.tokenizer, None, [], ask, asked(found.sources), params, self.context, thinking, found=found)
        if not found.sources:
            turn.answered(found.check(""))
        return turn

    def sampling(self, **given: Any) -> dict[str, Any]:
        """temperature, top_p and top_k of an answer: what is given and not None, else the model's own."""
        return self.tokenizer.format.sampling.params | {k: value for k, value in given.items() if value is not None}

    @staticmethod
    def _ids(last: Event) -> list[int]:
        """The tokens of an answer that has ended. Raises ValueError where it failed."""
        result = last.result
        assert result is not None, "an answer's last event brings its result"
        if result.error:
            raise ValueError(result.error)
        return result.ids

    def reader(
        self, tools: Sequence[Mapping[str, Any]] | None = None, thinking: Thinking = AS_USUAL
    ) -> ReplyReader | None:
        """Parts the thoughts of an answer from the rest, where this model thinks."""
        return reader_of(self.tokenizer.format, tools, thinking)

    def _fitting(
        self,
        messages: list[Mapping[str, Any]],
        room: int,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: Thinking = AS_USUAL,
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
            kept = system + turns[starts[middle] :]
            ids = self._prompt(kept, tools, thinking)
            if len(ids) <= limit:
                fitting, high = (ids, starts[middle]), middle
            else:
                low = middle + 1
        if fitting is None:
            alone = self._prompt(kept, None, thinking) if tools else ids
            way_out = (
                "shorten the last message" if len(alone) > limit else "leave out the tools, whose descriptions fill it"
            )
            raise ValueError(f"messages: {len(ids)} tokens, but the model reads {limit} (context {room}); {way_out}")
        return fitting

    def chat_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        cut: bool = False,
        thinking: Thinking = AS_USUAL,
    ) -> tuple[list[int], int]:
        """Prompt ids of a conversation, in any order of its messages, and how many of the oldest were left out for it
        to fit: with `cut` as many as need be, else none. Where an answer comes last, the model goes on with it.
        """
        if cut:
            return self._fitting(list(messages), self.context, tools, thinking)
        self.require_short("messages", _characters(messages) + len(str(tools)))
        return self._prompt(messages, tools, thinking), 0

    def _prompt(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None, thinking: Thinking
    ) -> list[int]:
        return self.tokenizer.render(messages, tools, generation_prompt=True, thinking=thinking, lenient=True)[0]

    @cached_property
    def filler(self) -> Filler:
        """Prompts and requests for texts that go on and blanks that are filled."""
        shape = dataclasses.replace(self.model.config, max_positions=self.context)
        return Filler(self.tokenizer, shape, self.most_characters)

    def prompt(self, before: str, after: str | None = None, room: int | None = None) -> Prompt:
        """For text that goes on with `before`, or stands between two others: prompt ids, and `SamplingParams.continues`
        of the answer.

        Of two texts, only what lies nearest is read where `room` tokens are not enough. Raises ValueError where they
        cannot fit the context.
        """
        if room is None:
            self.require_short("prompt", len(before) + len(after or ""))
        return (
            self.filler.completion_prompt(before) if after is None else self.filler.infill_prompt(before, after, room)
        )

    @cached_property
    def most_characters(self) -> int:
        """A longer text is not worth the time of cutting it into tokens: it cannot fit the context, even where it is
        normalized to a quarter.
        """
        longest = max(len(self.tokenizer.decode_bytes([token])) for token in range(self.tokenizer.vocab_size))
        return 4 * longest * self.context

    def require_short(self, option: str, characters: int) -> None:
        require(
            characters <= self.most_characters,
            option,
            f"{characters} characters",
            f"do not fit the context of {self.context} tokens; shorten it",
        )

    @property
    def blank_ends(self) -> tuple[int, ...]:
        """The token that ends the text in a blank."""
        return (self.tokenizer.tokens.eop,)

    def call_opening(self, name: str = "") -> tuple[list[int], str]:
        """What an answer that calls this tool begins with, as ids and as text; its arguments follow: in marks where
        the text is not empty, else as JSON. No name: up to where the name follows."""
        turns = self.tokenizer.format.turns
        if isinstance(turns, ThinkingTurns):
            text = f"<tool_call>{name}{turns.gap if name else ''}"
            mark = self.tokenizer.special.get("<tool_call>")
            before, behind = self.tokenizer.encode(turns.gap), text.removeprefix("<tool_call>")
            ids = self.tokenizer.encode(text) if mark is None else [mark, *self.tokenizer.encode(behind)]
            return before + ids, text
        if not name:
            return [], ""
        assert isinstance(turns, RoleTurns), "other formats have no tools to call"
        return self.tokenizer.encode(f"{name}\n{turns.call_opening}"), ""

    def fill(self, text: str, blank: str = "___", **options: Any) -> list[str]:
        """What belongs into each `blank` of the text, in their order; options as for `fillings`."""
        return [filling.text for filling in self.fillings([text], blank, **options)[0]]

    def fillings(
        self,
        texts: Sequence[str],
        blank: str = "___",
        *,
        candidates: int = CANDIDATES,
        max_tokens: int = 32,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> list[list[Filling]]:
        """What belongs into each `blank` of each text, and how likely other words were. The blanks of a text are filled
        in their order, for each reads those before it; different texts go together, in one batch.

        With several candidates, each is judged by how likely the text becomes with it: `Filler.candidates` and
        `Filler.scored` say how. With one, it is the model's own [MASK] that is filled, which needs a model that reads
        both sides. Raises ValueError for a text without a blank.
        """
        params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed)
        cut = [text.split(blank) for text in texts]
        for text, pieces in zip(texts, cut, strict=True):
            require(len(pieces) > 1, "text", text, f"has no blank; write {blank} where words are missing")
        return self._run(self.best_of(cut, candidates, params))

    def best_of(
        self, texts: Sequence[Sequence[str]], candidates: int, params: SamplingParams
    ) -> Rounds[list[list[Filling]]]:
        """`fillings` as rounds of requests that are still to be answered. texts: the pieces between the blanks of
        each. params: max_tokens, temperature, seed."""
        require(0 < candidates <= 64, "candidates", candidates, "must be a whole number from 1 to 64")
        require(
            candidates > 1 or self.filler.both_sides,
            "candidates",
            candidates,
            "this model reads only the past; give 2 or more, so that what follows the blank can choose among them",
        )
        if candidates == 1:
            return together([self.filler.one_by_one(pieces, params) for pieces in texts])
        return together([self.filler.ranked(pieces, candidates, params) for pieces in texts])

    def _run(self, rounds: Rounds[Found]) -> Found:
        """Answer each round of requests on this engine."""
        try:
            requests = next(rounds)
            while True:
                prompts, params = [ids for ids, _ in requests], [one for _, one in requests]
                requests = rounds.send(self.engine.generate(prompts, params))
        except StopIteration as end:
            return end.value


def _as_web(web: Web | str | Path | None) -> Web | None:
    if web is None:
        return None
    from openglm.web.sources import as_web

    return as_web(web)


def _characters(messages: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(message.get("content") or "") for message in messages)


class _Quotes:
    """Turns what comes of an answer into text."""

    def __init__(self, quoted: bool) -> None:
        self._quoted, self._open, self._said = quoted, False, False

    def __call__(self, pieces: Iterable[Piece]) -> Iterator[str]:
        for kind, what in pieces:
            if kind == "content":
                yield f"\n\n{what}" if self._open else what
                self._open, self._said = False, True
            elif self._quoted:
                between = "\n> \n> " if kind == "step" else ""
                opening = between if self._open else "\n\n> " if self._said else "> "
                yield opening + str(what).replace("\n", "\n> ")
                self._open = True
