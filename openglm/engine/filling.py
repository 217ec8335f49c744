"""How a text is gone on with and how its blanks are filled: prompts, rounds of requests, and what their answers say.

Where a text meets what is to follow, spaces at its end are left to the answer, for training shows a space joined with
the word behind it (`Tokenizer.border`); a text to go on with also gives its last token back, which the answer may have
in a longer form ("Fra" -> "France").

Fillings come in rounds: a generator yields requests that are to be answered together, is sent their results, and
returns what it found. So the assistant runs it on its engine, and the server beside everyone else's requests. This file
knows neither.
"""

import math
import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, TypeVar

from openglm.config import ModelConfig, require
from openglm.engine.params import EngineRequest, Result, SamplingParams

Prompt = tuple[list[int], bytes | None]
"""ids, and `SamplingParams.continues` for the answer"""
Found = TypeVar("Found")
Rounds = Generator[list[EngineRequest], list[Result], Found]

_LONGEST_LEFT = 8  # tokens of a candidate that is written without knowing where the blank ends
_RIGHT = 48  # tokens of the right side that judge the candidates
_SHOWN = 5


@dataclass(frozen=True)
class Choice:
    """One way to fill a blank. `probability` is among the candidates that were tried, whose probabilities sum to 1;
    `score` its logarithm before that."""

    text: str
    probability: float
    score: float = 0.0


@dataclass(frozen=True)
class Filling:
    """What stands in a blank, and the likeliest candidates for it, best first."""

    text: str
    choices: list[Choice]


class Filler:
    """`tokenizer`: one of openglm/text/. `most_characters`: longer texts are cut before they are cut into tokens."""

    def __init__(self, tokenizer: Any, config: ModelConfig, most_characters: int) -> None:
        self.tokenizer, self.config, self.most_characters = tokenizer, config, most_characters
        self.both_sides = config.fills_blanks
        self.both_ways = config.mask == "prefix"
        self.gapped = config.span_positions == "gapped"
        self.specials = frozenset(tokenizer.special.values())
        head, tail = tokenizer.format.frame(tokenizer.special, []) if self.both_ways else ([], [])
        self.start = [*head, *tail] or [tokenizer.tokens.gmask, tokenizer.tokens.sop]
        """ids in front of a text that is read from left to right"""

    def completion_prompt(self, prompt: str) -> Prompt:
        """For text that the model is to go on with."""
        kept, taken = self.tokenizer.border(prompt)
        ids = self.tokenizer.encode(kept)
        if len(ids) > 1 and (last := self.tokenizer.decode_bytes(ids[-1:])):
            ids, taken = ids[:-1], last + taken
        if not self.both_ways:
            return [*self.start, *ids], taken if ids else None
        head, tail = self.tokenizer.format.frame(self.tokenizer.special, ids)
        return [*head, *ids, *tail], taken if ids else None

    def infill_prompt(self, before: str, after: str, room: int | None = None) -> Prompt:
        """For the text between two others; of both, only what lies nearest where `room` tokens are not enough.
        Raises ValueError for a causal model."""
        require(
            self.both_sides,
            "suffix",
            after[:20],
            "this model reads only the past, so it cannot fill blanks; leave the suffix out, or give candidates",
        )
        before, after = before[-self.most_characters :], after[: self.most_characters]
        kept, taken = self.tokenizer.border(before)
        mask = self.tokenizer.tokens.mask
        ids = self.tokenizer.encode_parts([kept, mask, after], keep_spaces=True)
        head, tail = self._frame(ids)
        left, right = ids[: ids.index(mask)], ids[ids.index(mask) + 1 :]
        if room is not None:
            room = max(room - len(taken) - len(head) - 1 - len(tail) - self.gapped, 0)
            # What was just written says more than what follows.
            ahead = min(len(left), max(room * 3 // 4, room - len(right)))
            left, right = left[len(left) - ahead :], right[: room - ahead]
        return [*head, *left, mask, *right, *tail, *self._neighbour(left)], taken if before else None

    def _neighbour(self, left: Sequence[int]) -> list[int]:
        """What opens a filling behind <sop>: with gapped positions the token on the left once more."""
        return list(left[-1:]) if self.gapped else []

    def _frame(self, ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """Ids before and behind a text with blanks, the last of which opens the first filling. [gMASK], which
        ChatGLM-6B always gets, would be read as one more."""
        head, tail = self.tokenizer.format.frame(self.tokenizer.special, ids)
        return head, [token for token in tail if token != self.tokenizer.tokens.gmask]

    def one_by_one(self, pieces: Sequence[str], params: SamplingParams) -> Rounds[list[Filling]]:
        """The blanks between `pieces` in their order, each by the model's own [MASK]: it reads all pieces and the
        earlier fillings."""
        if self.gapped:
            return (yield from self._each_anew(pieces, params))
        tokens = self.tokenizer.tokens
        borders = [self.tokenizer.border(piece, opens=number == 0) for number, piece in enumerate(pieces[:-1])]
        parts: list[str | int] = []
        for kept, _ in borders:
            parts += [kept, tokens.mask]
        ids = self.tokenizer.encode_parts([*parts, pieces[-1]], keep_spaces=True)
        head, tail = self._frame(ids)
        ids = [*head, *ids, *tail[:-1]]
        params = replace(params, stop_ids=(tokens.eop,), ignore_eos=True)
        fillings = []
        for number, (_, taken) in enumerate(borders):
            ids.append(tokens.sop)
            continues = taken if number or pieces[0] else None
            (result,) = yield [(list(ids), replace(params, continues=continues))]
            ids += [token for token in _answered(result).ids if token != tokens.eop]
            text = _tidy(result.text, pieces[number + 1])
            fillings.append(Filling(text, [Choice(text, 1.0)]))
        return fillings

    def _each_anew(self, pieces: Sequence[str], params: SamplingParams) -> Rounds[list[Filling]]:
        """For gapped positions, with which a prompt ends in one span: a filling becomes text in front of the next
        blank."""
        params = replace(params, stop_ids=(self.tokenizer.tokens.eop,), ignore_eos=True)
        before, fillings = pieces[0], []
        for number in range(1, len(pieces)):
            room = max(self.config.max_positions - params.max_tokens, self.config.max_positions // 2)
            ids, continues = self._first_of(before, pieces[number:], room)
            (result,) = yield [(ids, replace(params, continues=continues))]
            text = _tidy(_answered(result).text, pieces[number])
            fillings.append(Filling(text, [Choice(text, 1.0)]))
            before += text + pieces[number]
        return fillings

    def ranked(self, pieces: Sequence[str], count: int, params: SamplingParams) -> Rounds[list[Filling]]:
        """The blanks between `pieces` in their order, each by the best of up to `count` candidates: see `candidates`
        and `scored`.

        A blank reads the fillings before it and the text up to the next blank. At a temperature one of the candidates
        is drawn, by their probabilities to the power of its inverse. All candidates of a blank are one round, and so
        are their scores.
        """
        dice, before, fillings = random.Random(params.seed), pieces[0], []
        for number in range(1, len(pieces)):
            texts = yield from self.candidates(before, pieces[number:], count, params.max_tokens)
            choices = yield from self.scored(before, pieces[number:], texts)
            text = choices[0].text
            if params.temperature:
                weights = [math.exp((one.score - choices[0].score) / params.temperature) for one in choices]
                text = dice.choices([one.text for one in choices], weights)[0]
            fillings.append(Filling(text, choices[:_SHOWN]))
            before += text + pieces[number]
        return fillings

    def candidates(self, before: str, after: Sequence[str], count: int, max_tokens: int) -> Rounds[list[str]]:
        """Up to `count` different texts for the blank between `before` and after[0], which other blanks may follow. The
        same for the same model and text.

        The left side's are the likeliest beginnings among what the model writes greedily from each of its likeliest
        first tokens. A model that reads both sides writes half of them into [MASK] instead, again from each of the
        likeliest first tokens.
        """
        from_mask = count // 2 if self.both_sides else 0
        from_left = count - from_mask
        shape = self.config.max_positions
        most = min(max_tokens, max(shape // 4, 1))
        ids, continues = self._left(before, most)
        basis = SamplingParams(max_tokens=min(most, _LONGEST_LEFT), continues=continues, logprobs=0)
        requests: list[EngineRequest] = [(ids, replace(basis, branch=number)) for number in range(from_left)]
        if from_mask:
            mask, continues = self._first_of(before, after, shape - most - len(continues or b""))
            own = SamplingParams(
                max_tokens=most, continues=continues, stop_ids=(self.tokenizer.tokens.eop,), ignore_eos=True
            )
            requests += [(mask, replace(own, branch=number)) for number in range(from_mask)]
        results = yield requests
        texts = [_tidy(result.text, after[0]) for result in map(_answered, results[from_left:])]
        texts += self._beginnings(results[:from_left], continues, after[0])[:from_left]
        return [text for text in dict.fromkeys(texts) if text.strip()] or [""]

    def _left(self, before: str, room: int) -> Prompt:
        """A text read from left to right, without its earliest tokens where it leaves no room for so many more."""
        before = before[-self.most_characters :]
        kept, taken = self.tokenizer.border(before)
        ids = self.tokenizer.encode(kept)
        most = max(self.config.max_positions - len(self.start) - len(taken) - room, 0)
        return [*self.start, *ids[max(len(ids) - most, 0) :]], taken if before else None

    def _first_of(self, before: str, after: Sequence[str], room: int) -> Prompt:
        """A prompt for the first of several blanks, or, where all would not fit, for it alone."""
        before = before[-self.most_characters :]
        kept, taken = self.tokenizer.border(before)
        parts: list[str | int] = [kept]
        for number, piece in enumerate(after, 1):
            here = piece if number == len(after) else self.tokenizer.border(piece, opens=False)[0]
            parts += [self.tokenizer.tokens.mask, here]
        if sum(map(len, after)) <= self.most_characters:
            ids = self.tokenizer.encode_parts(parts, keep_spaces=True)
            head, tail = self._frame(ids)
            tail += self._neighbour(ids[: ids.index(self.tokenizer.tokens.mask)])
            if len(head) + len(ids) + len(tail) <= room:
                return [*head, *ids, *tail], taken if before else None
        return self.infill_prompt(before, after[0], room)

    def _beginnings(self, results: Sequence[Result], continues: bytes | None, after: str) -> list[str]:
        """The beginnings of some answers that are whole characters, likeliest first."""
        chances: dict[str, float] = {}
        for result in results:
            text, total = b"", 0.0
            decode = (
                self.tokenizer.decoder() if continues is None else lambda token: self.tokenizer.decode_bytes([token])
            )
            for token, log in zip(_answered(result).ids, result.logprobs, strict=True):
                if token in self.specials:
                    break
                text, total = text + decode(token), total + log.logprob
                try:
                    shown = _tidy(text[len(continues or b"") :].decode(), after)
                except UnicodeDecodeError:
                    continue
                if shown.strip():
                    chances[shown] = max(chances.get(shown, -math.inf), total)
        return sorted(chances, key=lambda shown: -chances[shown])

    def scored(self, before: str, after: Sequence[str], texts: Sequence[str]) -> Rounds[list[Choice]]:
        """The texts as choices, best first: by log p(text | before) + log p(after[0] | before, text), read from left to
        right.

        This is the log-probability of the whole text behind `before` and nothing is divided by a length: each token of
        a filling costs what it costs, so that a longer one wins only where it makes itself and what follows likelier
        than a shorter one does. All candidates are judged by the same text on the right, of which the first 48 tokens
        count; where none follows, by the end of the text.
        """
        right = self._right(after)
        rows = [self.tokenizer.encode(before[-self.most_characters :] + text + right) for text in texts]
        if not after[0] and len(after) == 1:
            end = (self.tokenizer.tokens.eop, *self.tokenizer.stop) if self.both_sides else self.tokenizer.stop
            rows = [[*row, *[token for token in end if token >= 0][:1]] for row in rows]
        alike = (len(set(column)) == 1 for column in zip(*(row[:-1] for row in rows), strict=False))
        shared = sum(takewhile(bool, alike))
        cut = min(max(len(self.start) + max(map(len, rows)) - self.config.max_positions, 0), shared)
        prompt = [*self.start, *rows[0][cut:shared]]
        params = SamplingParams(logprobs=0, ignore_eos=True)
        results = yield [(prompt, replace(params, forced=tuple(row[shared:]))) for row in rows]
        scores = [sum(one.logprob for one in _answered(result).logprobs) for result in results]
        weights = [math.exp(score - max(scores)) for score in scores]
        choices = [
            Choice(text, weight / sum(weights), score)
            for text, weight, score in zip(texts, weights, scores, strict=True)
        ]
        return sorted(choices, key=lambda one: -one.score)

    def _right(self, after: Sequence[str]) -> str:
        """What stands right of a blank, as far as it counts."""
        piece = after[0][: self.most_characters]
        ids = self.tokenizer.encode(piece)
        most = min(_RIGHT, self.config.max_positions // 4)
        if len(ids) > most:
            return self.tokenizer.decode_bytes(ids[:most]).decode("utf-8", errors="ignore")
        return piece if len(after) == 1 else piece.rstrip(" ")


def _tidy(text: str, after: str) -> str:
    """A filling without spaces that the text behind it has already."""
    return text.rstrip(" ") if after.startswith(" ") else text


def _answered(result: Result) -> Result:
    """Raises ValueError where the request failed."""
    if result.error:
        raise ValueError(result.error)
    return result


def together(many: Sequence[Rounds[Found]]) -> Rounds[list[Found]]:
    """Several at once: each round holds the requests of all that are not done yet."""
    found: dict[int, Found] = {}
    asked: dict[int, list[EngineRequest]] = {}

    def advance(number: int, results: list[Result] | None) -> None:
        try:
            asked[number] = many[number].send(results) if results is not None else next(many[number])
        except StopIteration as end:
            found[number] = end.value

    for number in range(len(many)):
        advance(number, None)
    while asked:
        waiting = dict(asked)
        results = yield [request for requests in waiting.values() for request in requests]
        asked.clear()
        for number, requests in waiting.items():
            advance(number, results[: len(requests)])
            results = results[len(requests) :]
    return [found[number] for number in range(len(many))]
