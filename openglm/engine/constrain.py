"""What tokens an answer may have: those of a JSON schema or a regular expression, with llguidance, which is loaded
when the first request asks for it; and first of all those that spell what was taken back from the prompt."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openglm.config import require
from openglm.engine.params import SamplingParams

_LAYOUT = {
    "whitespace_pattern": " ?"
}  # between parts of JSON; any amount of it, and small models never stop writing it


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
        self.prepared = LLTokenizer(TokenizerWrapper(self), eos_token=list(stop_ids))

    def __call__(self, text: str) -> list[int]:
        return self.encode(text)


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
        self.matcher = LLMatcher(vocabulary.prepared, grammar, log_level=0)
        if self.matcher.is_error():
            raise ValueError(f"{option}: {_first_line(self.matcher.get_error())}; correct the {option}")

    @property
    def finished(self) -> bool:
        """Nothing more can follow."""
        return self.matcher.is_stopped()

    def allow(self, logits_V: Tensor) -> Tensor:
        """The logits with -inf for every token that cannot come next."""
        bits = np.frombuffer(self.matcher.compute_bitmask(), np.uint8)
        allowed = torch.from_numpy(
            np.unpackbits(bits, bitorder="little", count=min(8 * len(bits), len(logits_V)))
        ).bool()
        require(
            not self.matcher.is_error(),
            "schema",
            _first_line(self.matcher.get_error()),
            "too complex for this text; simplify it",
        )
        require(
            bool(allowed.any()), "schema", "no token", "no token of this vocabulary can come next; loosen the schema"
        )
        out = torch.full_like(logits_V, -math.inf)
        out[: len(allowed)][allowed] = logits_V[: len(allowed)][allowed]
        return out

    def accept(self, token: int) -> None:
        self.matcher.consume_token(token)


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
