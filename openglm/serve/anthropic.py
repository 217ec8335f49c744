"""Anthropic's `/v1/messages`, in the words of chat completions and back."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from openglm.serve.asking import ask_chat
from openglm.serve.blocks import Block, BlockForm, arguments_text, as_chat, functions, text_of, web_search
from openglm.serve.choices import Answering, new_call, new_function
from openglm.serve.forms import check_model, public_name, respond
from openglm.serve.schemas import Json
from openglm.text.replies import arguments_of

router = APIRouter(prefix="/v1", tags=["Anthropic"])
_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_OWN_TOOLS = ("mcp_tool_use", "mcp_tool_result")
"""tools that the server ran are shown as Anthropic's own ones of MCP servers; a client sends them back with the answer"""
_DELTAS = {
    "text": ("text_delta", "text"),
    "thoughts": ("thinking_delta", "thinking"),
    "call": ("input_json_delta", "partial_json"),
}


@router.post("/messages")
async def messages(request: Request, body: Json) -> Response:
    """messages, max_tokens, system, tools, tool_choice, thinking, stop_sequences, temperature, top_p, top_k, stream;
    web, or a tool of type web_search_..."""
    chat = as_chat(asked, body)
    version = check_model(request, chat.model)
    form = Messages(public_name(request, version))
    return await respond(request, partial(ask_chat, request, chat), version, form, chat.stream)


@router.post("/messages/count_tokens")
async def count(request: Request, body: Json) -> dict[str, int]:
    return {"input_tokens": (await ask_chat(request, as_chat(asked, body))).prompt_tokens}


def asked(body: Json) -> Json:
    """The request in our own words."""
    body = web_search(body)
    choice, thinks = body.get("tool_choice") or {}, body.get("thinking") or {}
    kind = choice.get("type")
    system = [{"role": "system", "content": text_of(body["system"])}] if body.get("system") else []
    same = ("model", "max_tokens", "temperature", "top_p", "top_k", "stream", "web")
    return {
        **{name: body.get(name) for name in same},
        "messages": [*system, *(message for turn in body["messages"] for message in _messages(**turn))],
        "stop": body.get("stop_sequences"),
        "tools": functions(body.get("tools"), "input_schema"),
        "tool_choice": new_function(name=choice["name"]) if kind == "tool" else "required" if kind == "any" else kind,
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
            calls.append(new_call(block["name"], json.dumps(block["input"]), block["id"]))
        elif block["type"] not in ("text", "thinking", "redacted_thinking", *_OWN_TOOLS):
            raise ValueError(f"content of type {block['type']!r} is none that this model reads")
    text, thoughts = text_of(blocks), text_of(blocks, "thinking")
    if text or calls or not results:
        more = {"reasoning_content": thoughts, "tool_calls": calls}
        yield {"role": role, "content": text, **{name: value for name, value in more.items() if value}}


class Messages(BlockForm):
    def __init__(self, model: str) -> None:
        super().__init__()
        self.head = {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant", "model": model}

    def whole(self, answering: Answering) -> Json:
        content = [made for block in self.read(answering) for made in _contents(block)]
        return {**self.head, "content": content, **_stop(answering), "usage": _usage(answering), **self.unused()}

    def begin(self, answering: Answering) -> bytes:
        start: Json = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": _usage(answering)}
        return self.write({"type": "message_start", "message": {**self.head, **start}})

    def end(self, answering: Answering) -> bytes:
        ended = {"type": "message_delta", "delta": _stop(answering), "usage": _usage(answering), **self.unused()}
        return self.write(ended) + self.write({"type": "message_stop"})

    def events(self, kind: str, block: Block, text: str) -> Iterator[Json]:
        earlier = self.blocks[: block.number]
        index = block.number + sum(one.kind == "step" for one in earlier)  # a step has two blocks
        if block.kind == "step":
            for place, content in enumerate(_contents(block) if kind == "end" else (), index):
                yield {"type": "content_block_start", "index": place, "content_block": content}
                yield {"type": "content_block_stop", "index": place}
        elif kind == "begin":
            [content] = _contents(replace(block, text="", citations=[]))
            yield {"type": "content_block_start", "index": index, "content_block": content}
        elif kind == "add":
            name, field = _DELTAS[block.kind]
            yield {"type": "content_block_delta", "index": index, "delta": {"type": name, field: text}}
        elif kind == "cite":
            for citation in _citations(block):
                delta = {"type": "citations_delta", "citation": citation}
                yield {"type": "content_block_delta", "index": index, "delta": delta}
        else:
            yield {"type": "content_block_stop", "index": index}


def _contents(block: Block) -> list[Json]:
    """Arguments that max_tokens cut are passed on as text."""
    if block.kind == "text":
        found = _citations(block)
        return [{"type": "text", "text": block.text, **({"citations": found} if found else {})}]
    if block.kind == "thoughts":
        return [{"type": "thinking", "thinking": block.text, "signature": ""}]
    if block.kind == "call":
        given = arguments_of(block.text or "{}")
        made = {"type": "tool_use", "id": block.call["id"], "name": block.call["function"]["name"]}
        return [{**made, "input": {"cut": block.text} if given is None else given}]
    id, result = f"mcptoolu_{block.id}", [{"type": "text", "text": block.text}]
    use = {"id": id, "name": block.call["name"], "server_name": "glm", "input": json.loads(arguments_text(block.call))}
    done = {"tool_use_id": id, "is_error": block.call["failed"], "content": result}
    return [{"type": kind, **made} for kind, made in zip(_OWN_TOOLS, (use, done), strict=True)]


def _citations(block: Block) -> list[Json]:
    """As of Anthropic's own search; the text keeps its marks such as [1]."""
    kind = {"type": "web_search_result_location", "encrypted_index": ""}
    return [{**kind, "url": one["url"], "title": one["title"], "cited_text": one["quote"]} for one in block.citations]


def _stop(answering: Answering) -> Json:
    return {"stop_reason": _REASONS[answering.choices[0].reason], "stop_sequence": None}


def _usage(answering: Answering) -> Json:
    usage = answering.usage()
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    counts = {"input_tokens": usage["prompt_tokens"] - cached, "output_tokens": usage["completion_tokens"]}
    return {**counts, "cache_read_input_tokens": cached, "cache_creation_input_tokens": 0}
