"""An answer as it comes: thoughts and content as soon as they are certain, a tool call once it is whole. One reader
for all formats of the family.

Since GLM-4.5 marks tell thoughts and calls: reading.py. Before, a call is a line with the tool's name and then its
arguments, and counts only where <|observation|> closes the answer. So a line that may become the name of a tool is held
back, and all behind it; at the end it is either a call or plain text.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from openglm.text.reading import Piece, ReplyReader
from openglm.text.render import Tokenizer, parse_reply
from openglm.text.replies import Tidied
from openglm.text.thinking import ThinkingTurns


class ReplyStream:
    """Feed it the engine's events in order. White space around the content is dropped; a call of a tool that is not
    among `names` stays text. `thoughts` and `calls` hold what was read of them so far."""

    def __init__(
        self, tokenizer: Tokenizer, names: Sequence[str] = (), reader: ReplyReader | None = None, begun: bool = False
    ) -> None:
        """reader: of a model that thinks, see `reader_of` in render.py. begun: the prompt holds the content's
        beginning."""
        self._tokenizer, self._names, self._reader = tokenizer, frozenset(names), reader
        form = tokenizer.format
        self._marked = isinstance(form.turns, ThinkingTurns)
        self._tidied = Tidied(form.tidy) if form.tidy else None
        self.thoughts: list[str] = []
        self.calls: list[dict[str, Any]] = []
        self._next_text = tokenizer.special.get("<|assistant|>")  # parts the texts of one answer
        self._begun = begun
        self._sent: list[str] = []
        self._held = ""  # empty, or not white space alone
        self._later: list[
            str
        ] = []  # behind it, in pieces, for there may be very many: white space before the next letter, or a call
        self._in_call = False

    def feed(self, pieces: Iterable[tuple[int | None, str]]) -> str:
        """Content that is certain now, of tokens with their texts: many at once cost less than one after another. All
        together take time in proportion to their length."""
        piece = "".join(["\n" if token is not None and token == self._next_text else text for token, text in pieces])
        if self._reader:
            return self._sorted(self._reader.feed(piece))
        return self._lines(self._tidied.feed(piece) if self._tidied else piece)

    def _sorted(self, pieces: Sequence[Piece]) -> str:
        self.thoughts += [what for kind, what in pieces if kind == "reasoning_content"]
        self.calls += [what for kind, what in pieces if kind == "tool_calls"]
        content = "".join([what for kind, what in pieces if kind == "content"])
        return content if self._marked else self._lines(content)

    def _lines(self, piece: str) -> str:
        if self._in_call or not (self._held or piece.strip()):
            self._later.append(piece)
            return ""
        self._take(piece)
        content = self._release(self._certain())
        if not self._held.strip():
            self._held, self._later = "", [self._held]
        return content

    def end(self, ids: Sequence[int]) -> tuple[str, list[dict[str, Any]]]:
        """The rest of the content, and the calls."""
        rest = self._sorted(self._reader.end()) if self._reader else ""
        if self._marked:
            return rest, self.calls
        rest += self._lines(self._tidied.feed("", last=True)) if self._tidied else ""
        last, self.calls = self._last(ids)
        return rest + last, self.calls

    def _last(self, ids: Sequence[int]) -> tuple[str, list[dict[str, Any]]]:
        self._take("")
        message = parse_tool_call(self._tokenizer, ids) if self._names else None
        if message is None or message["tool_calls"][0]["function"]["name"] not in self._names:
            return self._release(len(self._held.rstrip())), []
        sent, whole = "".join(self._sent), message["content"].strip()
        return whole[len(sent) :] if whole.startswith(sent) else "", message["tool_calls"]

    def _take(self, piece: str) -> None:
        self._held, self._later = "".join([self._held, *self._later, piece]), []

    def _certain(self) -> int:
        """How much of the held text no call can claim: all but white space at its end and what begins with a line that
        may be a name."""
        end = len(self._held.rstrip())
        start = (self._held.find("\n") + 1 or end) if self._sent or self._begun else 0
        while self._names and start < end:
            stop = self._held.find("\n", start)
            ended, line = stop >= 0, self._held[start : stop if stop >= 0 else None]
            name = line.strip()
            self._in_call = ended and name in self._names
            if self._in_call or (not ended and any(known.startswith(name) for known in self._names)):
                return len(self._held[:start].rstrip())
            start += len(line) + 1
        return end

    def _release(self, count: int) -> str:
        piece, self._held = self._held[:count], self._held[count:]
        piece = piece if self._sent or self._begun else piece.lstrip()
        if piece:
            self._sent.append(piece)
        return piece


def parse_tool_call(tokenizer: Tokenizer, ids: Sequence[int]) -> dict[str, Any] | None:
    """A finished answer as a message, where it calls a tool."""
    if not ids or ids[-1] != tokenizer.special.get("<|observation|>"):
        return None
    message = parse_reply(tokenizer, ids)
    return message if message.get("tool_calls") else None
