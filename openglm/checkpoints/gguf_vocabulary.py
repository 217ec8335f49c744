"""The vocabulary of a GGUF file: tokens, their kinds, merges, and the ids at which llama.cpp stops. No text is
tokenized here.

Rows of the embedding without a token are named [PAD number].

llama.cpp has its own pre-tokenizers, chosen by name. `glm4` cuts text as GLM-4's published pattern does and takes a
piece that is a token whole, as tiktoken does; SentencePiece models need none: both give the ids of the original. None
cuts quite as our own tokenizer does: `qwen2` differs from it only around runs of unlike blanks and apostrophes, but who
wants exactly our ids gives llama.cpp ids.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from gguf import GGUFWriter, Keys, TokenType

from openglm.checkpoints.library import chat_template
from openglm.config import ModelConfig, require
from openglm.text.bpe import byte_of_character
from openglm.text.sentencepiece import SentencePieceTokenizer
from openglm.text.tokenizer import Tokenizer


def add_vocabulary(writer: GGUFWriter, tokenizer: Tokenizer | None, config: ModelConfig) -> None:
    """Describe `tokenizer` in the header; None: a file without one, for ids alone."""
    if tokenizer is None:
        writer.add_tokenizer_model("no_vocab")
        return
    special = {number: (name, TokenType.CONTROL) for name, number in tokenizer.special.items()}
    special |= {number: (name, TokenType.USER_DEFINED) for name, number in tokenizer.added.items()}
    count = tokenizer.vocab_size
    require(
        count <= config.vocab_size,
        "tokenizer",
        f"{count} tokens",
        f"more than the model's vocabulary of {config.vocab_size}; they do not belong together",
    )
    plain = (
        _sentencepiece(writer, tokenizer.pieces, config.vocab_size)
        if isinstance(tokenizer, SentencePieceTokenizer)
        else _byte_level(writer, tokenizer)
    )
    unused = {number: (f"[PAD{number}]", TokenType.UNUSED) for number in range(config.vocab_size)}
    texts, kinds = zip(*(unused | special | plain).values(), strict=True)
    require(
        len(set(texts)) == len(texts),
        "tokenizer",
        f"{count} tokens",
        "two tokens have the same text, which llama.cpp does not allow",
    )
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    writer.add_add_bos_token(False)
    writer.add_chat_template(chat_template(tokenizer.format))
    _add_stops(writer, config)
    sampling = tokenizer.format.sampling
    writer.add_float32(Keys.General.SAMPLING_TEMP, sampling.temperature)
    writer.add_float32(Keys.General.SAMPLING_TOP_P, sampling.top_p)
    writer.add_int32(Keys.General.SAMPLING_TOP_K, sampling.top_k)


def _add_stops(writer: GGUFWriter, config: ModelConfig) -> None:
    """llama.cpp knows three ids that end an answer: of the text, of a turn, of a message (a tool call)."""
    stops = config.tokens.stop or (config.tokens.eop,)
    require(
        stops[0] >= 0 and len(stops) <= 3,
        "model.tokens.stop",
        config.tokens.stop,
        "llama.cpp needs one to three ids that end an answer",
    )
    for add, number in zip(
        (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id), stops, strict=False
    ):
        add(number)
    if config.tokens.pad >= 0:
        writer.add_pad_token_id(config.tokens.pad)


def _byte_level(writer: GGUFWriter, tokenizer: Tokenizer) -> dict[int, tuple[str, TokenType]]:
    """Tokens by id, their bytes spelt in GPT-2's printable characters."""
    character = {byte: character for character, byte in byte_of_character().items()}
    special = {*tokenizer.special.values(), *tokenizer.added.values()}
    tokens = {
        number: tokenizer.decode_bytes([number], skip_special=False)
        for number in range(tokenizer.vocab_size)
        if number not in special
    }
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2" if tokenizer.format.name == "openglm" else "glm4")
    writer.add_token_merges(
        [" ".join("".join(map(character.__getitem__, part)) for part in pair) for pair in merges(list(tokens.values()))]
    )
    return {
        number: ("".join(map(character.__getitem__, token)), TokenType.NORMAL)
        for number, token in tokens.items()
        if token
    }


def merges(tokens: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The pairs that a byte-level BPE joins, in order.

    A token's index is its rank, in tiktoken's files as in ours, and its pair is what the joins of lower rank leave of
    it. Tokens of which they leave more than two parts have no pair: only a whole piece of text yields them.
    """
    rank = {token: index for index, token in enumerate(tokens)}
    for token in tokens:
        own, parts = rank[token], [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            joins = [rank.get(left + right, own) for left, right in pairwise(parts)]
            if (first := min(joins)) >= own:
                break
            at = joins.index(first)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            yield parts[0], parts[1]


def _sentencepiece(writer: GGUFWriter, processor: Any, vocab_size: int) -> dict[int, tuple[str, TokenType]]:
    """Pieces by id, with the scores that order the joins."""
    kinds = {
        processor.is_unknown: TokenType.UNKNOWN,
        processor.is_control: TokenType.CONTROL,
        processor.is_byte: TokenType.BYTE,
        processor.is_unused: TokenType.UNUSED,
    }
    pieces = range(len(processor))
    writer.add_tokenizer_model("llama")
    writer.add_token_scores([processor.get_score(number) for number in pieces] + [0.0] * (vocab_size - len(pieces)))
    return {
        number: (
            processor.id_to_piece(number),
            next((kind for test, kind in kinds.items() if test(number)), TokenType.NORMAL),
        )
        for number in pieces
    }
