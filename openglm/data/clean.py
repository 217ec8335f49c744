"""What happens to a text between its reader and the tokenizer: normal form, junk lines, and lines that an evaluation
would ask about.

Pure functions on strings and arrays. The steps that move documents through them are in `build.py`.
"""

import hashlib
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator

import numpy as np

NGRAM = 13  # words; the length used for GPT-3 (arXiv 2005.14165, appendix C)
_ODD_SPACES = re.compile(r"[\u00a0\u2000-\u200a\u202f\u205f\u3000]")
_INVISIBLE = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb]"
)
_INNER_SPACES = re.compile(r"(?<=\S) {2,}")
_RULER = re.compile(r"[\s|+:=_*#\u2500-\u257f-]*([=_*#\u2500-\u257f-])\1\1[\s|+:=_*#\u2500-\u257f-]*")
_BLANK_LINES = re.compile(r"\n{3,}")
_WORD = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3400-\u9fff\uf900-\ufaff]+")


def normalize(text: str) -> str:
    """NFC, one kind of line end and space, no control or invisible characters, no trailing blanks; indentation
    stays."""
    text = _visible(unicodedata.normalize("NFC", text))
    text = "\n".join(_INNER_SPACES.sub(" ", line).rstrip() for line in text.split("\n"))
    return _BLANK_LINES.sub("\n\n", text).strip("\n")


def normalize_code(text: str) -> str:
    """A program as it is, every line and blank of it, but for line ends, tabs, invisible characters and trailing
    blanks."""
    return "\n".join(line.rstrip() for line in _visible(text).split("\n")).strip("\n")


def _visible(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _INVISIBLE.sub("", _ODD_SPACES.sub(" ", text.expandtabs(4)))


def is_junk(line: str) -> bool:
    """Rulers, borders of tables, and lines whose bytes were lost before we saw them. Not a lone brace, or dots."""
    return "\ufffd" in line or bool(_RULER.fullmatch(line))


def drop_junk_lines(text: str) -> str:
    return _BLANK_LINES.sub("\n\n", "\n".join(line for line in text.split("\n") if not is_junk(line))).strip("\n")


def is_readable(text: str) -> bool:
    """Long enough, at least half letters and digits, and not one line over and over."""
    dense = [c for c in text if not c.isspace()]
    if len(dense) < 8 or 2 * sum(c.isalnum() for c in dense) < len(dense):
        return False
    lines = [line for line in text.split("\n") if len(line) > 4]
    return len(lines) < 10 or 2 * len(set(lines)) > len(lines)


def stable_hash(text: str, salt: str = "") -> int:
    """64 bits that depend on the text alone, in any process and on any machine."""
    return int.from_bytes(hashlib.blake2b(f"{salt}\0{text}".encode(), digest_size=8).digest(), "little")


def is_held_out(text: str, share: float) -> bool:
    """Whether a document belongs to the held-out split: by its own hash, so that no list has to be kept."""
    return stable_hash(text, "heldout") < share * 2**64


def words(text: str) -> list[str]:
    """The units of contamination: a Han character each, or a run of other letters and digits, in lower case."""
    return _WORD.findall(text.lower())


_FACTORS = np.random.Generator(np.random.PCG64(13)).integers(0, 2**63, NGRAM, np.uint64) * np.uint64(2) + np.uint64(1)


def ngram_hashes(tokens: list[str]) -> np.ndarray:
    """uint64 [len(tokens) - 12]: a multilinear hash of every run of 13 words."""
    if len(tokens) < NGRAM:
        return np.zeros(0, np.uint64)
    codes = np.fromiter((zlib.crc32(token.encode()) for token in tokens), np.uint64, len(tokens))
    return np.lib.stride_tricks.sliding_window_view(codes, NGRAM) @ _FACTORS


def contamination_index(items: Iterable[str]) -> np.ndarray:
    """Sorted hashes of all runs of 13 words in the evaluation items."""
    parts = [ngram_hashes(words(item)) for item in items]
    return np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.uint64)


def drop_contaminated_lines(text: str, index: np.ndarray) -> tuple[str, int]:
    """The text without the lines that hold, or share in, a run of 13 words of an evaluation item; and how many lines
    went."""
    lines = text.split("\n")
    per_line = [words(line) for line in lines]
    hashes = ngram_hashes([word for line in per_line for word in line])
    if not len(hashes) or not len(index):
        return text, 0
    found = np.flatnonzero(index[np.searchsorted(index, hashes).clip(max=len(index) - 1)] == hashes)
    if not len(found):
        return text, 0
    line_of_word = np.repeat(np.arange(len(lines)), [len(line) for line in per_line])
    bad = set(line_of_word[(found[:, None] + np.arange(NGRAM)).ravel()].tolist())
    return "\n".join(line for i, line in enumerate(lines) if i not in bad).strip("\n"), len(bad)


def sample_to_size(texts: Iterable[str], limit_bytes: int, salt: str) -> Iterator[str]:
    """Whole documents, in their order, of about `limit_bytes` in all: those of the smallest hash, so that the choice is
    stable."""
    texts = list(dict.fromkeys(texts))
    sizes = [len(text.encode()) for text in texts]
    kept, total = set(), 0
    for i in sorted(range(len(texts)), key=lambda i: stable_hash(texts[i], salt)):
        if total >= limit_bytes:
            break
        kept.add(i)
        total += sizes[i]
    return (text for i, text in enumerate(texts) if i in kept)
