"""`glm chat`: a conversation in the terminal, a prompt from the command line, or one from a pipe."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import select
import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from openglm.cli.options import chosen_tools, parse
from openglm.config import EngineConfig

_PATIENCE = 2.0 if sys.platform != "win32" else None  # seconds; Windows cannot wait for a pipe


@dataclass
class ChatOptions:
    """Talk to a model."""

    model: Annotated[str, tyro.conf.Positional] = "nano"
    """folder of a model, or the name of a bundled model"""
    adapter: str = ""
    """folder of a LoRA or a prefix for this model"""
    prompt: str = ""
    """answer this prompt and exit; a text from a pipe is put below it"""
    system: str = ""
    """system message at the start of the conversation"""
    max_tokens: int = 256
    """maximum length of an answer, in tokens"""
    temperature: float | None = None
    """0: always take the likeliest token; higher values vary more. None: the model's own"""
    top_p: float | None = None
    """draw only from the likeliest tokens that together reach this probability. None: the model's own"""
    seed: int | None = None
    """seed for drawing tokens; the same seed gives the same answer"""
    device: str = "auto"
    """device to run on: auto, cpu, cuda, mps, ..."""
    format: str = ""
    """form of conversations where the folder does not tell it: chatglm2, chatglm3, glm4, glm-4-0414, glm-z1, ..."""
    tools: bool = False
    """let the model call tools while it answers: solve and calculate, convert units, dates, Python"""
    mcp: str = ""
    """JSON file that names MCP servers ("mcpServers"), whose tools the model may call too; implies --tools"""
    web: str = ""
    """folder made by glm index, or a search engine (searxng, bing, serpapi, ddgs): answer from its sources"""
    reflect: bool = False
    """check equations and numbers of an answer before it is shown; where one is wrong, the model answers again"""
    json: bool = False
    """print one JSON object instead of text"""
    engine: EngineConfig = field(default_factory=lambda: EngineConfig(keep_weights=False))
    """limits on memory"""


def run(argv: list[str]) -> int:
    options = parse(ChatOptions, argv, "glm chat", "Talk to a model.")
    from openglm.assistant import Assistant
    from openglm.cli.terminal import Conversation

    typed = sys.stdin is not None and sys.stdin.isatty()
    piped = "" if typed else _piped(_PATIENCE if options.prompt else None)
    prompt = "\n\n".join(text for text in (options.prompt, piped) if text)
    if not (typed or prompt):
        raise ValueError("standard input is empty; give --prompt TEXT or pipe a text in")
    assistant = Assistant(
        options.model,
        adapter=options.adapter or None,
        device=options.device,
        engine=options.engine,
        format=options.format or None,
        tools=chosen_tools(options.tools, options.mcp),
        web=options.web or None,
        reflect=options.reflect,
    )
    sampling = {
        "max_tokens": options.max_tokens,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "seed": options.seed,
    }
    if not prompt:
        return Conversation(assistant, options.model, options.system, sampling).run()
    messages = [{"role": "system", "content": options.system}] if options.system else []
    return answer(assistant, [*messages, {"role": "user", "content": prompt}], sampling, options.json)


def _piped(seconds: float | None) -> str:
    """What stands in standard input; nothing where it is closed or, as under nohup, cannot be read. seconds: so long it
    may be silent, for a program that starts this one may leave it open for ever."""
    from openglm.runtime import say

    if sys.stdin is None:
        return ""
    with contextlib.suppress(OSError):
        if seconds is None or select.select([sys.stdin], [], [], seconds)[0]:
            return sys.stdin.read().strip()
        say(f"nothing came on standard input in {seconds:g} s, so --prompt stands alone")
    return ""


def answer(assistant, messages: list[dict], sampling: dict, as_json: bool) -> int:
    """Print one answer: as it comes, or as JSON. Ctrl-C ends it where it is."""
    from openglm.assistant import Reply
    from openglm.cli.terminal import Screen

    reply, screen = Reply(""), Screen()
    quoted = screen.console.is_terminal and not as_json
    pieces = assistant.stream(messages, answer=reply, quoted=quoted, **sampling)
    if as_json:
        for _ in pieces:
            pass
        calls = [{"name": step.name, "arguments": step.arguments, "result": step.result} for step in reply.steps]
        citations = [dataclasses.asdict(citation) for citation in reply.citations]
        shown = {"text": reply.text, "tool_calls": calls, "citations": citations, "usage": reply.usage}
        print(json.dumps(shown | ({"reasoning": reply.reasoning} if reply.reasoning else {}), ensure_ascii=False))
    else:
        screen.show(pieces)
        screen.sources(reply)
    for step in reply.steps:
        if step.failed or not (quoted or as_json):
            print(f"({step})", file=sys.stderr)
    if reply.reasoning and not (reply.text or reply.tool_calls):
        print("(the answer ended within its thoughts; raise --max-tokens)", file=sys.stderr)
    if reply.dropped:
        print(f"({reply.dropped} old messages no longer fit the context and were left out)", file=sys.stderr)
    return 0
