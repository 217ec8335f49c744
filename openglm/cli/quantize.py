"""`glm quantize`: int8 or int4 weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from openglm.cli.options import parse


@dataclass
class QuantizeOptions:
    """Convert a checkpoint to int8 or int4 weights."""

    source: Annotated[str, tyro.conf.Positional]
    """folder of a checkpoint, ours or published, or the name of a bundled model"""
    out: Annotated[str, tyro.conf.Positional]
    """folder to write"""
    bits: Literal[4, 8] = 4
    """bits per weight in the blocks; the output layer always gets 8"""
    group: int = 64
    """number of columns that share a scale: 32, 64, 128 or another divisor of the row length; 0: one scale per row"""
    calibrate: str = ""
    """text file to calibrate the blocks on, for better quality; needs memory for the whole network in fp32"""
    model_config: str | None = None
    """preset or JSON file with the configuration, for training shards that come without one"""


def run(argv: list[str]) -> int:
    options = parse(QuantizeOptions, argv, "glm quantize", QuantizeOptions.__doc__ or "")
    from openglm.checkpoints.quantize import quantize_checkpoint
    from openglm.runtime import say

    say(
        "wrote "
        f"{quantize_checkpoint(options.source, options.out, options.bits, options.group, options.calibrate or None, options.model_config)}"
    )
    return 0
