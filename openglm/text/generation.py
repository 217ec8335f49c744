"""Which generation of the family a folder holds, where several share a file: decided here, once, for the network, the
chat format and the ids that end an answer.

Tokenizer and configuration decide together. What they leave open is refused with the option that settles it.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openglm.config import ModelConfig, SpecialTokens, require
from openglm.text.beside import CONFIG, GENERATION, SETTINGS, declared_ends, read_beside
from openglm.text.formats import FORMATS
from openglm.text.templates import declared_template, opens_thoughts

if TYPE_CHECKING:
    from openglm.text.tokenizer import Tokenizer

_SHORT = {"chatglm2": "chatglm2-6b", "chatglm3": "chatglm3-6b", "glm4": "glm-4"}
TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")
_CODE = ("tokenization_chatglm.py", "modeling_chatglm.py")
_CLUES = (SETTINGS, "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", CONFIG, *_CODE)
_NAMES = {"chatglm2-6b": "chatglm2|codegeex2", "chatglm3-6b": "chatglm3"}
_ROLE_IDS = {64795, 64797}  # <|user|> and <|observation|> of ChatGLM3
_GLM4_ROWS = 100_000  # GLM-4's vocabulary has 151,343 tokens, that of ChatGLM2 and 3 has 64,798


def format_name(name: str) -> str:
    """The full name of a format, also given by a short one. Raises ValueError that lists them."""
    name = _SHORT.get(name, name)
    require(name in FORMATS, "format", name, f"choose one of {', '.join([*_SHORT, *FORMATS])}")
    return name


def declared_format(folder: Path, format: str | None, name: str) -> str:
    """The format asked for, else the one that the folder's settings name, else `name`."""
    said = read_beside(folder, SETTINGS).get("openglm_format", name)
    where = f"{folder / SETTINGS}: openglm_format"
    require(bool(format) or said in FORMATS, where, said, f"choose one of {', '.join(FORMATS)}")
    return format_name(format or said)


def chatglm_generation(folder: Path | None, values: Mapping[str, Any], format: str | None = None) -> str | None:
    """chatglm2-6b, chatglm3-6b or glm-4, which have one `model_type`; None: nothing tells.

    values: a configuration. A name that it or the folder has is the last thing to be asked, for tuning loses it.
    """
    format = format or (read_beside(folder, SETTINGS).get("openglm_format") if folder else None)
    if format and format_name(format) in ("glm-4", *_NAMES):  # another form of chat says nothing of the network
        return format_name(format)
    ends = set(declared_ends(values, read_beside(folder, GENERATION) if folder else {}))
    if _has_glm4_vocabulary(folder, values, ends):
        return "glm-4"
    found = {name: folder / name for name in _CLUES if folder and (folder / name).is_file()}
    said = " ".join(
        [json.dumps(values), *(path.read_text(encoding="utf-8", errors="replace") for path in found.values())]
    )
    if re.search(r"<\|(assistant|user)\|>", said) or ends & _ROLE_IDS:
        return "chatglm3-6b"
    around = "/".join(folder.resolve().parts[-2:]) if folder else ""
    for clue in (said.lower(), around.lower()):
        named = [name for name, pattern in _NAMES.items() if re.search(pattern, clue)]
        if named:
            return named[0] if len(named) == 1 else None
    if "[Round" in said or found.keys() & set(_CODE):
        return "chatglm2-6b"  # the code of ChatGLM3 has role tokens
    return "chatglm3-6b" if values.get("seq_length") == 8192 else None


def _has_glm4_vocabulary(folder: Path | None, values: Mapping[str, Any], ends: set[int]) -> bool:
    path = folder / "tokenizer.model" if folder else None
    if path and path.is_file():
        with path.open("rb") as file:
            return bool(TIKTOKEN_LINE.match(file.read(1 << 10)))
    rows = values.get("padded_vocab_size") or values.get("vocab_size")
    return (isinstance(rows, int) and rows > _GLM4_ROWS) or bool(ends and 2 not in ends)


def require_generation(name: str | None, where: str) -> str:
    """Raises ValueError where nothing told the generation."""
    if name is None:
        raise ValueError(
            f"{where}: format: ChatGLM2 or ChatGLM3? neither files nor names tell; say it with --format chatglm2 or "
            "--format chatglm3"
        )
    return name


def glm4_format(folder: Path) -> str:
    """Which of the formats with GLM-4's vocabulary: the declared template tells, else the configuration."""
    known = format_of_template(declared_template(folder))
    return known or ("glm-4-0414" if read_beside(folder, CONFIG).get("model_type") == "glm4" else "glm-4")


def format_of_template(template: str) -> str | None:
    """The format with thoughts that a published chat template writes; None for another one. Each mark below came with
    its generation and stayed."""
    if "<arg_key>" not in template or "</think>" not in template:
        return "glm-z1" if opens_thoughts(template) else None
    if "Reasoning Effort" in template:
        return "glm-5.3" if "clear_thinking is defined else false" in template else "glm-5.2"
    if "defer_loading" in template:
        return "glm-5.1"
    return "glm-4.5" if "/nothink" in template else "glm-4.7"


def settled(config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """A network's configuration with the ids of its tokenizer; answers stop where either says.

    Raises ValueError where the two do not belong together.
    """
    ours, theirs = config.tokens, tokenizer.tokens
    last = max(*ours.stop, ours.pad, 0)
    require(
        tokenizer.vocab_size <= config.vocab_size and last < tokenizer.vocab_size,
        "tokenizer",
        f"{tokenizer.vocab_size} tokens",
        f"belongs to another model than this one of {config.vocab_size} rows, whose answers end with {last}; "
        "copy the tokenizer files of its base model there",
    )
    tokenizer.rows = config.vocab_size
    ids = {name: number for name, number in dataclasses.asdict(theirs).items() if name != "stop" and number >= 0}
    stop = tuple(dict.fromkeys((*ours.stop, *theirs.stop)))
    tokens: SpecialTokens = dataclasses.replace(ours, **ids, stop=stop)
    return dataclasses.replace(config, tokens=tokens)
