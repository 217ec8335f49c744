"""`glm serve`: a model behind HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from openglm.cli.options import chosen_tools, parse
from openglm.config import EngineConfig, require
from openglm.serve.config import ServeConfig


@dataclass(frozen=True)
class ServeOptions(ServeConfig):
    """Serve a model over HTTP: OpenAI's API, a web page, and a store for users' feedback."""

    model: Annotated[str, tyro.conf.Positional] = "nano"
    """folder of a model, or the name of a bundled model"""
    adapter: str = ""
    """folder of a LoRA or a prefix for this model"""
    adapters: tuple[str, ...] = ()
    """more LoRAs and prefixes over the same weights, NAME=FOLDER: requests choose one by its name as their model"""
    name: str = ""
    """name of the model in the API; empty: the folder's name"""
    device: str = "auto"
    """device to run on: auto, cpu, cuda, mps, ..."""
    format: str = ""
    """form of conversations where the folder does not tell it: chatglm2, chatglm3, glm4, glm-4-0414, glm-z1, ..."""
    tools: bool = False
    """let the model call tools while it answers: solve and calculate, convert units, dates, Python. Requests that
    bring tools of their own are answered with these instead"""
    mcp: str = ""
    """JSON file that names MCP servers ("mcpServers"), whose tools the model may call too; implies --tools"""
    web: str = ""
    """folder made by glm index, or a search engine (searxng, bing, serpapi, ddgs), for requests with web: true"""
    reflect: bool = False
    """check equations and numbers of an answer before it is sent; where one is wrong, the model answers again"""
    quantize: Literal["", "int8", "int4"] = ""
    """quantize the weights to 8 or 4 bits"""
    engine: EngineConfig = field(default_factory=lambda: EngineConfig(keep_weights=False))
    """limits on requests and memory"""


def named(pairs: tuple[str, ...]) -> dict[str, str]:
    """Folders by name."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, _, folder = pair.partition("=")
        require(bool(name and folder), "adapters", pair, "write NAME=FOLDER, such as poet=runs/poet/adapter")
        require(name not in found, "adapters", pair, "this name is given twice; choose another")
        found[name] = folder
    return found


def run(argv: list[str]) -> int:
    options = parse(
        ServeOptions, argv, "glm serve", "Serve a model over HTTP: OpenAI's API, a web page, and users' feedback."
    )
    from openglm.assistant import Assistant
    from openglm.serve.app import bind, serve

    def load(folder: str, adapter: str | None = None, adapters: dict[str, str] | None = None) -> Assistant:
        return Assistant(
            folder,
            adapter=adapter,
            adapters=adapters,
            device=options.device,
            quantize=options.quantize or None,
            engine=options.engine,
            format=options.format or None,
            tools=tools,
            web=options.web or None,
            reflect=options.reflect,
        )

    listener = bind(options)
    tools = chosen_tools(options.tools, options.mcp)
    assistant = load(options.model, options.adapter or None, named(options.adapters))
    return serve(assistant, options, options.name or Path(options.model).resolve().name, listener, load)
