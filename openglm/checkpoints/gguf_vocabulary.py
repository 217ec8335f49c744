"""The vocabulary of a GGUF file: tokens, their kinds, merges, and the ids at which llama.cpp stops. No text is tokenised here.

A tokenizer needs `vocab_size`, `special` {name: id} and `decode_bytes`. Rows of the embedding without a token are named [PAD number].

llama.cpp has its own pre-tokenizers, chosen by name. `glm4` cuts text as GLM-4's published pattern does and takes a piece that is a token
whole, as tiktoken does. None cuts as our own tokenizer does; `gpt-2` comes nearest. So prompts for a model with our tokenizer should be
given to llama.cpp as ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from gguf import GGUFWriter, TokenType

from openglm.config import ModelConfig, require


def add_vocabulary(writer: GGUFWriter, tokenizer: Any, config: ModelConfig) -> None:
    """Describe `tokenizer` in the header; None: a file without one, for ids alone."""
    if tokenizer is None:
        writer.add_tokenizer_model("no_vocab")
        return
    size, special = tokenizer.vocab_size, {number: name for name, number in tokenizer.special.items()}
    require(max(size - 1, *special) < config.vocab_size, "tokenizer", f"{size} tokens", f"more than the model's vocabulary of {config.vocab_size}; they do not belong together")
    plain = {number: tokenizer.decode_bytes([number], skip_special=False) for number in range(size) if number not in special}
    character = _characters()
    texts = {number: "".join(map(character.__getitem__, token)) for number, token in plain.items() if token}
    names = {number: f"[PAD{number}]" for number in range(config.vocab_size)} | texts | special
    require(len(set(names.values())) == len(names), "tokenizer", f"{size} tokens", "two tokens have the same text, which llama.cpp does not allow")
    kinds = dict.fromkeys(special, TokenType.CONTROL) | dict.fromkeys(texts, TokenType.NORMAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("glm4" if "<|endoftext|>" in tokenizer.special else "gpt-2")
    writer.add_token_list([names[number] for number in range(config.vocab_size)])
    writer.add_token_types([kinds.get(number, TokenType.UNUSED) for number in range(config.vocab_size)])
    writer.add_token_merges([" ".join("".join(map(character.__getitem__, part)) for part in pair) for pair in merges(list(plain.values()))])
    writer.add_add_bos_token(False)
    _add_stops(writer, config)


def _add_stops(writer: GGUFWriter, config: ModelConfig) -> None:
    """llama.cpp knows three ids that end an answer: of the text, of a turn, of a message (a tool call)."""
    stops = config.tokens.stop or (config.tokens.eop,)
    require(stops[0] >= 0 and len(stops) <= 3, "model.tokens.stop", config.tokens.stop, "llama.cpp needs one to three ids that end an answer")
    for add, number in zip((writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id), stops, strict=False):
        add(number)
    if config.tokens.pad >= 0:
        writer.add_pad_token_id(config.tokens.pad)


def merges(tokens: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The pairs that byte-level BPE joins, in order. A token's place is its rank, in tiktoken's files as in ours: its pair is what the joins of lower rank leave of it."""
    rank = {token: place for place, token in enumerate(tokens)}
    for token in tokens:
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            best, at = min((rank.get(a + b, rank[token]), i) for i, (a, b) in enumerate(pairwise(parts)))
            if best >= rank[token]:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            yield parts[0], parts[1]


def _characters() -> dict[int, str]:
    """GPT-2's printable stand-in of every byte."""
    from openglm.text.tokenizer import _byte_of_character

    return {byte: character for character, byte in _byte_of_character().items()}
