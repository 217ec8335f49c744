"""OpenGLM's own tokenizers: byte-level BPE in one file, `tokenizer.json`. How one is trained: bpe_training.py.

Every byte has a token, so nothing is unknown and `decode(encode(text)) == text`. The special tokens stand in the file
as usual, so that other programs read it.
"""

import json
from typing import Any

from openglm.text.bpe import BpeTokenizer, byte_of_character, without_named
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
"""Names of the special tokens; the index of a name is its id. The first tokenizers have the first ten alone."""

FILE_NAME = "tokenizer.json"
_FOREIGN_OPTIONS = (
    "unk_token",
    "ignore_merges",
    "byte_fallback",
    "dropout",
    "continuing_subword_prefix",
    "end_of_word_suffix",
)


def native_tokenizer(file_bytes: bytes, where: str = FILE_NAME) -> Tokenizer:
    """A tokenizer from the bytes of a `tokenizer.json` of ours. Raises ValueError if they are something else, `where`
    naming the file."""
    try:
        layout = json.loads(file_bytes)
        special = {name: number for number, name in enumerate(special_names(layout["model"]))}
        return BpeTokenizer({FILE_NAME: file_bytes}, *without_named(layout, special, {}), special, FORMATS["openglm"])
    except Exception as error:  # the library raises bare Exception
        raise ValueError(
            f"{where}: not a tokenizer of OpenGLM ({type(error).__name__}: {error}); make one with `glm tokenizer`"
        ) from None


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
