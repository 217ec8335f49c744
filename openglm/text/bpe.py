"""Byte-level BPE on the `tokenizers` library: our tokenizers, GLM-4's in both layouts, and GLM-10B's GPT-2 vocabulary.

Special tokens are taken out of the library's matching and out of the vocabulary, so that no text whatsoever yields one.
Training a tokenizer is own.py.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from openglm.config import require
from openglm.text.beside import FLAGS, Added
from openglm.text.formats import Format
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
        added: Mapping[str, Added] = MappingProxyType({}),
    ):
        """tokens: ids of the vocabulary by the names that byte-level BPE gives them. added: tokens that the library
        finds in texts whole; `with_added` has put their ids into the vocabulary."""
        byte_of = {ord(character): byte for character, byte in byte_of_character().items()}
        texts = {number: _bytes_of(name, byte_of) for name, number in tokens.items() if name not in added}
        super().__init__(files, texts, special, format, strips, added)
        bpe.add_tokens([AddedToken(name, **{flag: token[flag] for flag in FLAGS}) for name, token in added.items()])
        for name, number in self.added.items():
            require(bpe.token_to_id(name) == number, f"added token {name!r}", number, "is a word of this vocabulary")
        self._bpe = bpe

    def _encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """On all cores; without the library's character offsets, which take twice as long. This call lets other
        threads run, the one for a single text does not."""
        return [encoding.ids for encoding in self._bpe.encode_batch_fast(texts, add_special_tokens=False)]

    def layout(self) -> dict[str, Any]:
        """Of the library's `tokenizer.json`, without special tokens."""
        return json.loads(self._bpe.to_str())


def _bytes_of(name: str, byte_of: Mapping[int, int]) -> bytes:
    try:
        return name.translate(byte_of).encode("latin-1")
    except UnicodeEncodeError:  # a name that is written as it is, for the file's author added it by hand
        return name.encode()


def read_ranks(content: bytes) -> dict[bytes, int]:
    """Tokens of a tiktoken file: a line each, the bytes in base64 and their number. Raises ValueError."""
    ranks = {
        base64.b64decode(token, validate=True): int(number) for token, number in map(bytes.split, content.splitlines())
    }
    if sorted(ranks.values()) != list(range(len(ranks))) or any(bytes([byte]) not in ranks for byte in range(256)):
        raise ValueError("the numbers must run from 0 on, and each byte needs a token")
    return ranks


def bpe_of_ranks(
    ranks: Mapping[bytes, int], added: Mapping[str, Added] = MappingProxyType({})
) -> tuple[tokenizers.Tokenizer, dict[str, int]]:
    """The same tokenizer as tiktoken's, and its vocabulary: whatever joins two tokens to a third is a merge, in the
    order of the third.

    Not tiktoken itself, for its regular expressions end the process on a million spaces.
    """
    character_of = {byte: character for character, byte in byte_of_character().items()}
    vocabulary = {
        token.decode("latin-1").translate(character_of): number
        for token, number in sorted(ranks.items(), key=lambda item: item[1])
    }
    model = models.BPE(vocab=with_added(vocabulary, added), merges=joins(vocabulary), ignore_merges=True)
    return byte_level(model, _GLM4_PIECES), vocabulary


def byte_level(model: models.BPE, pieces: str) -> tokenizers.Tokenizer:
    """A tokenizer on the bytes of texts that are first cut by a regular expression."""
    bpe = tokenizers.Tokenizer(model)
    cut = pre_tokenizers.Split(Regex(pieces), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    return bpe


def joins(vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a third, in the order of the third."""
    merges: list[tuple[str, str]] = []
    for name in vocabulary:
        pairs = ((name[:cut], name[cut:]) for cut in range(1, len(name)))
        splits = [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
        merges += sorted(splits, key=lambda split: (vocabulary[split[0]], vocabulary[split[1]]))
    return merges


def bpe_of_gpt2(
    vocabulary: Mapping[str, int], merge_lines: Iterable[str], special: Iterable[str], added: Mapping[str, Added]
) -> tuple[tokenizers.Tokenizer, dict[str, int]]:
    """GPT-2's BPE and its vocabulary without the special tokens, save the one that stands for unknown bytes where a
    vocabulary lacks some."""
    lines = (line.split(" ") for line in merge_lines if line and not line.startswith("#version"))
    merges = [(left, right) for left, right in lines]
    unknown = "[UNK]" if "[UNK]" in vocabulary else None
    kept = {name: number for name, number in vocabulary.items() if name == unknown or name not in special}
    bpe = tokenizers.Tokenizer(models.BPE(vocab=with_added(kept, added), merges=merges, unk_token=unknown))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return bpe, kept


def without_named(
    layout: Mapping[str, Any], special: Mapping[str, int], added: Mapping[str, Added]
) -> tuple[tokenizers.Tokenizer, dict[str, int]]:
    """The tokenizer of a `tokenizer.json` without its special tokens, which so match no text, and its vocabulary.

    Added tokens stand in the vocabulary with their ids: the library numbers anew what it does not find there.
    """
    model = layout["model"]
    kept = {name: number for name, number in model["vocab"].items() if name not in special}
    vocab = with_added(kept, added)
    bare = {**layout, "added_tokens": [], "post_processor": None, "model": {**model, "vocab": vocab}}
    return tokenizers.Tokenizer.from_str(json.dumps(bare)), kept


def with_added(vocabulary: Mapping[str, int], added: Mapping[str, Added]) -> dict[str, int]:
    """A vocabulary that holds the ids of added tokens."""
    return {**{name: token["id"] for name, token in added.items()}, **vocabulary}


def byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes: visible Latin-1 characters stand for themselves, the others follow from
    U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}
