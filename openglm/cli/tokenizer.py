"""`glm tokenizer`: train a byte-level BPE tokenizer on text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from openglm.cli.options import parse


@dataclass
class TokenizerOptions:
    """Train a tokenizer on a file of text or records (.txt, .md, .jsonl, .parquet ..), or on those of a folder."""

    source: Annotated[str, tyro.conf.Positional]
    """folder of text files, or one file"""
    out: str
    """folder to write tokenizer.json to"""
    vocab_size: int = 8192
    """number of tokens, special tokens included"""


def run(argv: list[str]) -> int:
    options = parse(TokenizerOptions, argv, "glm tokenizer", TokenizerOptions.__doc__ or "")
    from openglm.data.readers import own_files, own_texts
    from openglm.runtime import say
    from openglm.text.bpe_training import too_few_texts, train_tokenizer

    tokenizer = train_tokenizer(
        (text for path in own_files(options.source) for text in own_texts(path)),
        options.vocab_size,
        options.out,
    )
    if few := too_few_texts(tokenizer.vocab_size, options.vocab_size):
        say(few)
    say(f"{tokenizer.vocab_size} tokens in {options.out}")
    return 0
