"""How a constrained answer can end before its tokens run out.

A path to an end is found token by token: what the grammar forces, else the byte that closes most. It need not be the
shortest there is, but it is known to exist.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

MOST_DIGITS = 16
"""of a number, for a double holds no more"""
_NUMBER = re.compile(rb"[0-9.+-]*[eE]?")
_SOONEST = b'}],:0123456789ntf"[{-'  # outside of strings; inside the quotation mark
_LONGEST, _LONGEST_TOKEN = 2048, 24  # bytes of an end, of a token in it


@dataclass
class Place:
    """Where in a JSON text an answer stands: in a string, behind a backslash, behind so many digits of a number."""

    quoted: bool = False
    escaped: bool = False
    digits: int = 0

    def feed(self, text: bytes) -> None:
        for byte in text:
            if self.quoted:
                self.quoted = self.escaped or byte != 0x22
                self.escaped = byte == 0x5C and not self.escaped
            else:
                self.quoted = byte == 0x22
                self.digits = self.digits + chr(byte).isdigit() if byte in b"0123456789.+-eE" else 0


def digits_ahead(text: bytes) -> int:
    """How many digits a token adds to the number before it, one that must follow a point counted too; an exponent,
    which could make it any size, counts as all that there may be."""
    run = _NUMBER.match(text)
    assert run is not None, "it matches nothing too"
    more = 1 if run[0].endswith((b".", b"-")) else MOST_DIGITS * run[0].endswith((b"e", b"E"))
    return len(re.findall(rb"[0-9]", run[0])) + more


def find_closing(matcher: Any, vocabulary: Any, place: Place | None) -> list[int] | None:
    """Tokens that end the answer; None where no way was found. `matcher` is used up. place: None where the answer is no
    JSON."""
    place, text = place and replace(place), b""
    while not matcher.is_accepting() and not matcher.is_stopped() and len(text) <= _LONGEST:
        tokens = matcher.compute_ff_tokens() or [_soonest(matcher, vocabulary, place)]
        if not matcher.consume_tokens(tokens):
            return None
        more = b"".join(vocabulary.tokens[token] for token in tokens)
        text += more
        if place:
            place.feed(more)
    ends = [] if matcher.is_stopped() else [vocabulary.eos_token_id]
    return None if len(text) > _LONGEST or matcher.is_error() else _few(text, vocabulary) + ends


def _soonest(matcher: Any, vocabulary: Any, place: Place | None) -> int:
    for byte in (b'"' if place.quoted else _SOONEST) if place else b"":
        token = vocabulary.numbers.get(bytes([byte]))
        if token is not None and matcher.validate_tokens([token]):
            return token
    allowed = vocabulary.allowed(matcher)
    return int(np.where(allowed, vocabulary.lengths[: len(allowed)], -1).argmax())


def _few(text: bytes, vocabulary: Any) -> list[int]:
    """The text in long tokens: a grammar asks for bytes, whatever their tokens."""
    tokens, start = [], 0
    while start < len(text):
        sizes = range(min(_LONGEST_TOKEN, len(text) - start), 0, -1)
        token = next(
            found for size in sizes if (found := vocabulary.numbers.get(text[start : start + size])) is not None
        )
        tokens.append(token)
        start += vocabulary.lengths[token]
    return tokens
