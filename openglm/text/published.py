"""Which tokenizer a folder holds, decided by its files: ours, or one of the published checkpoints'. Nothing in a folder
is run.

A saved tokenizer remembers its generation in `tokenizer_config.json` under "openglm_format"; the same entry settles a
folder that does not tell.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openglm.config import require
from openglm.files import refuse_pointer, write_file
from openglm.text.formats import FORMATS, Format, format_of_template
from openglm.text.tokenizer import Tokenizer

_SETTINGS, GENERATION = "tokenizer_config.json", "generation_config.json"
_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")


def find(path: Path) -> Path | None:
    """The tokenizer's file of a folder, or the file itself."""
    return path if path.is_file() else next((path / name for name in FILES if (path / name).is_file()), None)


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of this file, with what stands beside it. Raises ValueError for one that is damaged or of another
    kind."""
    require(path.name in FILES, "tokenizer", str(path), f"not a tokenizer's file; known: {', '.join(FILES)}")
    refuse_pointer(path, "tokenizer")
    tokenizer, given = FILES[path.name](path, path.read_bytes()), _json(path, GENERATION)
    try:
        sampling = tokenizer.format.sampling.changed(given)
    except ValueError as error:
        raise ValueError(f"{path.with_name(GENERATION)}: {error}") from None
    tokenizer.format = dataclasses.replace(tokenizer.format, sampling=sampling)
    return tokenizer


def _ice(path: Path, content: bytes) -> Tokenizer:
    from openglm.text.sentencepiece import ICE_SPECIAL, IMAGE_TOKENS, IceTokenizer, ice_model

    model, bare = ice_model(content)
    config, settings = _json(path, "config.json"), _json(path, _SETTINGS)
    offset = settings.get("num_image_tokens", IMAGE_TOKENS if bare or config.get("vocab_size") == 150528 else 0)
    require(
        offset in (0, IMAGE_TOKENS),
        f"{path.with_name(_SETTINGS)}: num_image_tokens",
        offset,
        f"must be 0 or {IMAGE_TOKENS}",
    )
    name = "chatglm-6b" if not offset else "chatglm-6b-first" if config else "glm-130b"
    format, files = _format(path, name, num_image_tokens=offset)
    tokenizer = IceTokenizer({path.name: content} | files, model, {}, format, str(path), offset)
    missing = [name for name in ICE_SPECIAL if name not in tokenizer.special]
    require(not missing, "tokenizer", str(path), f"lacks {' '.join(missing)}; use another copy of this file")
    return tokenizer


def _chinese(path: Path, content: bytes) -> Tokenizer:
    """GLM-10B-Chinese. Native checkpoints were trained with [gMASK] on the id of <|endofpiece|>; the published conversion gives it one of its own."""
    from openglm.text.sentencepiece import SentencePieceTokenizer

    special = {
        "<|endoftext|>": 0,
        "[SEP]": 1,
        "[CLS]": 2,
        "[MASK]": 3,
        "[UNK]": 4,
        "<|startofpiece|>": 6,
        "<|endofpiece|>": 7,
        "[sMASK]": 8,
    }
    native = _json(path, _SETTINGS).get("native", not path.with_name("config.json").is_file())
    special |= {"[gMASK]": 7} if native else {"[gMASK]": 9, "[dBLOCK]": 10}
    format, files = _format(path, "glm-10b", native=native)
    return SentencePieceTokenizer({path.name: content} | files, content, special, format, str(path), strips=True)


def _gpt2(path: Path, content: bytes) -> Tokenizer:
    """GLM-10B and its smaller kin; special tokens that the files lack follow the vocabulary in their order."""
    from openglm.text.bpe import GLM_SPECIAL, BpeTokenizer, bpe_of_gpt2

    names = ("vocab.json", "merges.txt", "added_tokens.json")
    files = {name: path.with_name(name).read_bytes() for name in names if path.with_name(name).is_file()}
    require(
        "merges.txt" in files,
        "tokenizer",
        str(path.with_name("merges.txt")),
        f"no such file; it belongs to {path.name}",
    )
    vocabulary, added = _json(path, "vocab.json"), _json(path, "added_tokens.json")
    format, settings = _format(path, "glm-10b")

    def build() -> Tokenizer:
        special = {name: number for name, number in {**vocabulary, **added}.items() if name in GLM_SPECIAL}
        for name in GLM_SPECIAL:
            special.setdefault(name, 1 + max([*vocabulary.values(), *special.values()]))
        return BpeTokenizer(
            files | settings,
            *bpe_of_gpt2(vocabulary, files["merges.txt"].decode().splitlines(), special),
            special,
            format,
            strips=True,
        )

    return _build(path, build)


def _tokenizer_model(path: Path, content: bytes) -> Tokenizer:
    """GLM-4's tiktoken file, or the SentencePiece file that ChatGLM2 and ChatGLM3 share."""
    from openglm.text.bpe import GLM4_SPECIAL, BpeTokenizer, bpe_of_ranks, read_ranks
    from openglm.text.sentencepiece import CHATGLM_SPECIAL, SentencePieceTokenizer

    if _TIKTOKEN_LINE.match(content):
        format, files = _format(path, _glm4_format(path))
        bpe, tokens = _build(path, lambda: bpe_of_ranks(read_ranks(content)))
        return BpeTokenizer(
            {path.name: content} | files,
            bpe,
            tokens,
            {name: len(tokens) + i for i, name in enumerate(GLM4_SPECIAL)},
            format,
        )
    format, files = _format(path, "chatglm2-6b" if _is_chatglm2(path) else "chatglm3-6b")
    names = CHATGLM_SPECIAL if format.name == "chatglm3-6b" else CHATGLM_SPECIAL[:5]
    return SentencePieceTokenizer(
        {path.name: content} | files, content, {name: i for i, name in enumerate(names)}, format, str(path)
    )


def _is_chatglm2(path: Path) -> bool:
    """The two generations differ in the role tokens alone. ChatGLM3's code has them; settings name the model, and so
    may the folder or the one around it."""
    files = [
        file
        for name in (_SETTINGS, "config.json", "tokenization_chatglm.py")
        if (file := path.with_name(name)).is_file()
    ]
    for clue in (
        " ".join(file.read_text(encoding="utf-8", errors="replace") for file in files),
        "/".join(path.resolve().parts[-3:-1]),
    ):
        if "<|assistant|>" in clue or "chatglm3" in clue.lower():
            return False
        if re.search("chatglm2|codegeex2", clue.lower()):
            return True
    return any(file.suffix == ".py" for file in files)


def _tokenizer_json(path: Path, content: bytes) -> Tokenizer:
    """Ours, or GLM-4 and GLM-4-0414 in the layout of the `tokenizers` library."""
    import tokenizers

    from openglm.text.bpe import BpeTokenizer, without_special
    from openglm.text.native import native_tokenizer

    try:
        layout, special = without_special(json.loads(content))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        layout, special = {}, {}
    if not {"<|endoftext|>", "[gMASK]", "<sop>", "<|assistant|>"} <= special.keys():
        return native_tokenizer(content, str(path))
    format, files = _format(path, _glm4_format(path))
    bpe = _build(path, lambda: tokenizers.Tokenizer.from_str(json.dumps(layout)))
    return _build(path, lambda: BpeTokenizer({path.name: content} | files, bpe, bpe.get_vocab(), special, format))


def _glm4_format(path: Path) -> str:
    jinja = path.with_name("chat_template.jinja")
    template = (
        jinja.read_text(encoding="utf-8", errors="replace")
        if jinja.is_file()
        else str(_json(path, _SETTINGS).get("chat_template"))
    )
    known = format_of_template(template)
    if known:
        return known
    return "glm-4-0414" if _json(path, "config.json").get("model_type") == "glm4" else "glm-4"


def _format(path: Path, name: str, **settings: object) -> tuple[Format, dict[str, bytes]]:
    """The format of this generation, unless the folder's settings name another; and the file that remembers it."""
    name = _json(path, _SETTINGS).get("openglm_format", name)
    require(
        name in FORMATS, f"{path.with_name(_SETTINGS)}: openglm_format", name, f"choose one of {', '.join(FORMATS)}"
    )
    return FORMATS[name], {_SETTINGS: json.dumps({"openglm_format": name, **settings}).encode()}


def write_sampling(folder: Path, tokenizer: Tokenizer, **more: Any) -> None:
    """Say beside a model how its answers are drawn, in the file that other programs read too."""
    text = json.dumps(tokenizer.format.sampling.described() | more, indent=1) + "\n"
    write_file(folder / GENERATION, text)


def _build(path: Path, build: Callable[[], Any]) -> Any:
    """What `build` makes of the file. The libraries raise bare Exception."""
    try:
        return build()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".splitlines())
        raise ValueError(f"{path}: not a readable tokenizer's file ({reason}); use another copy of this file") from None


def _json(path: Path, name: str) -> dict[str, Any]:
    """A small JSON file beside a tokenizer's; {} where there is none."""
    file = path.with_name(name)
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        values = None
    require(isinstance(values, dict), "tokenizer", str(file), "not a JSON object; use another copy of this file")
    return values


FILES: dict[str, Callable[[Path, bytes], Tokenizer]] = {
    "ice_text.model": _ice,
    "cog-pretrain.model": _chinese,
    "tokenizer.model": _tokenizer_model,
    "tokenizer.json": _tokenizer_json,
    "vocab.json": _gpt2,
}
