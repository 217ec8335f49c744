"""Anthropic's `/v1/messages`, in the words of chat completions and back."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Iterator
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from openglm.serve.asking import Ask, ask_chat, collect, deltas
from openglm.serve.blocks import Block, Blocks, Json, as_chat, call, function, text_of
from openglm.serve.choices import Answering
from openglm.serve.openai import check_model
from openglm.serve.service import Version
from openglm.serve.sse import EventStream, event
from openglm.text.replies import arguments_of

router = APIRouter(prefix="/v1", tags=["Anthropic"])
_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


@router.post("/messages")
async def messages(request: Request, body: Json) -> Response:
    """messages, max_tokens, system, tools, tool_choice, thinking, stop_sequences, temperature, top_p, top_k, stream."""
    chat = as_chat(asked, body)
    version = check_model(request, chat.model)
    ask = partial(ask_chat, request, chat)
    head = {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant"}
    head["model"] = version.adapter or request.app.state.model
    if chat.stream:
        return EventStream(_events(request, ask, head, version))
    answering, blocks = await collect(request, ask, version), Blocks()
    blocks.feed(answering.choices[0].message())
    content = [_content(block) for block in blocks]
    return JSONResponse({**head, "content": content, **_stop(answering), "usage": _usage(answering)})


@router.post("/messages/count_tokens")
async def count(request: Request, body: Json) -> dict[str, int]:
    return {"input_tokens": (await ask_chat(request, as_chat(asked, body))).prompt_tokens}


def asked(body: Json) -> Json:
    """The request in our own words."""
    choice, tools, thinks = body.get("tool_choice") or {}, body.get("tools") or (), body.get("thinking") or {}
    kind = choice.get("type")
    system = [{"role": "system", "content": text_of(body["system"])}] if body.get("system") else []
    same = ("model", "max_tokens", "temperature", "top_p", "top_k", "stream")
    functions = [
        function(name=one["name"], description=one.get("description"), parameters=one.get("input_schema"))
        for one in tools
    ]
    return {
        **{name: body.get(name) for name in same},
        "messages": [*system, *(message for turn in body["messages"] for message in _messages(**turn))],
        "stop": body.get("stop_sequences"),
        "tools": functions,
        "tool_choice": function(name=choice["name"]) if kind == "tool" else "required" if kind == "any" else kind,
        "parallel_tool_calls": not choice.get("disable_parallel_tool_use"),
        "thinking": {"type": "disabled" if thinks["type"] == "disabled" else "enabled"} if thinks else None,
    }


def _messages(role: str, content: str | list[Json], **_: object) -> Iterator[Json]:
    """Results of tools are messages of their own, before what the user says with them."""
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    calls, results = [], 0
    for block in blocks:
        if block["type"] == "tool_result":
            yield {"role": "tool", "tool_call_id": block["tool_use_id"], "content": text_of(block.get("content"))}
            results += 1
        elif block["type"] == "tool_use":
            calls.append(call(block["id"], block["name"], json.dumps(block["input"])))
        elif block["type"] not in ("text", "thinking", "redacted_thinking"):
            raise ValueError(f"content of type {block['type']!r} is none that this model reads")
    text, thoughts = text_of(blocks), text_of(blocks, "thinking")
    if text or calls or not results:
        more = {"reasoning_content": thoughts, "tool_calls": calls}
        yield {"role": role, "content": text, **{name: value for name, value in more.items() if value}}


def _content(block: Block) -> Json:
    """Arguments that max_tokens cut are passed on as text."""
    if block.kind == "call":
        given = arguments_of(block.text or "{}")
        made = {"type": "tool_use", "id": block.call["id"], "name": block.call["function"]["name"]}
        return {**made, "input": {"cut": block.text} if given is None else given}
    return (
        {"type": "text", "text": block.text}
        if block.kind == "text"
        else {"type": "thinking", "thinking": block.text, "signature": ""}
    )


def _stop(answering: Answering) -> Json:
    return {"stop_reason": _REASONS[answering.choices[0].reason], "stop_sequence": None}


def _usage(answering: Answering) -> Json:
    usage = answering.usage()
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    counts = {"input_tokens": usage["prompt_tokens"] - cached, "output_tokens": usage["completion_tokens"]}
    return {**counts, "cache_read_input_tokens": cached, "cache_creation_input_tokens": 0}


async def _events(request: Request, ask: Ask, head: Json, version: Version) -> AsyncGenerator[bytes, None]:
    blocks, begun = Blocks(), False
    async for answering, parts in deltas(request, ask, version):
        start = {**head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": _usage(answering)}
        events = [] if begun else [{"type": "message_start", "message": start}]
        begun = True
        events += [_of_step(*step) for _, delta in parts for step in blocks.feed(delta)]
        yield b"".join(event(one, str(one["type"])) for one in events)
    ended = {"type": "message_delta", "delta": _stop(answering), "usage": _usage(answering)}
    yield event(ended, "message_delta") + event({"type": "message_stop"}, "message_stop")


_DELTAS = {
    "text": ("text_delta", "text"),
    "thoughts": ("thinking_delta", "thinking"),
    "call": ("input_json_delta", "partial_json"),
}


def _of_step(kind: str, block: Block, text: str) -> Json:
    """The event that tells of a block's beginning, growth or end."""
    place = {
        "type": f"content_block_{'delta' if kind == 'add' else 'start' if kind == 'begin' else 'stop'}",
        "index": block.number,
    }
    if kind == "begin":
        return {**place, "content_block": _content(Block(block.kind, 0, block.call))}
    name, field = _DELTAS[block.kind]
    return {**place, "delta": {"type": name, field: text}} if kind == "add" else place
