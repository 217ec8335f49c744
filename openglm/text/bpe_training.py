"""How a tokenizer of OpenGLM's own is trained: byte-level BPE (see native.py) on pieces of text."""

import os
from collections.abc import Iterable, Iterator

from tokenizers import models, pre_tokenizers, trainers

from openglm.config import require
from openglm.text.bpe import byte_level
from openglm.text.checks import require_text
from openglm.text.native import SPECIAL_TOKENS, native_tokenizer
from openglm.text.tokenizer import Tokenizer

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


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: str | os.PathLike[str]) -> Tokenizer:
    """Learn a vocabulary from `texts` and write `folder/tokenizer.json`. The same texts give the same file.

    Texts too few for `vocab_size` tokens give a smaller vocabulary.

    Memory grows with the number of different Chinese clauses, about 1 kB each: some 50 MB of text are enough and fit a
    laptop.
    Raises ValueError where `vocab_size` is too small for the bytes.
    """
    require_vocab_size(vocab_size)
    bpe = byte_level(models.BPE(), _PIECES)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=_LONGEST_TOKEN,
        show_progress=False,
    )  # its progress bar writes to standard output
    bpe.train_from_iterator(_checked_texts(texts), trainer)
    tokenizer = native_tokenizer(bpe.to_str().encode())
    tokenizer.save(folder)
    return tokenizer


def require_vocab_size(vocab_size: int) -> None:
    """Raises ValueError for a size that cannot hold the bytes and the special tokens."""
    smallest = len(SPECIAL_TOKENS) + 256
    remedy = f"must be at least {smallest}: 256 bytes and the special tokens"
    require(vocab_size >= smallest, "vocab_size", vocab_size, remedy)


def too_few_texts(found: int, asked: int) -> str:
    """A line for the user whose texts yield a smaller vocabulary than asked for, else nothing."""
    return f"vocab_size: {found:,} tokens instead of {asked:,}; these texts yield no more" if found < asked else ""


def _checked_texts(texts: Iterable[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        require_text(text, f"texts[{number}]")
        yield text
