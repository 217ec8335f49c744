"""OpenAI's `/v1/responses`, in the words of chat completions and back. Nothing is stored: a request brings its whole
conversation."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from openglm.config import require
from openglm.serve.asking import ask_chat
from openglm.serve.blocks import Block, BlockForm, arguments_text, as_chat, functions, text_of, web_search
from openglm.serve.choices import Answering, new_call, new_function
from openglm.serve.forms import check_model, public_name, respond
from openglm.serve.schemas import Json

router = APIRouter(prefix="/v1", tags=["OpenAI"])
_SHOWN: Json = {"instructions": None, "tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "metadata": {}}
_SHOWN |= {"temperature": None, "top_p": None, "max_output_tokens": None, "previous_response_id": None}


@router.post("/responses")
async def responses(request: Request, body: Json) -> Response:
    """input, instructions, tools, tool_choice, text.format, reasoning.effort, max_output_tokens, temperature, top_p,
    stream; web, or a tool of type web_search."""
    for name in ("previous_response_id", "conversation"):
        require(not body.get(name), name, body.get(name), "nothing is stored here; send the whole conversation")
    chat = as_chat(asked, body)
    version = check_model(request, chat.model)
    form = Responses(body, public_name(request, version))
    return await respond(request, partial(ask_chat, request, chat), version, form, chat.stream)


def asked(body: Json) -> Json:
    """The request in our own words."""
    body = web_search(body)
    given = body["input"]
    items = [{"content": given}] if isinstance(given, str) else given
    format, choice = (body.get("text") or {}).get("format"), body.get("tool_choice")
    same = ("model", "temperature", "top_p", "stream", "parallel_tool_calls", "web")
    return {
        **{name: body.get(name) for name in same},
        "messages": list(_messages(body.get("instructions"), items)),
        "max_tokens": body.get("max_output_tokens"),
        "tools": functions(body.get("tools"), "parameters"),
        "tool_choice": new_function(name=choice["name"]) if isinstance(choice, dict) else choice,
        "reasoning_effort": (body.get("reasoning") or {}).get("effort"),
        "response_format": format and {"type": format["type"], "json_schema": {"name": "answer", **format}},
    }


def _messages(instructions: str | None, items: list[Json]) -> Iterator[Json]:
    """Thoughts, text and calls that follow one another are one answer."""
    if instructions:
        yield {"role": "system", "content": instructions}
    answer: Json = {}
    for new in map(_message, (item for item in items if item.get("type") != "mcp_call")):  # it told of our own tools
        if new["role"] != "assistant" or (new.keys() & answer.keys()) - {"role", "tool_calls"}:
            yield from [answer] if answer else []
            answer = {}
        if new["role"] != "assistant":
            yield new
        else:
            calls = [*answer.get("tool_calls", ()), *new.get("tool_calls", ())]
            answer |= {**new, **({"tool_calls": calls} if calls else {})}
    yield from [answer] if answer else []


def _message(item: Json) -> Json:
    kind, text = item.get("type", "message"), text_of(item.get("content"))
    if kind == "function_call":
        return {"role": "assistant", "tool_calls": [new_call(item["name"], item["arguments"], item["call_id"])]}
    if kind == "reasoning":
        return {"role": "assistant", "reasoning_content": text or text_of(item.get("summary"))}
    if kind == "function_call_output":
        return {"role": "tool", "tool_call_id": item["call_id"], "content": text_of(item.get("output"))}
    require(kind == "message", "input.type", kind, "is none that this server reads")
    return {"role": item.get("role", "user"), "content": text}


class Responses(BlockForm):
    def __init__(self, body: Json, model: str) -> None:
        super().__init__()
        self.numbers = itertools.count()
        self.head = {name: body.get(name, usual) for name, usual in _SHOWN.items()}
        self.head |= {"id": f"resp_{uuid.uuid4().hex}", "object": "response", "created_at": int(time.time())}
        self.head |= {"model": model, "store": False, "error": None}

    def write(self, fields: Json) -> bytes:
        named = {**fields, "type": f"response.{fields['type']}"}
        return super().write({**named, "sequence_number": next(self.numbers)})

    def begin(self, answering: Answering) -> bytes:
        head: Json = {**self.head, "status": "in_progress", "output": [], "usage": None}
        return b"".join([self.write({"type": kind, "response": head}) for kind in ("created", "in_progress")])

    def end(self, answering: Answering) -> bytes:
        ended = self._ended(answering)
        return self.write({"type": ended["status"], "response": ended})

    def whole(self, answering: Answering) -> Json:
        self.read(answering)
        return self._ended(answering)

    def _ended(self, answering: Answering) -> Json:
        cut, usage = answering.choices[0].reason == "length", answering.usage()
        return {
            **self.head,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [_item(block) for block in self.blocks],
            **self.unused(),
            "usage": {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": usage["prompt_tokens_details"],
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage["total_tokens"],
            },
        }

    def events(self, kind: str, block: Block, text: str) -> Iterator[Json]:
        item, call, place = _item(block, begun=kind == "begin"), block.kind == "call", {"output_index": block.number}
        if block.kind == "step":
            yield from _of_step(kind, item, place)
            return
        name = _NAMES[block.kind]
        inner: Json = {"item_id": item["id"], **place, **({} if call else {"content_index": 0})}
        if kind == "begin":
            yield {"type": "output_item.added", **place, "item": item}
            if not call:
                empty = replace(block, text="", annotations=[])
                yield {"type": "content_part.added", **inner, "part": _part(empty)}
        elif kind == "add":
            yield {"type": f"{name}.delta", **inner, "delta": text, "logprobs": []}
        elif kind == "cite":
            for number, annotation in enumerate(_part(block)["annotations"]):
                told = {"annotation_index": number, "annotation": annotation}
                yield {"type": "output_text.annotation.added", **inner, **told}
        else:
            yield {"type": f"{name}.done", **inner, "arguments" if call else "text": block.text, "logprobs": []}
            if not call:
                yield {"type": "content_part.done", **inner, "part": _part(block)}
            yield {"type": "output_item.done", **place, "item": item}


_NAMES = {"text": "output_text", "thoughts": "reasoning_text", "call": "function_call_arguments"}


def _of_step(kind: str, item: Json, place: Json) -> Iterator[Json]:
    inner = {"item_id": item["id"], **place}
    if kind == "begin":
        yield {"type": "output_item.added", **place, "item": item}
        yield {"type": "mcp_call.in_progress", **inner}
        yield {"type": "mcp_call_arguments.done", **inner, "arguments": item["arguments"]}
    elif kind == "end":
        yield {"type": f"mcp_call.{item['status']}", **inner}
        yield {"type": "output_item.done", **place, "item": item}


def _item(block: Block, begun: bool = False) -> Json:
    """As it stands; one that has just begun has no parts yet."""
    parts, status = ([], "in_progress") if begun else ([_part(block)], "completed")
    if block.kind == "call":
        own = {"call_id": block.call["id"], "name": block.call["function"]["name"], "arguments": block.text}
        return {"id": f"fc_{block.id}", "type": "function_call", "status": status, **own}
    if block.kind == "step":  # as OpenAI tells of tools of MCP servers, which it runs itself too
        failed = block.call["failed"] and not begun
        error = {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": block.text}]}
        own = {"name": block.call["name"], "server_label": "glm", "arguments": arguments_text(block.call)}
        own |= {"output": None if begun else block.text, "error": error if failed else None}
        return {"id": f"mcp_{block.id}", "type": "mcp_call", "status": "failed" if failed else status, **own}
    if block.kind == "thoughts":
        return {"id": f"rs_{block.id}", "type": "reasoning", "summary": [], "content": parts}
    return {"id": f"msg_{block.id}", "type": "message", "role": "assistant", "content": parts, "status": status}


def _part(block: Block) -> Json:
    if block.kind == "thoughts":
        return {"type": "reasoning_text", "text": block.text}
    annotations = [{"type": one["type"], **one["url_citation"]} for one in block.annotations]
    return {"type": "output_text", "text": block.text, "annotations": annotations, "logprobs": []}
