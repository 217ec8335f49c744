"""Opens a tokenizer's file, ours or one of the published checkpoints', with what stands beside it. Nothing in a folder
is run.

A saved tokenizer remembers its generation in `tokenizer_config.json` under "openglm_format"; the same entry settles a
folder that does not tell.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openglm.config import require
from openglm.files import refuse_pointer, write_json
from openglm.text.beside import CONFIG, GENERATION, SETTINGS, Added, declared_ends, declared_tokens, merged, read_beside
from openglm.text.formats import FORMATS, Format
from openglm.text.generation import (
    TIKTOKEN_LINE,
    chatglm_generation,
    declared_format,
    glm4_format,
    require_generation,
)
from openglm.text.templates import warn_of_template
from openglm.text.tokenizer import Tokenizer

_Opener = Callable[[Path, bytes, str | None], Tokenizer]


def find(path: Path) -> Path | None:
    """The tokenizer's file of a folder, or the file itself."""
    return path if path.is_file() else next((path / name for name in FILES if (path / name).is_file()), None)


def open_tokenizer(path: Path, format: str | None = None) -> Tokenizer:
    """The tokenizer of this file, with what stands beside it; format: as for `load_tokenizer`. Raises ValueError for
    one that is damaged or of another kind."""
    require(path.name in FILES, "tokenizer", str(path), f"not a tokenizer's file; known: {', '.join(FILES)}")
    refuse_pointer(path, "tokenizer")
    tokenizer = FILES[path.name](path, path.read_bytes(), format)
    folder, given, config = path.parent, read_beside(path.parent, GENERATION), read_beside(path.parent, CONFIG)
    try:
        sampling = tokenizer.format.sampling.changed(given)
    except ValueError as error:
        raise ValueError(f"{folder / GENERATION}: {error}") from None
    tokenizer.format = dataclasses.replace(tokenizer.format, sampling=sampling)
    tokenizer.ends = declared_ends(config, given)
    own = config.get("model")
    rows = [values.get(name) for values in (config, own) if isinstance(values, dict) for name in _ROWS]
    tokenizer.rows = max(tokenizer.rows, *(count for count in rows if isinstance(count, int)), 0)
    if tokenizer.format.name != "openglm":
        warn_of_template(folder, tokenizer)
    return tokenizer


def _ice(path: Path, content: bytes, format: str | None) -> Tokenizer:
    from openglm.text.sentencepiece import ICE_SPECIAL, IMAGE_TOKENS, IceTokenizer, ice_model

    model, bare = ice_model(content)
    config, settings = read_beside(path.parent, CONFIG), read_beside(path.parent, SETTINGS)
    offset = settings.get("num_image_tokens", IMAGE_TOKENS if bare or config.get("vocab_size") == 150528 else 0)
    where, remedy = f"{path.with_name(SETTINGS)}: num_image_tokens", f"must be 0 or {IMAGE_TOKENS}"
    require(offset in (0, IMAGE_TOKENS), where, offset, remedy)
    name = "chatglm-6b" if not offset else "chatglm-6b-first" if config else "glm-130b"
    form, files, declared = _format(path, content, name, format, num_image_tokens=offset)
    tokenizer = IceTokenizer(files, model, {}, form, str(path), offset, declared=declared)
    missing = [name for name in ICE_SPECIAL if name not in tokenizer.special]
    require(not missing, "tokenizer", str(path), f"lacks {' '.join(missing)}; use another copy of this file")
    return tokenizer


def _chinese(path: Path, content: bytes, format: str | None) -> Tokenizer:
    """GLM-10B-Chinese. Native checkpoints were trained with [gMASK] on the id of <|endofpiece|>; the published
    conversion gives it one of its own."""
    from openglm.text.sentencepiece import SentencePieceTokenizer

    first = ("<|endoftext|>", "[SEP]", "[CLS]", "[MASK]", "[UNK]", "", "<|startofpiece|>", "<|endofpiece|>", "[sMASK]")
    special = {name: place for place, name in enumerate(first) if name}
    native = read_beside(path.parent, SETTINGS).get("native", not path.with_name(CONFIG).is_file())
    special |= {"[gMASK]": 7} if native else {"[gMASK]": 9, "[dBLOCK]": 10}
    form, files, declared = _format(path, content, "glm-10b", format, native=native)
    return SentencePieceTokenizer(files, content, special, form, str(path), strips=True, declared=declared)


def _gpt2(path: Path, content: bytes, format: str | None) -> Tokenizer:
    """GLM-10B and its smaller kin; special tokens that the files lack follow the vocabulary in their order."""
    from openglm.text.bpe import GLM_SPECIAL, BpeTokenizer, bpe_of_gpt2

    merges = path.with_name("merges.txt")
    require(merges.is_file(), "tokenizer", str(merges), f"no such file; it belongs to {path.name}")
    lines, vocabulary = merges.read_bytes(), read_beside(path.parent, path.name)
    form, files, declared = _format(path, content, "glm-10b", format)

    def build() -> Tokenizer:
        known = {name: number for name, number in vocabulary.items() if name in GLM_SPECIAL}
        special, added = merged(str(path), known, _special(declared, GLM_SPECIAL))
        for name in GLM_SPECIAL:
            special.setdefault(name, 1 + max([*vocabulary.values(), *special.values()]))
        bpe, tokens = bpe_of_gpt2(vocabulary, lines.decode().splitlines(), special, added)
        both = {path.name: content, merges.name: lines} | files
        return BpeTokenizer(both, bpe, tokens, special, form, strips=True, added=added)

    return _build(path, build)


def _tokenizer_model(path: Path, content: bytes, format: str | None) -> Tokenizer:
    """GLM-4's tiktoken file, or the SentencePiece file that ChatGLM2 and ChatGLM3 share."""
    from openglm.text.bpe import GLM4_SPECIAL, BpeTokenizer, bpe_of_ranks, read_ranks
    from openglm.text.sentencepiece import CHATGLM_SPECIAL, SentencePieceTokenizer

    if TIKTOKEN_LINE.match(content):
        form, files, declared = _format(path, content, glm4_format(path.parent), format)
        ranks = _build(path, lambda: read_ranks(content))
        first = {name: len(ranks) + place for place, name in enumerate(GLM4_SPECIAL)}
        special, added = merged(str(path), first, declared)
        bpe, tokens = _build(path, lambda: bpe_of_ranks(ranks, added))
        return BpeTokenizer(files, bpe, tokens, special, form, added=added)
    form, files, declared = _format(path, content, _chatglm(path.parent, format), format)
    names = CHATGLM_SPECIAL[:5] if form.name == "chatglm2-6b" else CHATGLM_SPECIAL
    places = {name: place for place, name in enumerate(names)}
    return SentencePieceTokenizer(files, content, places, form, str(path), declared=declared)


def _chatglm(folder: Path, format: str | None) -> str:
    """A tokenizer on its own gets the special tokens of ChatGLM3, which include those of ChatGLM2."""
    config = read_beside(folder, CONFIG)
    name = chatglm_generation(folder, config, format)
    return require_generation(name or (None if config else "chatglm3-6b"), str(folder))


def _tokenizer_json(path: Path, content: bytes, format: str | None) -> Tokenizer:
    """Ours, or GLM-4 and GLM-4-0414 in the layout of the `tokenizers` library."""
    from openglm.text.bpe import GLM4_SPECIAL, BpeTokenizer, without_named
    from openglm.text.native import native_tokenizer
    from openglm.text.thinking import MARKS

    try:
        layout = json.loads(content)
        entries = layout["added_tokens"]
        names = {entry["content"] for entry in entries}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        names = set()
    if not {"<|endoftext|>", "[gMASK]", "<sop>", "<|assistant|>"} <= names:
        return native_tokenizer(content, str(path))
    declared = _special(declared_tokens(path.parent, entries), (*GLM4_SPECIAL, *MARKS))
    special, added = merged(str(path), {}, declared)
    form, files, _ = _format(path, content, glm4_format(path.parent), format)
    bpe, tokens = _build(path, lambda: without_named(layout, special, added))
    return _build(path, lambda: BpeTokenizer(files, bpe, tokens, special, form, added=added))


def _special(declared: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """These tokens are special whatever the files say."""
    return {name: {**token, "special": token["special"] or name in names} for name, token in declared.items()}


def _format(
    path: Path, content: bytes, name: str, format: str | None, **settings: object
) -> tuple[Format, dict[str, bytes], dict[str, Added]]:
    """The format asked for, else the one that the folder's settings name, else `name`; the files to save, of which one
    remembers it; and added tokens."""
    name, declared = declared_format(path.parent, format, name), declared_tokens(path.parent)
    decoder = {str(token["id"]): token for token in declared.values()}
    more = {"added_tokens_decoder": decoder} if decoder else {}
    remembered = json.dumps({"openglm_format": name, **settings, **more}).encode()
    return FORMATS[name], {path.name: content, SETTINGS: remembered}, declared


def write_sampling(folder: Path, tokenizer: Tokenizer) -> None:
    """Say beside a model how its answers are drawn, in the file that other programs read too."""
    write_json(folder / GENERATION, tokenizer.format.sampling.described())


def _build(path: Path, build: Callable[[], Any]) -> Any:
    """What `build` makes of the file. The libraries raise bare Exception."""
    try:
        return build()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".splitlines())
        raise ValueError(f"{path}: not a readable tokenizer's file ({reason}); use another copy of this file") from None


_ROWS = ("vocab_size", "padded_vocab_size")
FILES: dict[str, _Opener] = {
    "ice_text.model": _ice,
    "cog-pretrain.model": _chinese,
    "tokenizer.model": _tokenizer_model,
    "tokenizer.json": _tokenizer_json,
    "vocab.json": _gpt2,
}
