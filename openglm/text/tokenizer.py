"""Byte-level BPE for our own models, on the `tokenizers` library.

A tokenizer is one file, `tokenizer.json`. Every byte has a token, so nothing is unknown and `decode(encode(text)) == text`. The ten
special tokens stand in the file as usual, so that other programs read it; this class takes them out of the library's matching when
it loads the file, so that no text whatsoever yields one. Who needs one in a prompt passes its id: see `Tokenizer.encode_parts`.
The published checkpoints' own tokenizers are not read here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from openglm.config import require

SPECIAL_TOKENS = ("<pad>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
"""Names of the special tokens; the place of a name is its id, in every tokenizer of ours."""

FILE_NAME = "tokenizer.json"
ASSETS = Path(__file__).parent.parent / "assets"

# Text is first cut into pieces, and no token crosses a cut. After GPT-4's pattern, changed for Chinese and English in a small vocabulary:
# Han runs stand apart from Latin words and take no space; digits stand alone, which arithmetic needs; only a space joins the word after
# it, for "(the" and "_the" would spend tokens on what two tokens say; line ends join nothing but line ends, so "\n" is always the same token.
_PIECES = "|".join((
    r"'(?i:[sdmt]|ll|ve|re)(?!\p{L})",  # it's, we'll
    r"\p{Han}+",
    r" ?[\p{L}\p{M}&&[^\p{Han}]]+",
    r"\p{N}",
    r" ?[^\s\p{L}\p{M}\p{N}]+",
    r"[\r\n]+",
    r" +(?!\S)",  # indentation, all but the space that joins the word
    r"[^\S\r\n ]+",  # tabs; the two wide spaces that open a Chinese paragraph
    r" ",
))
_LONGEST_TOKEN = 16  # bytes: five Han characters or " international"; longer tokens are whole phrases of the training text
_FOREIGN_OPTIONS = ("unk_token", "ignore_merges", "byte_fallback", "dropout", "continuing_subword_prefix", "end_of_word_suffix")
_SENTENCE_ENDS = frozenset(".?!;:。？！；：…\n")


def require_text(value: object, where: str) -> None:
    """Raise ValueError, naming `where`, unless `value` is a str that UTF-8 can hold, i.e. one without lone surrogates."""
    require(isinstance(value, str), where, type(value).__name__, "must be text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} = {value[error.start]!r} at character {error.start}: half of a surrogate pair is no text; decode the file as UTF-8") from None


class Tokenizer:
    """A tokenizer from the bytes of a `tokenizer.json` of ours.

    Raises ValueError if they are something else, `where` naming the file. Pickles, and can be used in worker processes.
    """

    def __init__(self, file_bytes: bytes, where: str = FILE_NAME) -> None:
        try:
            layout = json.loads(file_bytes)
            tokens = _checked_vocabulary(layout["model"])
            # Nothing is left that could match a special name in a text: the names have no merges (checked), so only their ids lead to them.
            self._bpe = tokenizers.Tokenizer.from_str(json.dumps({**layout, "added_tokens": []}))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{where}: not a tokenizer of OpenGLM ({type(error).__name__}: {error}); make one with `glm tokenizer`") from None
        self._file_bytes = file_bytes
        self._token_bytes = tokens
        self.vocab_size = len(tokens)
        self.special = {name: number for number, name in enumerate(SPECIAL_TOKENS)}
        self.fingerprint = hashlib.sha256(file_bytes).hexdigest()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `tokenizer.json` into `folder`, beside and renamed; returns its path."""
        path = Path(folder) / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{FILE_NAME}.{os.getpid()}")
        with beside.open("wb") as file:
            file.write(self._file_bytes)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        return path

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, never those of special tokens: "<|user|>" in a text is eight characters. Time is linear in its length."""
        require_text(text, "text")
        return self._bpe.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts, on all cores."""
        for number, text in enumerate(texts):
            require_text(text, f"texts[{number}]")
        return [encoding.ids for encoding in self._bpe.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_parts(self, parts: Iterable[str | int]) -> list[int]:
        """Ids of a prompt that the program composes: a str is encoded as text, an int is a token id such as `special["[MASK]"]`."""
        ids: list[int] = []
        for part in parts:
            ids += self.encode(part) if isinstance(part, str) else [self._checked_id(part)]
        return ids

    def decode_bytes(self, ids: Iterable[int], skip_special: bool = True) -> bytes:
        """UTF-8 bytes of tokens. A character may span several tokens: to stream text, feed these to `codecs.getincrementaldecoder("utf-8")`."""
        first = len(SPECIAL_TOKENS) if skip_special else 0
        return b"".join(self._token_bytes[number] for number in map(self._checked_id, ids) if number >= first)

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of tokens; bytes that are no UTF-8 become U+FFFD. `skip_special=False` writes special tokens by their names."""
        return self.decode_bytes(ids, skip_special).decode("utf-8", errors="replace")

    def _checked_id(self, number: int) -> int:
        require(0 <= number < self.vocab_size, "token id", number, f"must lie in 0..{self.vocab_size - 1}")
        return int(number)

    @cached_property
    def sentence_ends(self) -> frozenset[int]:
        """Ids of the tokens that hold one of . ? ! ; : 。 ？ ！ ； ： … or a line end: where sentence infilling may cut."""
        texts = enumerate(token.decode("utf-8", errors="ignore") for token in self._token_bytes)
        return frozenset(number for number, text in texts if number >= len(SPECIAL_TOKENS) and _SENTENCE_ENDS & set(text))

    def render(self, messages: Sequence[Mapping], tools: Sequence[Mapping] | None = None, *, generation_prompt: bool = False) -> tuple[list[int], list[int]]:
        """Ids and loss mask of a conversation: see `openglm.text.render.render`."""
        from openglm.text.render import render  # here, for the renderer imports this file

        return render(self, messages, tools, generation_prompt=generation_prompt)


def load_tokenizer(path_or_name: str | os.PathLike[str]) -> Tokenizer:
    """A tokenizer of ours from a folder, a `tokenizer.json`, or the name of a bundled one ("nano"). Raises ValueError."""
    path = Path(path_or_name)
    candidates = [path, path / FILE_NAME]
    if path.name == str(path_or_name):  # a bare name, which cannot lead out of the bundled folder
        candidates.append(ASSETS / path / FILE_NAME)
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    require(found is not None, "tokenizer", str(path_or_name), f"no such file, and no folder with a {FILE_NAME}; make one with `glm tokenizer`")
    return Tokenizer(found.read_bytes(), where=str(found))


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: str | os.PathLike[str]) -> Tokenizer:
    """Learn a vocabulary from `texts` and write `folder/tokenizer.json`. The same texts give the same file.

    Memory grows with the number of different Chinese clauses, about 1 kB each: some 50 MB of text are enough and fit a laptop.
    Raises ValueError where `vocab_size` is too small for the bytes or larger than the texts can fill.
    """
    smallest = len(SPECIAL_TOKENS) + 256
    require(vocab_size >= smallest, "vocab_size", vocab_size, f"must be at least {smallest}: 256 bytes and the special tokens")
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_PIECES), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), max_token_length=_LONGEST_TOKEN,
        show_progress=False)  # its progress bar writes to standard output
    bpe.train_from_iterator(_checked_texts(texts), trainer)
    require(bpe.get_vocab_size() == vocab_size, "vocab_size", vocab_size, f"these texts yield {bpe.get_vocab_size()} tokens; give more text or ask for fewer")
    tokenizer = Tokenizer(bpe.to_str().encode())
    tokenizer.save(folder)
    return tokenizer


def _checked_texts(texts: Iterable[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        require_text(text, f"texts[{number}]")
        yield text


def _checked_vocabulary(model: dict[str, Any]) -> tuple[bytes, ...]:
    """Bytes of every token by id. Raises ValueError unless byte-level BPE with our special tokens, out of reach of its merges."""
    vocab, byte_of = model["vocab"], _byte_of_character()
    names = sorted(vocab, key=vocab.__getitem__)
    pairs = (pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"])
    sound = (
        model["type"] == "BPE" and not any(model.get(option) for option in _FOREIGN_OPTIONS)
        and [vocab[name] for name in names] == list(range(len(names)))
        and tuple(names[: len(SPECIAL_TOKENS)]) == SPECIAL_TOKENS
        and vocab.keys() >= byte_of.keys()
    )
    if not sound or any("".join(pair) in SPECIAL_TOKENS for pair in pairs):
        raise ValueError(f"tokens 0 to 9 must be {' '.join(SPECIAL_TOKENS)}, the others byte-level BPE")
    return tuple(name.encode() if name in SPECIAL_TOKENS else bytes(byte_of[c] for c in name) for name in names)


def _byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes: visible Latin-1 characters stand for themselves, the others follow from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}
