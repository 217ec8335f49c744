"""An answer as it comes: its content as soon as it is certain, its tool call once it is whole. One reader for all formats of the family.

In every format a call is a line with the tool's name and then its arguments, and counts only where <|observation|> closes the answer. So a
line that may become the name of a tool is held back, and all behind it; at the end it is either a call or plain text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openglm.assistant import Assistant


class ReplyStream:
    """Feed it the engine's events in order. White space around the content is dropped; a call of a tool that is not among `names` stays text."""

    def __init__(self, assistant: Assistant, names: Sequence[str] = ()) -> None:
        self._assistant, self._names = assistant, frozenset(names)
        self._next_text = assistant.tokenizer.special.get("<|assistant|>")  # parts the texts of one answer
        self._sent: list[str] = []
        self._held = ""
        self._in_call = False

    def feed(self, token: int | None, text: str) -> str:
        """Content that is certain now."""
        self._held += "\n" if token is not None and token == self._next_text else text
        return "" if self._in_call else self._release(self._certain())

    def end(self, ids: Sequence[int]) -> tuple[str, list[dict[str, Any]]]:
        """The rest of the content, and the calls."""
        message = self._assistant.called(ids) if self._names else None
        if message is None or message["tool_calls"][0]["function"]["name"] not in self._names:
            return self._release(len(self._held.rstrip())), []
        sent, whole = "".join(self._sent), message["content"].strip()
        return whole[len(sent) :] if whole.startswith(sent) else "", message["tool_calls"]

    def _certain(self) -> int:
        """How much of the held text no call can claim: all but white space at its end and what begins with a line that may be a name."""
        end = len(self._held.rstrip())
        start = (self._held.find("\n") + 1 or end) if self._sent else 0
        while self._names and start < end:
            line, ended, _ = self._held[start:].partition("\n")
            self._in_call = bool(ended) and line in self._names
            if self._in_call or (not ended and any(name.startswith(line) for name in self._names)):
                return len(self._held[:start].rstrip())
            start += len(line) + 1
        return end

    def _release(self, count: int) -> str:
        piece, self._held = self._held[:count], self._held[count:]
        piece = piece if self._sent else piece.lstrip()
        if piece:
            self._sent.append(piece)
        return piece
