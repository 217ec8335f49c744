"""`glm convert`: write a checkpoint in another layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from openglm.cli.options import parse


@dataclass
class ConvertOptions:
    """Rewrite a checkpoint: ours, the layout of transformers and vLLM (hf), or a GGUF file for llama.cpp."""

    source: Annotated[str, tyro.conf.Positional]
    """folder of a checkpoint, ours or published"""
    out: Annotated[str, tyro.conf.Positional]
    """folder to write; for gguf a file"""
    to: Literal["openglm", "hf", "gguf"] = "openglm"
    """layout to write"""
    dtype: str | None = None
    """float32, float16 or bfloat16; for gguf f16, q8_0 or q4_0. Unset: the types that the checkpoint has, for gguf f16"""
    model_config: str | None = None
    """preset or JSON file, for shards of a training run, which carry no configuration"""


def run(argv: list[str]) -> int:
    options = parse(ConvertOptions, argv, "glm convert", ConvertOptions.__doc__ or "")
    from openglm.checkpoints.convert import convert
    from openglm.runtime import say

    say(f"wrote {convert(options.source, options.out, options.to, options.dtype, options.model_config)}")
    return 0
