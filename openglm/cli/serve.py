"""`glm serve`: a model behind HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from openglm.cli.options import parse
from openglm.config import EngineConfig
from openglm.serve.config import ServeConfig


@dataclass(frozen=True)
class ServeOptions(ServeConfig):
    """Serve a model: OpenAI's interface, a web page, feedback that is kept."""

    model: Annotated[str, tyro.conf.Positional] = "nano"
    """folder of a model, or the name of one that ships with the package"""
    name: str = ""
    """what clients call the model; empty: the folder's name"""
    device: str = "auto"
    """auto, cpu, cuda, mps, ..."""
    quantize: Literal["", "int8", "int4"] = ""
    """keep weights in 8 or 4 bits"""
    engine: EngineConfig = field(default_factory=lambda: EngineConfig(keep_weights=False))
    """how many requests at once, with how much memory"""


def run(argv: list[str]) -> int:
    options = parse(
        ServeOptions, argv, "glm serve", "Serve a model: OpenAI's interface, a web page, feedback that is kept."
    )
    from openglm.assistant import Assistant
    from openglm.serve.app import bind, serve

    listener = bind(options)
    assistant = Assistant(
        options.model, device=options.device, quantize=options.quantize or None, engine=options.engine
    )
    return serve(assistant, options, options.name or Path(options.model).resolve().name, listener)
