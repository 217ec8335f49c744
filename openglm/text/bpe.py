"""Byte-level BPE on the `tokenizers` library: our tokenizers, GLM-4's in both layouts, and GLM-10B's GPT-2 vocabulary.

Special tokens are taken out of the library's matching and out of the vocabulary, so that no text whatsoever yields one.
Training a tokenizer is own.py.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers

from openglm.text.checks import require_text
from openglm.text.formats import Format
from openglm.text.thinking import MARKS
from openglm.text.tokenizer import Tokenizer

GLM4_SPECIAL = (
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
)
GLM_SPECIAL = (
    "<|endoftext|>",
    "<|startofpiece|>",
    "<|endofpiece|>",
    "[CLS]",
    "[MASK]",
    "[SEP]",
    "[UNK]",
    "[gMASK]",
    "[sMASK]",
    "[dBLOCK]",
)

# Where GLM-4 cuts a text into pieces, which no token crosses.
_GLM4_PIECES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


class BpeTokenizer(Tokenizer):
    """Special tokens have ids of their own, which `bpe` must not know."""

    def __init__(
        self,
        files: Mapping[str, bytes],
        bpe: tokenizers.Tokenizer,
        tokens: Mapping[str, int],
        special: Mapping[str, int],
        format: Format,
        strips: bool = False,
    ):
        """tokens: ids of the vocabulary by the names that byte-level BPE gives them."""
        numbers = [*tokens.values(), *special.values()]
        if not (min(numbers) >= 0 and max(numbers) < 2 * len(numbers)):
            raise ValueError(f"ids run from {min(numbers)} to {max(numbers)}, for {len(numbers)} tokens")
        table = [b""] * (1 + max(numbers))
        byte_of = {ord(character): byte for character, byte in byte_of_character().items()}
        for name, number in tokens.items():
            try:
                table[number] = name.translate(byte_of).encode("latin-1")
            except UnicodeEncodeError:  # a name that is written as it is, for the file's author added it by hand
                table[number] = name.encode()
        for name, number in special.items():
            table[number] = name.encode()
        super().__init__(files, table, special, format, strips)
        self._bpe = bpe

    def _encode(self, text: str) -> list[int]:
        return self._ids([text])[0]

    def library_json(self) -> str:
        """The `tokenizer.json` of the `tokenizers` library, with the special tokens matched in texts, as other programs
        expect."""
        options = {
            "single_word": False,
            "lstrip": self._strips,
            "rstrip": self._strips,
            "normalized": False,
        }
        added = [
            {"id": number, "content": name, "special": name not in self._shown, **options}
            for name, number in sorted(self.special.items(), key=lambda item: item[1])
        ]
        return json.dumps({**json.loads(self._bpe.to_str()), "added_tokens": added}, ensure_ascii=False)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts, on all cores."""
        for number, text in enumerate(texts):
            require_text(text, f"texts[{number}]")
        return self._ids(list(texts))

    def _ids(self, texts: list[str]) -> list[list[int]]:
        """Without the library's character offsets, which take twice as long; and this call lets other threads run, the
        one for a single text does not."""
        return [encoding.ids for encoding in self._bpe.encode_batch_fast(texts, add_special_tokens=False)]


def read_ranks(content: bytes) -> dict[bytes, int]:
    """Tokens of a tiktoken file: a line each, the bytes in base64 and their number. Raises ValueError."""
    ranks = {
        base64.b64decode(token, validate=True): int(number) for token, number in map(bytes.split, content.splitlines())
    }
    if sorted(ranks.values()) != list(range(len(ranks))) or any(bytes([byte]) not in ranks for byte in range(256)):
        raise ValueError("the numbers must run from 0 on, and each byte needs a token")
    return ranks


def bpe_of_ranks(ranks: Mapping[bytes, int]) -> tuple[tokenizers.Tokenizer, dict[str, int]]:
    """The same tokenizer as tiktoken's, and its vocabulary: whatever joins two tokens to a third is a merge, in the
    order of the third.

    Not tiktoken itself, for its regular expressions end the process on a million spaces.
    """
    character_of = {byte: character for character, byte in byte_of_character().items()}
    vocabulary = {
        token.decode("latin-1").translate(character_of): number
        for token, number in sorted(ranks.items(), key=lambda item: item[1])
    }
    merges = []
    for name in vocabulary:
        splits = [
            (name[:cut], name[cut:])
            for cut in range(1, len(name))
            if name[:cut] in vocabulary and name[cut:] in vocabulary
        ]
        merges += (
            sorted(splits, key=lambda split: (vocabulary[split[0]], vocabulary[split[1]]))
            if len(splits) > 1
            else splits
        )
    bpe = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_GLM4_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    return bpe, vocabulary


def bpe_of_gpt2(
    vocabulary: Mapping[str, int], merge_lines: Iterable[str], special: Iterable[str]
) -> tuple[tokenizers.Tokenizer, dict[str, int]]:
    """GPT-2's BPE and its vocabulary without the special tokens, save the one that stands for unknown bytes where a
    vocabulary lacks some."""
    merges = [tuple(line.split(" ")) for line in merge_lines if line and not line.startswith("#version")]
    unknown = "[UNK]" if "[UNK]" in vocabulary else None
    kept = {name: number for name, number in vocabulary.items() if name == unknown or name not in special}
    bpe = tokenizers.Tokenizer(models.BPE(vocab=kept, merges=merges, unk_token=unknown))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return bpe, kept


def without_special(layout: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    """A `tokenizer.json` whose special tokens match no text, and their ids."""
    special = {
        token["content"]: token["id"]
        for token in layout["added_tokens"]
        if token["special"] or token["content"] in (*GLM4_SPECIAL, *MARKS)
    }
    vocab = {name: number for name, number in layout["model"]["vocab"].items() if name not in special}
    added = [token for token in layout["added_tokens"] if token["content"] not in special]
    return {
        **layout,
        "added_tokens": added,
        "post_processor": None,
        "model": {**layout["model"], "vocab": vocab},
    }, special


def byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes: visible Latin-1 characters stand for themselves, the others follow from
    U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}
