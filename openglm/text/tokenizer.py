"""What all tokenizers share; `load_tokenizer` (load.py) opens ours and those of the published checkpoints.

A tokenizer is a table of tokens' bytes, a table of special tokens and a way to encode text; a file kind is a subclass
(bpe.py,
sentencepiece.py). Special tokens are out of reach of text in all of them, also where the original matched "[MASK]" in
what a user typed:
who needs one in a prompt passes its id, see `Tokenizer.encode_parts`. Chat formats are not here: see formats.py and
render.py.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from openglm.config import SpecialTokens, require
from openglm.files import write_file
from openglm.text.beside import Added
from openglm.text.checks import require_text
from openglm.text.formats import Format
from openglm.text.openings import Openings
from openglm.text.render import render
from openglm.text.thinking import AS_USUAL, MARKS, Thinking, ThinkingTurns

_FREE = 40_000  # ids without a token: the first releases keep 20,000 for images
_SENTENCE_ENDS = frozenset(".?!;:。？！；：…\n")


class Tokenizer:
    """Text to ids and back. Pickles, and can be used in worker processes."""

    opening_spaces: frozenset[int] = frozenset()
    """ids whose leading space vanishes where they open a text: SentencePiece puts a space before the first word"""
    drops_all_spaces: bool = False
    """whether they vanish up to the first other character, not once"""
    opens_anew: bool = False
    """whether text opens again behind a special token"""

    def __init__(
        self,
        files: Mapping[str, bytes],
        texts: Mapping[int, bytes],
        special: Mapping[str, int],
        format: Format,
        strips: bool = False,
        added: Mapping[str, Added] = MappingProxyType({}),
    ) -> None:
        """files: what `save` writes. texts: bytes by id. added: tokens that were added to the vocabulary and are text.
        strips: white space beside special tokens is dropped.
        """
        self._files, self.strips, self.added_tokens = dict(files), strips, dict(added)
        self.special, self.format = dict(special), format
        self.added = {name: token["id"] for name, token in added.items()}
        """ids of tokens that text yields where it holds them whole"""
        self._tokens = _table(texts, [*self.special.items(), *self.added.items()])
        self.vocab_size = len(self._tokens)
        self.rows = self.vocab_size
        """of the model's table, which may be padded: ids from `vocab_size` on are no tokens and decode to nothing"""
        self.ends: tuple[int, ...] = ()
        """ids that end an answer, as the folder's configurations say"""
        self._special_ids = frozenset(self.special.values())
        # Marks of thoughts and calls are read back from text, so decoding writes them.
        self.shown = frozenset(MARKS) if isinstance(format.turns, ThinkingTurns) else frozenset[str]()
        self._skipped_ids = self._special_ids - {number for name, number in self.special.items() if name in self.shown}
        self.fingerprint = hashlib.sha256(b"".join(self._files.values())).hexdigest()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the tokenizer's files into `folder`, each beside and renamed; returns the path of the first."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            write_file(target / name, content)
        return target / next(iter(self._files))

    def _encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, never those of special tokens: "<|user|>" in a text is eight characters. Time is linear in
        its length."""
        require_text(text, "text")
        return self._encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts."""
        for number, text in enumerate(texts):
            require_text(text, f"texts[{number}]")
        return self._encode_batch(list(texts))

    def encode_parts(self, parts: Iterable[str | int], keep_spaces: bool = False) -> list[int]:
        """Ids of a prompt that the program composes: a str is encoded as text, an int is a token id such as
        `special["[MASK]"]`.

        As the original tokenizer encodes a text with the special tokens' names in these places, e.g. without the
        spaces beside them in GLM-10B, unless `keep_spaces`: then as a text from which training cut these places out.
        """
        row, ids = list(parts), list[int]()
        for index, part in enumerate(row):
            if isinstance(part, str):
                require_text(part, f"parts[{index}]")
                behind = index > 0 and not isinstance(row[index - 1], str)
                before = index + 1 < len(row) and not isinstance(row[index + 1], str)
                if self.strips and not keep_spaces:
                    part = part.lstrip() if behind else part
                    part = part.rstrip() if before else part
                ids += self._encode_part(part, behind, before)
            else:
                ids.append(_checked_id(part, self.vocab_size))
        return ids

    def _encode_part(self, text: str, behind: bool, before: bool) -> list[int]:
        """Ids of a text that stands `behind` a special token, or `before` one."""
        return self._encode_batch([text])[0]

    def prompt(self, parts: str | Iterable[str | int], limit: int | None = None) -> list[int]:
        """Ids of a text for a base model to go on with, or to fill where a mask stands among the parts, framed as the
        original tokenizer frames it.

        limit: cut the text on its left so that the prompt has no more ids than this.
        """
        ids = self.encode_parts([parts] if isinstance(parts, str) else parts)
        head, tail = self.format.frame(self.special, ids)
        room = len(ids) if limit is None else limit - len(head) - len(tail)
        require(
            room >= 0, "limit", limit, f"leaves no room for text; the frame alone takes {len(head) + len(tail)} tokens"
        )
        return [*head, *ids[max(len(ids) - room, 0) :], *tail]

    @cached_property
    def openings(self) -> Openings:
        """Which tokens an answer can begin with."""
        return Openings(self._tokens, self._special_ids)

    def border(self, text: str, opens: bool = True) -> tuple[str, bytes]:
        """A text that something is to follow, without the spaces at its end, and these: training shows a space
        joined with the word behind it, so they are left to what follows. A text of spaces alone that `opens` a
        prompt keeps them."""
        kept = text.rstrip(" ")
        spaces = text[len(kept) :].encode()
        if (opens and not kept) or not len(self.openings.able(spaces)):
            return text, b""
        return kept, spaces

    def decode_bytes(self, ids: Iterable[int], skip_special: bool = True) -> bytes:
        """Bytes of tokens, joined, each as it is inside a text; `decoder` is for the tokens of one text as they come."""
        skipped = self._skipped_ids if skip_special else ()
        numbers = (_checked_id(number, self.rows) for number in ids)
        return b"".join(self._tokens[n] for n in numbers if n < self.vocab_size and n not in skipped)

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of tokens; bytes that are no UTF-8 become U+FFFD. `skip_special=False` writes special tokens by their
        names.
        """
        return b"".join(map(self.decoder(skip_special), ids)).decode("utf-8", errors="replace")

    def decoder(self, skip_special: bool = True) -> Callable[[int], bytes]:
        """A function to give the tokens of one text to as they come: its bytes join to the text. A character may span
        several tokens.
        """
        opening = True

        def decode(number: int) -> bytes:
            nonlocal opening
            piece = self.decode_bytes([number], skip_special)
            if number in self._special_ids or number in self.added.values():
                opening = self.opens_anew or (opening and not piece)
            elif opening:  # spaces that open a text may vanish
                dropped = number in self.opening_spaces
                piece = piece[dropped:]
                opening = dropped and not piece and self.drops_all_spaces
            return piece

        return decode

    @property
    def tokens(self) -> SpecialTokens:
        """The ids that a network and its training rows need, whatever the family calls them; -1 where it has none."""

        def first(*names: str) -> int:
            return next((self.special[name] for name in names if name in self.special), -1)

        return SpecialTokens(
            pad=first("<pad>", "<|endoftext|>", "<unk>"),
            mask=first("[MASK]"),
            gmask=first("[gMASK]"),
            smask=first("[sMASK]"),
            sop=first("<sop>", "sop", "<|startofpiece|>"),
            eop=first("<eop>", "eop", "<|endofpiece|>"),
            stop=self.stop,
        )

    @property
    def stop(self) -> tuple[int, ...]:
        """Ids that end a generated answer: the format's, and those that the folder adds."""
        return tuple(dict.fromkeys((*(self.special[name] for name in self.format.stop), *self.ends)))

    @cached_property
    def sentence_ends(self) -> frozenset[int]:
        """Ids of the tokens that hold one of . ? ! ; : 。 ？ ！ ； ： … or a line end: where sentence infilling may cut."""
        texts = enumerate(token.decode("utf-8", errors="ignore") for token in self._tokens)
        return frozenset(number for number, text in texts if _SENTENCE_ENDS & set(text)) - self._special_ids

    def render(
        self,
        messages: Sequence[Mapping],
        tools: Sequence[Mapping] | None = None,
        *,
        generation_prompt: bool = False,
        thinking: Thinking = AS_USUAL,
        lenient: bool = False,
    ) -> tuple[list[int], list[int]]:
        """Ids and loss mask of a conversation: see `openglm.text.render.render`."""
        return render(self, messages, tools, generation_prompt=generation_prompt, thinking=thinking, lenient=lenient)


def _table(texts: Mapping[int, bytes], named: Sequence[tuple[str, int]]) -> tuple[bytes, ...]:
    """Bytes by id. Raises ValueError for ids that are out of all proportion, and for one that is two tokens."""
    numbers = [*texts, *(number for _, number in named)]
    sound = min(numbers) >= 0 and max(numbers) < 2 * len(numbers) + _FREE
    require(sound, "ids", f"{min(numbers)} to {max(numbers)}", f"do not fit {len(numbers)} tokens")
    table = [b""] * (1 + max(numbers))
    for number, text in texts.items():
        table[number] = text
    for name, number in named:
        text = name.encode()
        held = texts.get(number, text).decode(errors="replace")
        require(
            held == name, f"added token {name!r}", number, f"is {held!r} in the vocabulary; use the files of one model"
        )
        table[number] = text
    return tuple(table)


def _checked_id(number: int, size: int) -> int:
    require(0 <= number < size, "token id", number, f"must lie in 0..{size - 1}")
    return int(number)
