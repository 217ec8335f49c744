"""`glm quantize`: int8 or int4 weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from openglm.cli.options import parse


@dataclass
class QuantizeOptions:
    """Rewrite a checkpoint with int8 or int4 weights."""

    source: Annotated[str, tyro.conf.Positional]
    """folder of a checkpoint, ours or published, or the name of a bundled model"""
    out: Annotated[str, tyro.conf.Positional]
    """folder to write"""
    bits: Literal[4, 8] = 4
    """of the weights in the blocks; embedding and output layer get 8"""
    group: int = 64
    """columns that share a scale: 32, 64, 128 or another divisor of the rows; 0: whole rows"""
    calibrate: str = ""
    """text file on which to calibrate the codes of the blocks; holds the whole network in fp32"""
    model_config: str | None = None
    """preset or JSON file, for shards of a training run, which carry no configuration"""


def run(argv: list[str]) -> int:
    options = parse(QuantizeOptions, argv, "glm quantize", QuantizeOptions.__doc__ or "")
    from openglm.checkpoints.quantize import quantize_checkpoint
    from openglm.runtime import say

    say(
        f"wrote {quantize_checkpoint(options.source, options.out, options.bits, options.group, options.calibrate or None, options.model_config)}"
    )
    return 0
