"""`glm chat`: a conversation in the terminal, a prompt from the command line, or one from a pipe."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from openglm.cli.options import parse


@dataclass
class ChatOptions:
    """Talk to a model."""

    model: Annotated[str, tyro.conf.Positional] = "nano"
    """folder of a model, or the name of one that ships with the package"""
    prompt: str = ""
    """answer this and exit"""
    system: str = ""
    """system message that precedes the conversation"""
    max_tokens: int = 256
    """longest answer, in tokens"""
    temperature: float = 0.5
    """0 always takes the likeliest token; higher is more varied"""
    top_p: float = 0.8
    """draw from the likeliest tokens that together have this probability"""
    seed: int | None = None
    """repeat an answer exactly"""
    device: str = "auto"
    """auto, cpu, cuda, mps, ..."""
    json: bool = False
    """print one JSON object instead of text"""


def run(argv: list[str]) -> int:
    options = parse(ChatOptions, argv, "glm chat", "Talk to a model.")
    from openglm.assistant import Assistant

    piped = not options.prompt and not sys.stdin.isatty()
    prompt = sys.stdin.read().strip() if piped else options.prompt
    if piped and not prompt:
        raise ValueError("standard input is empty; give --prompt TEXT or pipe a text in")
    assistant = Assistant(options.model, device=options.device)
    history = [{"role": "system", "content": options.system}] if options.system else []
    if prompt:
        answer(assistant, [*history, {"role": "user", "content": prompt}], options)
        return 0
    return converse(assistant, history, options)


def answer(assistant, messages: list[dict], options: ChatOptions) -> str:
    """Print one answer as it comes, or as JSON; returns its text. Ctrl-C ends the answer, not the program."""
    from openglm.assistant import Reply

    reply, said = Reply(""), []
    try:
        for piece in assistant.stream(messages, max_tokens=options.max_tokens, temperature=options.temperature, top_p=options.top_p, seed=options.seed, answer=reply):
            said.append(piece)
            if not options.json:
                print(piece.lstrip("\n") if len(said) == 1 else piece, end="", flush=True)
    except KeyboardInterrupt:
        pass
    if options.json:
        fields = dataclasses.asdict(reply)
        print(json.dumps({"text": fields["text"], "tool_calls": fields["tool_calls"], "citations": [], "usage": fields["usage"]}, ensure_ascii=False))
    else:
        print()
    if reply.dropped:
        print(f"({reply.dropped} old messages no longer fit the context and were left out)", file=sys.stderr)
    return "".join(said)


def converse(assistant, history: list[dict], options: ChatOptions) -> int:
    """Turn after turn until /exit or the end of input."""
    config = assistant.model.config
    print(f"{options.model}: {config.parameters / 1e6:.1f} M parameters, context {config.max_positions} tokens. /clear starts anew, /exit ends.", file=sys.stderr)
    start = len(history)
    while True:
        try:
            text = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            return 0
        if text == "/exit":
            return 0
        if text == "/clear":
            del history[start:]
        elif text:
            history.append({"role": "user", "content": text})
            try:
                history.append({"role": "assistant", "content": answer(assistant, history, options)})
            except ValueError as error:
                history.pop()
                print(f"glm chat: {error}", file=sys.stderr)
