"""`glm ask`: one question, answered from sources."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from openglm.cli.options import parse
from openglm.config import EngineConfig, require
from openglm.web.config import WebConfig


@dataclass
class AskOptions:
    """Answer a question from an index or the web: glm ask 'Who wrote it?' --index my.index."""

    question: Annotated[str, tyro.conf.Positional]
    """the question"""
    index: str = ""
    """folder made by glm index; not needed where --web.search names an engine"""
    model: str = "nano"
    """folder of a model, or the name of a bundled model"""
    adapter: str = ""
    """folder of a LoRA or a prefix for this model"""
    max_tokens: int = 256
    """maximum length of the answer, in tokens"""
    temperature: float = 0.0
    """0: always take the likeliest token; higher values vary more"""
    seed: int | None = None
    """seed for drawing tokens; the same seed gives the same answer"""
    device: str = "auto"
    """device to run on: auto, cpu, cuda, mps, ..."""
    json: bool = False
    """print one JSON object: text, citations, problems, usage"""
    web: WebConfig = field(default_factory=WebConfig)
    """where sources come from"""
    engine: EngineConfig = field(default_factory=lambda: EngineConfig(keep_weights=False))
    """limits on memory"""


def run(argv: list[str]) -> int:
    options = parse(AskOptions, argv, "glm ask", "Answer a question from an index or the web.")
    require(
        bool(options.index) or options.web.search != "index", "index", "", "name one, or an engine with --web.search"
    )
    from openglm.assistant import Assistant
    from openglm.cli.terminal import Screen
    from openglm.web.sources import Web

    web = Web(options.index, options.web)
    assistant = Assistant(
        options.model, adapter=options.adapter or None, device=options.device, engine=options.engine, web=web
    )
    reply = assistant.reply(
        [{"role": "user", "content": options.question}],
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        seed=options.seed,
    )
    citations = [dataclasses.asdict(citation) for citation in reply.citations]
    if options.json:
        shown = {"text": reply.text, "citations": citations, "problems": reply.problems, "usage": reply.usage}
        print(json.dumps(shown, ensure_ascii=False))
        return 0
    screen = Screen()
    screen.show([reply.text])
    screen.sources(reply)
    return 0
