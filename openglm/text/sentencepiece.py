"""SentencePiece vocabularies: ChatGLM-6B's `ice_text.model`, `tokenizer.model` of ChatGLM2 and 3, and GLM-10B-Chinese's
`cog-pretrain.model`.

What does not come back from ids is the originals' doing, and no more than this. In all, "▁" (U+2581) stands for a
space. With `ice_text.model` text is normalized (NFKC; most control characters vanish), a single space at either end is dropped, and "<n>", "<|tab|>" and "<|blank_2|>" to
"<|blank_80|>" in a text mean the white space that they stand for. `cog-pretrain.model` normalizes as the file says, line ends included.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from openglm.config import require
from openglm.text.beside import Added, merged
from openglm.text.formats import Format
from openglm.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

CHATGLM_SPECIAL = (
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "sop",
    "eop",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
)
ICE_SPECIAL = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
IMAGE_TOKENS = 20000
"""ids that the first releases keep free for images before those of text"""

_CONTROL, _USER_DEFINED, _BYTE = (
    3,
    4,
    6,
)  # kinds of pieces in a SentencePiece model: never matched, always matched, one byte
_LONGEST_BLANK = 80
_SPACE = "▁"


class SentencePieceTokenizer(Tokenizer):
    """A vocabulary with special tokens of its own (unknown, control) and `special` ones beside it."""

    opens_anew = True

    def __init__(
        self,
        files: Mapping[str, bytes],
        model: bytes,
        special: Mapping[str, int],
        format: Format,
        where: str,
        offset: int = 0,
        strips: bool = False,
        declared: Mapping[str, Added] = MappingProxyType({}),
    ) -> None:
        """model: the SentencePiece file. special: places behind its vocabulary. offset: added to its ids. where: the
        file's name, for errors. declared: see beside.py."""
        self.pieces, self.offset = _processor(model, where), offset
        numbers = list(range(self.pieces.get_piece_size()))
        pieces = self.pieces.id_to_piece(numbers)
        texts = {offset + number: self._text_of(piece).encode() for number, piece in enumerate(pieces)}
        for number, is_byte in enumerate(self.pieces.is_byte(numbers)):
            if is_byte:
                texts[offset + number] = bytes([int(pieces[number][3:5], 16)])  # <0x41>
        kinds = zip(pieces, self.pieces.is_control(numbers), self.pieces.is_unknown(numbers), strict=True)
        names = {piece: offset + number for number, (piece, *kind) in enumerate(kinds) if any(kind)}
        names |= {name: offset + len(pieces) + index for name, index in special.items()}
        names, added = merged(where, names, declared)
        super().__init__(files, texts, names, format, strips, added)
        opening = [offset + number for number, piece in enumerate(pieces) if piece.startswith(_SPACE)]
        self.opening_spaces = frozenset(opening)
        self.drops_all_spaces = not self.pieces.encode(" ")
        self._matched = _matcher(added)

    def _text_of(self, name: str) -> str:
        return name.replace(_SPACE, " ")

    def _encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Each piece between added tokens is a text of its own, as the originals have it."""
        rows = []
        for text in texts:
            row: list[int] = []
            for place, piece in enumerate(self._matched.split(text) if self._matched else [text]):
                row += [self.added.get(piece) or self.added[piece.strip()]] if place % 2 else self._encode(piece)
            rows.append(row)
        return rows

    def _encode(self, text: str) -> list[int]:
        return [number + self.offset for number in self.pieces.encode(text)]


def _matcher(added: Mapping[str, Added]) -> re.Pattern[str] | None:
    """Finds added tokens, the longest first, with the white space that they take away."""
    patterns, blanks = [], r"\s*"
    for name in sorted(added, key=len, reverse=True):
        options = added[name]
        pattern = blanks * options["lstrip"] + re.escape(name) + blanks * options["rstrip"]
        patterns.append(rf"(?<!\w){pattern}(?!\w)" if options["single_word"] else pattern)
    return re.compile(f"({'|'.join(patterns)})") if patterns else None


class IceTokenizer(SentencePieceTokenizer):
    """ChatGLM-6B and GLM-130B: line ends, tabs and runs of spaces are tokens."""

    opens_anew = False

    def _text_of(self, name: str) -> str:
        blank = re.fullmatch(r"<\|blank_(\d+)\|>", name)
        return " " * int(blank[1]) if blank else {"<n>": "\n", "<|tab|>": "\t"}.get(name, super()._text_of(name))

    def _encode(self, text: str) -> list[int]:
        text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
        return super()._encode(re.sub(f" {{2,{_LONGEST_BLANK}}}", lambda run: f"<|blank_{len(run[0])}|>", text))

    def _encode_part(self, text: str, behind: bool, before: bool) -> list[int]:
        """In the original a special token is a character of the text. A line end in its place, taken out again, leaves
        the text as it was there."""
        ids = self._encode("\n" * behind + text + "\n" * before)
        return ids[2 * behind : len(ids) - before]  # in front it stands behind the space that opens every text


def ice_model(content: bytes) -> tuple[bytes, bool]:
    """The model that encodes text, and whether it was icetk's, which lacks special tokens, tabs, blanks and bytes:
    added as its code did."""
    if _piece_start("[gMASK]") in content:
        return _control(content, ICE_SPECIAL), False
    blanks = ("<|tab|>", *(f"<|blank_{length}|>" for length in range(2, _LONGEST_BLANK + 1)))
    kinds = [(ICE_SPECIAL, _CONTROL), (blanks, _USER_DEFINED), ([f"<0x{byte:02X}>" for byte in range(256)], _BYTE)]
    pieces = b"".join(_piece(name, kind) for names, kind in kinds for name in names)
    return content + pieces + b"\x12\x03\x98\x02\x01", True  # trainer_spec.byte_fallback = true


def _control(content: bytes, names: Sequence[str]) -> bytes:
    """The model with these pieces as control symbols, which no text yields: the published one matches them in a text,
    even in full-width letters."""
    for name in names:
        message = b"(?s)\n." + re.escape(_piece_start(name)) + b"\x15....(?:\x18.)?"
        content = _piece(name, _CONTROL).join(re.split(message, content))
    return content


def _piece_start(name: str) -> bytes:
    return b"\n" + bytes([len(name)]) + name.encode()


def _piece(name: str, kind: int) -> bytes:
    """A piece of score 0 as the protocol buffer of a SentencePiece model holds it: written here, for its library would
    be one more to install."""
    body = _piece_start(name) + b"\x15\x00\x00\x00\x00\x18" + bytes([kind])
    return b"\n" + bytes([len(body)]) + body


def _processor(model: bytes, where: str) -> SentencePieceProcessor:
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor()
    try:
        sound = pieces.load_from_serialized_proto(model)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"{where}: not a SentencePiece model ({str(error).splitlines()[0]}); use another copy of this file"
        ) from None
    require(
        bool(sound) and pieces.get_piece_size() > 0,
        "tokenizer",
        where,
        "not a SentencePiece model; use another copy of this file",
    )
    return pieces
