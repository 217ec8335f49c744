"""`glm convert`: write a checkpoint in another layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from openglm.cli.options import parse


@dataclass
class ConvertOptions:
    """Convert a checkpoint to our format, to that of transformers and vLLM (hf), or to a GGUF file for llama.cpp."""

    source: Annotated[str, tyro.conf.Positional]
    """folder of a checkpoint, ours or published"""
    out: Annotated[str, tyro.conf.Positional]
    """folder to write; with --to gguf, a file"""
    to: Literal["openglm", "hf", "gguf"] = "openglm"
    """format to write"""
    dtype: str | None = None
    """float32, float16 or bfloat16; with --to gguf: f16, q8_0 or q4_0. Default: as in the checkpoint; gguf: f16"""
    adapter: str | None = None
    """folder of a LoRA, which is folded into the weights, or of a prefix, which openglm keeps beside them"""
    model_config: str | None = None
    """preset or JSON file with the configuration, for training shards that come without one"""
    format: str = ""
    """form of conversations where the folder does not tell it: chatglm2, chatglm3, glm4, glm-4-0414, glm-z1, ..."""


def run(argv: list[str]) -> int:
    options = parse(ConvertOptions, argv, "glm convert", ConvertOptions.__doc__ or "")
    from openglm.checkpoints.convert import convert
    from openglm.runtime import say

    out = convert(
        options.source,
        options.out,
        options.to,
        options.dtype,
        options.model_config,
        options.format or None,
        options.adapter,
    )
    say(f"wrote {out}")
    return 0
