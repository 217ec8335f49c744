"""Text of an answer while it grows: whole characters only, and never a piece of a stop string.

Works on bytes, so that neither a character nor a stop string may be cut by the border of two tokens.
"""

import codecs
from typing import Any


class _Stop:
    """One stop string, matched byte by byte in time linear in the text (Knuth, Morris and Pratt)."""

    def __init__(self, text: str) -> None:
        self.bytes, self.matched = text.encode(), 0
        self.back = [0] * len(self.bytes)  # length of the longest beginning that also ends here
        for end in range(1, len(self.bytes)):
            length = self.back[end - 1]
            while length and self.bytes[length] != self.bytes[end]:
                length = self.back[length - 1]
            self.back[end] = length + (self.bytes[length] == self.bytes[end])

    def feed(self, byte: int) -> bool:
        """True where this byte completes the string."""
        while self.matched and self.bytes[self.matched] != byte:
            self.matched = self.back[self.matched - 1]
        self.matched += self.bytes[self.matched] == byte
        return self.matched == len(self.bytes)


class TextStream:
    """Feed it tokens, and it gives the text that is certain.

    continues: the text goes on inside another, and its first bytes are left out, for they repeat these; None: it is
    one of its own, where the space that some tokenizers put in front vanishes.
    """

    def __init__(self, tokenizer: Any, stops: tuple[str, ...], continues: bytes | None = None) -> None:
        self.size = tokenizer.vocab_size
        self.decode = tokenizer.decoder() if continues is None else lambda token: tokenizer.decode_bytes([token])
        self.unseen = len(continues or b"")
        self.repeated = 0
        """tokens that lay wholly in what is left out"""
        self.stops = [_Stop(text) for text in stops]
        self.held = bytearray()
        self.utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self.pieces: list[str] = []

    def feed(self, token: int) -> tuple[str, bool]:
        """The text that this token makes certain, and whether a stop string is complete."""
        text = self.decode(token) if token < self.size else b""  # a model may have more rows than there are tokens
        self.repeated += 0 < len(text) <= self.unseen
        shown = text[self.unseen :]
        self.unseen = max(self.unseen - len(text), 0)
        for byte in shown:
            self.held.append(byte)
            done = [len(stop.bytes) for stop in self.stops if stop.feed(byte)]
            if done:
                del self.held[-max(done) :]
                return self.end(), True
        return self._release(len(self.held) - max((stop.matched for stop in self.stops), default=0)), False

    def end(self) -> str:
        """The text that was still held back."""
        return self._release(len(self.held), final=True)

    def _release(self, count: int, final: bool = False) -> str:
        piece = self.utf8.decode(bytes(self.held[:count]), final)
        del self.held[:count]
        self.pieces.append(piece)
        return piece
