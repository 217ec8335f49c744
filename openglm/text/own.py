"""Our own tokenizers: byte-level BPE in one file, `tokenizer.json`, and how one is trained.

Every byte has a token, so nothing is unknown and `decode(encode(text)) == text`. The special tokens stand in the file
as usual, so that other programs read it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from openglm.config import require
from openglm.text.bpe import BpeTokenizer, byte_of_character, without_special
from openglm.text.checks import require_text
from openglm.text.formats import FORMATS
from openglm.text.tokenizer import Tokenizer

_FIRST = (
    *("<pad>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
)
SPECIAL_TOKENS = (
    *_FIRST,
    *("[Begin]", "[Param]", "[End]", "[Gen]"),  # a call of a tool: name, arguments, result, and back to the answer
    *("<think>", "</think>"),
    *("<|begin_of_image|>", "<|image|>", "<|end_of_image|>"),
    *("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    *(f"<|spare_{number}|>" for number in range(12)),
)
"""Names of the special tokens; the place of a name is its id. The first tokenizers have the first ten alone."""

FILE_NAME = "tokenizer.json"
# Text is first cut into pieces, and no token crosses a cut. After GPT-4's pattern, changed for Chinese and English in a
# small vocabulary: Han runs stand apart from Latin words and take no space; digits stand alone, which arithmetic needs;
# only a space joins the word after it, for "(the" and "_the" would spend tokens on what two tokens say; line ends join
# nothing but line ends, so "\n" is always the same token.
_PIECES = "|".join(
    (
        r"'(?i:[sdmt]|ll|ve|re)(?!\p{L})",  # it's, we'll
        r"\p{Han}+",
        r" ?[\p{L}\p{M}&&[^\p{Han}]]+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{M}\p{N}]+",
        r"[\r\n]+",
        r" +(?!\S)",  # indentation, all but the space that joins the word
        r"[^\S\r\n ]+",  # tabs; the two wide spaces that open a Chinese paragraph
        r" ",
    )
)
_LONGEST_TOKEN = (
    16  # bytes: five Han characters or " international"; longer tokens are whole phrases of the training text
)
_FOREIGN_OPTIONS = (
    "unk_token",
    "ignore_merges",
    "byte_fallback",
    "dropout",
    "continuing_subword_prefix",
    "end_of_word_suffix",
)


def own_tokenizer(file_bytes: bytes, where: str = FILE_NAME) -> Tokenizer:
    """A tokenizer from the bytes of a `tokenizer.json` of ours. Raises ValueError if they are something else, `where`
    naming the file."""
    try:
        layout = json.loads(file_bytes)
        special = {name: number for number, name in enumerate(special_names(layout["model"]))}
        tokens = layout["model"]["vocab"]
        # Nothing is left that could match a special name in a text: the names have no merges (checked), so only their
        # ids lead to them.
        bpe = tokenizers.Tokenizer.from_str(json.dumps(without_special(layout)[0]))
        return BpeTokenizer({FILE_NAME: file_bytes}, bpe, tokens, special, FORMATS["openglm"])
    except Exception as error:  # the library raises bare Exception
        raise ValueError(
            f"{where}: not a tokenizer of OpenGLM ({type(error).__name__}: {error}); make one with `glm tokenizer`"
        ) from None


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: str | os.PathLike[str]) -> Tokenizer:
    """Learn a vocabulary from `texts` and write `folder/tokenizer.json`. The same texts give the same file.

    Memory grows with the number of different Chinese clauses, about 1 kB each: some 50 MB of text are enough and fit a
    laptop.
    Raises ValueError where `vocab_size` is too small for the bytes or larger than the texts can fill.
    """
    smallest = len(SPECIAL_TOKENS) + 256
    require(
        vocab_size >= smallest,
        "vocab_size",
        vocab_size,
        f"must be at least {smallest}: 256 bytes and the special tokens",
    )
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=_LONGEST_TOKEN,
        show_progress=False,
    )  # its progress bar writes to standard output
    bpe.train_from_iterator(_checked_texts(texts), trainer)
    require(
        bpe.get_vocab_size() == vocab_size,
        "vocab_size",
        vocab_size,
        f"these texts yield {bpe.get_vocab_size()} tokens; give more text or ask for fewer",
    )
    tokenizer = own_tokenizer(bpe.to_str().encode())
    tokenizer.save(folder)
    return tokenizer


def _checked_texts(texts: Iterable[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        require_text(text, f"texts[{number}]")
        yield text


def special_names(model: dict[str, Any]) -> tuple[str, ...]:
    """The special tokens at the front of a vocabulary of ours, all or the first ten.

    Raises ValueError unless the rest is byte-level BPE that cannot reach one.
    """
    vocab, byte_of = model["vocab"], byte_of_character()
    names = tuple(sorted(vocab, key=vocab.__getitem__))
    special = next((known for known in (SPECIAL_TOKENS, _FIRST) if names[: len(known)] == known), ())
    rest = names[len(special) :]
    pairs = (pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"])
    sound = (
        model["type"] == "BPE"
        and not any(model.get(option) for option in _FOREIGN_OPTIONS)
        and [vocab[name] for name in names] == list(range(len(names)))
        and special
        and not set(SPECIAL_TOKENS) & set(rest)
        and set().union(*rest) <= byte_of.keys() <= vocab.keys()
    )
    if not sound or any("".join(pair) in SPECIAL_TOKENS for pair in pairs):
        first, last = _FIRST[0], _FIRST[-1]
        raise ValueError(
            f"tokens 0 to {len(SPECIAL_TOKENS) - 1} must be {first} to {SPECIAL_TOKENS[-1]}, "
            f"or 0 to {len(_FIRST) - 1} {first} to {last}, and the others byte-level BPE"
        )
    return special
