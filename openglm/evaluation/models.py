"""What is asked of a model under test, and a model that answers it on our engine.

A model that reads its prompt both ways is asked as GLM-130B was (arXiv 2210.02414, appendix C): what is known stands in
part A in front of [gMASK], or around the [MASK] of a choice. The choices of one question share its prompt's cache
blocks and stand in one pass of the network, each seeing the prompt and itself: the packed sequence of the original,
whose scores are those of separate passes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from openglm.config import require
from openglm.engine.engine import Engine
from openglm.engine.filling import Filler
from openglm.engine.params import Result, SamplingParams
from openglm.runtime import progress

_MOST_CHARACTERS = 1 << 20
_AT_ONCE = 256  # requests that are handed to the engine together


class Query(NamedTuple):
    """How likely is `answer` between these texts?"""

    before: str
    answer: str
    after: str = ""
    blank: bool = False
    """a model that fills blanks is asked for what [MASK] stands for, not for how the text goes on"""


class Writing(NamedTuple):
    """What does the model write behind this text, or into the blank between two?"""

    before: str
    after: str = ""
    stop: tuple[str, ...] = ()
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


class Likelihood(NamedTuple):
    """Of an answer."""

    logprob: float
    """natural logarithm, summed over its tokens: no length is divided by"""
    greedy: bool
    """each of its tokens is the likeliest one"""


Answered = Iterator[tuple[int, Any]]
"""(number of the question, its answer) in any order; the answer is None where the model failed to give one"""


class Model(Protocol):
    """A model under test."""

    name: str
    fingerprint: str
    """names its weights, or its address, in what is kept of answers"""

    def likelihoods(self, queries: Sequence[Query]) -> Answered:
        """A `Likelihood` for each."""
        ...

    def write(self, writings: Sequence[Writing]) -> Answered:
        """The text that follows each."""
        ...

    def nats(self, texts: Sequence[str]) -> Answered:
        """(-log p, number of tokens) of whole texts."""
        ...

    def fits(self, text: str, room: int) -> bool:
        """Whether a prompt leaves so many tokens of the context."""
        ...


def collect(what: str, answered: Answered, count: int) -> list[Any]:
    """Answers in the order of their questions, None where there is none."""
    found = [None] * count
    with progress(what, count, "answers") as advance:
        for number, answer in answered:
            found[number] = answer
            advance()
    return found


class EngineModel:
    """A model of this machine. chat: a text is what a user says, and the answer is the assistant's. forward: a model
    that reads its prompt both ways gets it in the part that it reads from left to right."""

    def __init__(
        self, engine: Engine, name: str = "", fingerprint: str = "", chat: bool = False, forward: bool = False
    ):
        self.engine, self.name, self.chat = engine, name, chat
        self.fingerprint = f"{fingerprint}{' chat' * chat}{' forward' * forward}"
        self.tokenizer, self.context = engine.tokenizer, engine.context
        self.filler = Filler(
            self.tokenizer, dataclasses.replace(engine.model.config, max_positions=self.context), _MOST_CHARACTERS
        )
        self.both_ways = self.filler.both_ways and not forward
        self.cut = 0
        """prompts that did not fit the context and lost their beginning"""

    def likelihoods(self, queries: Sequence[Query]) -> Answered:
        return self.score([self._parts(query) for query in queries])

    def write(self, writings: Sequence[Writing]) -> Answered:
        asked = [self._to_write(one) for one in writings]
        prompts, params = [prompt for prompt, _ in asked], [one for _, one in asked]
        for numbers in self._batches(prompts, [one.max_tokens for one in params]):
            results = self.engine.generate([prompts[n] for n in numbers], [params[n] for n in numbers])
            for number, result in zip(numbers, results, strict=True):
                yield number, _sound(result).text

    def _to_write(self, one: Writing) -> tuple[list[int], SamplingParams]:
        most = min(one.max_tokens, self.context // 2)
        params = SamplingParams(most, one.temperature, top_p=one.top_p, seed=one.seed, stop=one.stop)
        if not one.after:
            return self._prompt(self.tokenizer.encode(one.before), most, one.before), params
        ids, continues = self.filler.infill_prompt(one.before, one.after, self.context - most)
        own_end = (self.tokenizer.tokens.eop,)
        return ids, dataclasses.replace(params, continues=continues, stop_ids=own_end, ignore_eos=True)

    def fits(self, text: str, room: int) -> bool:
        frame = len(self._prompt([], 0, ""))
        return frame + len(self.tokenizer.encode(text)) + room <= self.context

    def score(self, parts: Sequence[tuple[list[int], list[int]]]) -> Answered:
        """A `Likelihood` of each answer behind its prompt, both as ids."""
        prompts = [prompt for prompt, _ in parts]
        for numbers in self._batches(prompts, [len(answer) for _, answer in parts]):
            first: dict[tuple[int, ...], int] = {}
            for number in numbers:
                first.setdefault(tuple(prompts[number]), number)
            ahead = list(first.values())
            # What reads a prompt goes first; all other answers then find it in the cache.
            for wave in (ahead, sorted(set(numbers) - set(ahead))):
                yield from self._forced(wave, parts)

    def _forced(self, numbers: Sequence[int], parts: Sequence[tuple[list[int], list[int]]]) -> Answered:
        asked = [n for n in numbers if parts[n][1]]
        params = [SamplingParams(forced=tuple(parts[n][1]), logprobs=1, ignore_eos=True) for n in asked]
        results = self.engine.generate([parts[n][0] for n in asked], params)
        for number, result in zip(asked, results, strict=True):
            tokens = _sound(result).logprobs
            yield number, Likelihood(sum(t.logprob for t in tokens), all(t.token in t.top for t in tokens))
        yield from ((n, Likelihood(0.0, True)) for n in numbers if not parts[n][1])

    def _batches(self, prompts: Sequence[list[int]], answers: Sequence[int]) -> Iterator[list[int]]:
        """Numbers of prompts that are answered together: those that begin alike side by side, no more than the cache
        keeps while they are."""
        room = self.engine.pool.blocks * self.engine.pool.block_size // 2
        batch: list[int] = []
        taken = 0
        for number in sorted(range(len(prompts)), key=lambda n: prompts[n]):
            size = len(prompts[number]) + answers[number]
            if batch and (taken + size > room or len(batch) == _AT_ONCE):
                yield batch
                batch, taken = [], 0
            batch.append(number)
            taken += size
        if batch:
            yield batch

    def _parts(self, query: Query) -> tuple[list[int], list[int]]:
        """Ids of the prompt and of the answer. Spaces at the end of a text belong to the answer, as in lm-eval."""
        before = query.before.rstrip()
        answer = query.before[len(before) :] + query.answer
        if query.after and not self.filler.both_sides:
            answer += query.after
        left = self.tokenizer.encode(before)
        ids = self.tokenizer.encode(answer) if self.chat else self.tokenizer.encode(before + answer)[len(left) :]
        require(len(ids) < self.context, "answer", answer, f"has {len(ids)} tokens; the model reads {self.context}")
        if self.filler.both_sides and (query.after or (query.blank and self.both_ways)):
            return self.filler.infill_prompt(before, query.after, self.context - len(ids))[0], ids
        return self._prompt(left, len(ids), before), ids

    def _prompt(self, ids: list[int], room: int, text: str) -> list[int]:
        """A text as the model is asked to go on with it, without its beginning where `room` tokens would not be left."""
        if self.chat:
            said = [{"role": "user", "content": text}]
            asked = self.tokenizer.render(said, generation_prompt=True)[0]
            require(len(asked) + room <= self.context, "context", self.context, f"{len(asked)} tokens are asked")
            return asked
        head, tail = (
            self.tokenizer.format.frame(self.tokenizer.special, ids) if self.both_ways else (self.filler.start, [])
        )
        spare = self.context - room - len(head) - len(tail)
        self.cut += len(ids) > spare
        return [*head, *ids[max(len(ids) - spare, 0) :], *tail]

    def nats(self, texts: Sequence[str]) -> Answered:
        """Each token is predicted once; beyond the context's size, from half of it at least."""
        parts, owners = [], []
        for owner, text in enumerate(texts):
            ids = self.tokenizer.encode(text)
            for start, first, end in windows(len(ids), self.context - len(self._prompt([], 0, ""))):
                parts.append((self._prompt(ids[start:first], end - first, ""), ids[first:end]))
                owners.append(owner)
        found, counts = [0.0] * len(texts), [0] * len(texts)
        for number, answer in self.score(parts):
            found[owners[number]] -= answer.logprob
            counts[owners[number]] += len(parts[number][1])
        yield from enumerate(zip(found, counts, strict=True))


def windows(length: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(start, first, end): tokens from `first` to `end` are predicted from those since `start`, at most `size` in all."""
    end = 0
    while end < length:
        first, end = end, min(end + (size - size // 2 if end else size), length)
        yield max(0, end - size), first, end


def _sound(result: Result) -> Result:
    require(not result.error, "model", result.error, "this question cannot be asked")
    return result
