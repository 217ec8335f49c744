"""What tokens an answer may have: those of a JSON schema or a regular expression, with llguidance, which is loaded
when the first request asks for it; and first of all those that spell what was taken back from the prompt."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openglm.config import require
from openglm.engine.closing import MOST_DIGITS, Place, digits_ahead, find_closing
from openglm.engine.params import SamplingParams

_LAYOUT = {
    "whitespace_pattern": " ?"
}  # between parts of JSON; any amount of it, and small models never stop writing it

_AHEAD = 256  # tokens before the end, from where on each is tried: a way to an end is rarely longer


class Vocabulary:
    """The tokens' bytes in the form in which llguidance reads them, made once an engine."""

    def __init__(self, tokenizer: Any, stop_ids: tuple[int, ...]) -> None:
        try:
            from llguidance import LLTokenizer, TokenizerWrapper
        except ModuleNotFoundError:
            raise ValueError(
                "schema, regex: need the package llguidance; install it with: pip install 'openglm[serve]'"
            ) from None
        require(
            len(stop_ids) > 0,
            "schema, regex",
            "no stop token",
            "this model has no token that ends an answer; leave the option out",
        )
        self.eos_token_id, self.bos_token_id, self.encode = stop_ids[0], None, tokenizer.encode
        self.tokens = [tokenizer.decode_bytes([number]) for number in range(tokenizer.vocab_size)]
        # Special tokens, and those without text: a byte that no UTF-8 text has keeps them out of every grammar.
        special = set(tokenizer.special.values())
        self.special_token_ids = [number for number, text in enumerate(self.tokens) if not text or number in special]
        for number in self.special_token_ids:
            self.tokens[number] = b"\xff<%d>" % number
        self.numbers = {text: number for number, text in enumerate(self.tokens)}
        self.lengths = np.array([len(text) for text in self.tokens])
        self.digits = np.array([digits_ahead(text) for text in self.tokens])
        self.prepared = LLTokenizer(TokenizerWrapper(self), eos_token=list(stop_ids))

    def __call__(self, text: str) -> list[int]:
        return self.encode(text)

    def allowed(self, matcher: Any) -> np.ndarray:
        """Whether each token can come next."""
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        return np.unpackbits(bits, bitorder="little", count=min(8 * len(bits), len(self.tokens))).astype(bool)


class Constraint:
    """The state of one answer in its grammar. Raises ValueError for a schema or an expression that is none."""

    def __init__(self, vocabulary: Vocabulary, params: SamplingParams) -> None:
        from llguidance import LLMatcher

        option, source = ("regex", params.regex) if params.schema is None else ("schema", params.schema)
        if option == "regex":
            grammar = LLMatcher.grammar_from_regex(source)
        else:
            try:
                grammar = LLMatcher.grammar_from_json_schema(
                    source if isinstance(source, str) else json.dumps(source), overrides=_LAYOUT
                )
            except (ValueError, TypeError) as error:
                raise ValueError(f"schema: {_first_line(error)}; give a JSON schema as an object or as text") from None
        self.vocabulary, self.place = vocabulary, None if option == "regex" else Place()
        self.closing: list[int] | None = None  # tokens that would end it from where it stands
        self.matcher = LLMatcher(vocabulary.prepared, grammar, log_level=0)
        if self.matcher.is_error():
            raise ValueError(f"{option}: {_first_line(self.matcher.get_error())}; correct the {option}")

    @property
    def finished(self) -> bool:
        """Nothing more can follow."""
        return self.matcher.is_stopped()

    def allow(self, logits_V: Tensor) -> Tensor:
        """The logits with -inf for every token that cannot come next, or makes a number too long."""
        allowed = self.vocabulary.allowed(self.matcher)[: len(logits_V)]
        require(
            not self.matcher.is_error(),
            "schema",
            _first_line(self.matcher.get_error()),
            "too complex for this text; simplify it",
        )
        require(
            bool(allowed.any()), "schema", "no token", "no token of this vocabulary can come next; loosen the schema"
        )
        if self.place and not self.place.quoted:
            short = allowed & (self.vocabulary.digits[: len(allowed)] + self.place.digits <= MOST_DIGITS)
            allowed = short if short.any() else allowed
        # In numpy, for torch's threads would stand in the way of the kernels'.
        out = np.full(len(logits_V), -math.inf, np.float32)
        out[: len(allowed)][allowed] = logits_V.float().numpy()[: len(allowed)][allowed]
        return torch.from_numpy(out)

    def settle(self, token: int, left: int) -> int:
        """A token, or, where the answer could not end any more within the `left` tokens, the first of those that end
        it."""
        if left > _AHEAD or token == self.vocabulary.eos_token_id:
            return token
        matcher, place, known = self.matcher.deep_copy(), self.place and replace(self.place), self.closing
        matcher.consume_token(token)
        if place:
            place.feed(self.vocabulary.tokens[token])
        # In a string, say, the same end will do.
        self.closing = known if known and _ended_by(matcher, known) else find_closing(matcher, self.vocabulary, place)
        if self.closing is None or len(self.closing) >= left:
            known = known or find_closing(self.matcher.deep_copy(), self.vocabulary, self.place)
            if known and len(known) <= left:
                token, self.closing = known[0], known[1:]
        return token

    def accept(self, token: int) -> None:
        self.matcher.consume_token(token)
        if self.place:
            self.place.feed(self.vocabulary.tokens[token])


def _ended_by(matcher: Any, tokens: list[int]) -> bool:
    matcher = matcher.deep_copy()
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_stopped()


class Opening:
    """The first tokens of an answer: they repeat what was taken back from the prompt, or are not the likeliest.

    Raises ValueError where no token can begin with what was taken back.
    """

    def __init__(self, tokenizer: Any, params: SamplingParams) -> None:
        self.tokenizer, self.left, self.branch = tokenizer, params.continues or b"", params.branch
        require(
            len(tokenizer.openings.able(self.left)) > 0,
            "continues",
            self.left,
            "no token of this vocabulary begins so; leave it in the prompt",
        )

    @property
    def over(self) -> bool:
        return not self.left and not self.branch

    def allow(self, logits_V: Tensor) -> Tensor:
        """The logits with -inf for every token without text, every token that says something else, and the likeliest
        that are passed over."""
        able = torch.from_numpy(self.tokenizer.openings.able(self.left))
        out = torch.full_like(logits_V, -math.inf)
        out[able] = logits_V[able]
        passed = min(self.branch, len(able) - 1)
        if passed:
            out[out.topk(passed).indices] = -math.inf
        return out

    def accept(self, token: int) -> None:
        text = self.tokenizer.decode_bytes([token])
        if len(text) > len(self.left) or not self.left:
            self.branch = 0  # the first that shows text has been chosen
        self.left = self.left[len(text) :]


def _first_line(message: object) -> str:
    return (str(message).strip().splitlines() or ["not understood"])[0]
