"""`glm merge`: a LoRA folded into its base model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from openglm.cli.options import parse
from openglm.config import require


@dataclass
class MergeOptions:
    """Fold a LoRA into the weights of its base model, which then needs no adapter. `glm convert --adapter` does the
    same while it writes another format."""

    model: Annotated[str, tyro.conf.Positional]
    """folder of the base model, or the name of a bundled one"""
    adapter: str
    """folder of the LoRA"""
    out: str
    """folder to write, in our format"""


def run(argv: list[str]) -> int:
    options = parse(MergeOptions, argv, "glm merge", MergeOptions.__doc__ or "")
    from openglm.checkpoints.adapters import read_adapter
    from openglm.checkpoints.convert import convert
    from openglm.checkpoints.load import network_config
    from openglm.model.adapters import Lora
    from openglm.runtime import say

    adapter = read_adapter(options.adapter, network_config(options.model))
    remedy = "a prefix has no weights to fold in; glm convert --adapter writes it beside those of the model"
    require(isinstance(adapter, Lora), "--adapter", options.adapter, remedy)
    say(f"wrote {convert(options.model, options.out, 'openglm', adapter=options.adapter)}")
    return 0
