"""OpenAI's `/v1/responses`, in the words of chat completions and back. Nothing is stored: a request brings its whole
conversation."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from openglm.config import require
from openglm.serve.asking import Ask, ask_chat, collect, deltas
from openglm.serve.blocks import Block, Blocks, Json, as_chat, call, function, text_of
from openglm.serve.choices import Answering
from openglm.serve.openai import check_model
from openglm.serve.service import Version
from openglm.serve.sse import EventStream, event

router = APIRouter(prefix="/v1", tags=["OpenAI"])
_SHOWN: Json = {"instructions": None, "tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "metadata": {}}
_SHOWN |= {"temperature": None, "top_p": None, "max_output_tokens": None, "previous_response_id": None}


@router.post("/responses")
async def responses(request: Request, body: Json) -> Response:
    """input, instructions, tools, tool_choice, text.format, reasoning.effort, max_output_tokens, temperature, top_p,
    stream."""
    for name in ("previous_response_id", "conversation"):
        require(not body.get(name), name, body.get(name), "nothing is stored here; send the whole conversation")
    chat = as_chat(asked, body)
    version = check_model(request, chat.model)
    head = {name: body.get(name, usual) for name, usual in _SHOWN.items()}
    head |= {"id": f"resp_{uuid.uuid4().hex}", "object": "response", "created_at": int(time.time()), "store": False}
    head |= {
        "model": version.adapter or request.app.state.model,
        "status": "in_progress",
        "output": [],
        "error": None,
        "usage": None,
    }
    ask = partial(ask_chat, request, chat)
    if chat.stream:
        return EventStream(_events(request, ask, head, version))
    answering, blocks = await collect(request, ask, version), Blocks()
    blocks.feed(answering.choices[0].message())
    return JSONResponse(_ended(head, answering, blocks))


def asked(body: Json) -> Json:
    """The request in our own words."""
    given = body["input"]
    items = [{"content": given}] if isinstance(given, str) else given
    format, choice = (body.get("text") or {}).get("format"), body.get("tool_choice")
    tools = [
        function(**{key: one.get(key) for key in ("name", "description", "parameters")})
        for one in body.get("tools") or ()
    ]
    same = ("model", "temperature", "top_p", "stream", "parallel_tool_calls")
    return {
        **{name: body.get(name) for name in same},
        "messages": list(_messages(body.get("instructions"), items)),
        "max_tokens": body.get("max_output_tokens"),
        "tools": tools,
        "tool_choice": function(name=choice["name"]) if isinstance(choice, dict) else choice,
        "reasoning_effort": (body.get("reasoning") or {}).get("effort"),
        "response_format": format and {"type": format["type"], "json_schema": {"name": "answer", **format}},
    }


def _messages(instructions: str | None, items: list[Json]) -> Iterator[Json]:
    """Thoughts, text and calls that follow one another are one answer."""
    if instructions:
        yield {"role": "system", "content": instructions}
    answer: Json = {}
    for item in items:
        kind = item.get("type", "message")
        text = text_of(item.get("output" if kind == "function_call_output" else "content"))
        new: Json = {"role": "assistant"}
        if kind == "function_call":
            new["tool_calls"] = [call(item["call_id"], item["name"], item["arguments"])]
        elif kind == "reasoning":
            new["reasoning_content"] = text or text_of(item.get("summary"))
        elif kind == "function_call_output":
            new = {"role": "tool", "tool_call_id": item["call_id"], "content": text}
        else:
            require(kind == "message", "input.type", kind, "is none that this server reads")
            new = {"role": item.get("role", "user"), "content": text}
        if new["role"] != "assistant" or (new.keys() & answer.keys()) - {"role", "tool_calls"}:
            yield from [answer] if answer else []
            answer = {}
        if new["role"] != "assistant":
            yield new
        else:
            calls = [*answer.get("tool_calls", ()), *new.get("tool_calls", ())]
            answer |= {**new, **({"tool_calls": calls} if calls else {})}
    yield from [answer] if answer else []


def _ended(head: Json, answering: Answering, blocks: Blocks) -> Json:
    cut, usage = answering.choices[0].reason == "length", answering.usage()
    return {
        **head,
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": [_item(block) for block in blocks],
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": usage["prompt_tokens_details"],
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        },
    }


def _item(block: Block, begun: bool = False) -> Json:
    """As it stands; one that has just begun has no parts yet."""
    parts, status = ([], "in_progress") if begun else ([_part(block)], "completed")
    if block.kind == "call":
        own = {"call_id": block.call["id"], "name": block.call["function"]["name"], "arguments": block.text}
        return {"id": f"fc_{block.id}", "type": "function_call", "status": status, **own}
    if block.kind == "thoughts":
        return {"id": f"rs_{block.id}", "type": "reasoning", "summary": [], "content": parts}
    return {"id": f"msg_{block.id}", "type": "message", "role": "assistant", "content": parts, "status": status}


def _part(block: Block) -> Json:
    if block.kind == "thoughts":
        return {"type": "reasoning_text", "text": block.text}
    return {"type": "output_text", "text": block.text, "annotations": [], "logprobs": []}


async def _events(request: Request, ask: Ask, head: Json, version: Version) -> AsyncGenerator[bytes, None]:
    blocks, numbers = Blocks(), itertools.count()

    def written(kind: str, **fields: Any) -> bytes:
        name = f"response.{kind}"
        return event({"type": name, "sequence_number": next(numbers), **fields}, name)

    yield written("created", response=head) + written("in_progress", response=head)
    async for answering, parts in deltas(request, ask, version):  # noqa: B007
        steps = [step for _, delta in parts for step in blocks.feed(delta)]
        yield b"".join(written(name, **fields) for step in steps for name, fields in _of_step(*step))
    ended = _ended(head, answering, blocks)
    yield written(ended["status"], response=ended)


_NAMES = {"text": "output_text", "thoughts": "reasoning_text", "call": "function_call_arguments"}


def _of_step(kind: str, block: Block, text: str) -> Iterator[tuple[str, Json]]:
    """Names and fields of the events that tell of a block's beginning, growth or end."""
    name, item, call = _NAMES[block.kind], _item(block, begun=kind == "begin"), block.kind == "call"
    place = {"output_index": block.number}
    inner: Json = {"item_id": item["id"], **place, **({} if call else {"content_index": 0})}
    if kind == "begin":
        yield "output_item.added", {**place, "item": item}
        if not call:
            yield "content_part.added", {**inner, "part": _part(block)}
    elif kind == "add":
        yield f"{name}.delta", {**inner, "delta": text, "logprobs": []}
    else:
        yield f"{name}.done", {**inner, "arguments" if call else "text": block.text, "logprobs": []}
        if not call:
            yield "content_part.done", {**inner, "part": _part(block)}
        yield "output_item.done", {**place, "item": item}
