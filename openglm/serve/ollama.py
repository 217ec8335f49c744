"""Ollama's interface: `/api/chat`, `/api/generate` and what its clients ask before, in the words of OpenAI's and
back."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from openglm import __version__
from openglm.serve.asking import Ask, ask_chat, ask_completion, collect, deltas
from openglm.serve.blocks import Json, as_chat, call
from openglm.serve.choices import Answering
from openglm.serve.errors import ApiError
from openglm.serve.openai import check_model
from openglm.serve.schemas import CompletionRequest
from openglm.serve.service import Version
from openglm.serve.sse import EventStream, line

router = APIRouter(prefix="/api", tags=["Ollama"])
_RENAMED = {"num_predict": "max_tokens", "repeat_penalty": "repetition_penalty"}
Form = Callable[[Mapping[str, Any]], Json]


@router.post("/chat")
async def chat(request: Request, body: Json) -> Response:
    """model, messages, tools, format, options, think, stream."""
    if not body.get("messages"):
        return _loaded(request, body, _of_chat)
    return await _answer(request, body, partial(ask_chat, request, as_chat(asked, body)), _of_chat)


@router.post("/generate")
async def generate(request: Request, body: Json) -> Response:
    """model, prompt, system, format, options, think, stream; with raw the prompt is a text to go on with, and suffix
    follows a blank."""
    if not body.get("prompt"):
        return _loaded(request, body, _of_text)
    if body.get("raw") or body.get("suffix"):
        fields = {"max_tokens": -1, "prompt": body["prompt"], "suffix": body.get("suffix"), **_options(body)}
        ask: Ask = partial(ask_completion, request, CompletionRequest.model_validate(fields))
        return await _answer(request, body, ask, _of_text)
    messages = [{"role": role, "content": body.get(name)} for role, name in (("system", "system"), ("user", "prompt"))]
    chat = as_chat(asked, {**body, "messages": messages[not body.get("system") :]})
    return await _answer(request, body, partial(ask_chat, request, chat), _of_text)


@router.get("/version")
async def version() -> Json:
    return {"version": __version__}


@router.get("/tags")
async def tags(request: Request) -> Json:
    state = request.app.state
    names = [state.model, *state.aliases, *state.service.adapters]
    return {"models": [{"name": name, "model": name, **_card(request)} for name in names]}


@router.post("/show")
async def show(request: Request, body: Json) -> Json:
    _check(request, body)
    info = {"general.architecture": "glm", "glm.context_length": request.app.state.service.assistant.context}
    return {**_card(request), "model_info": info, "capabilities": ["completion", "tools", "insert"]}


def _card(request: Request) -> Json:
    state, details = request.app.state, {"format": "openglm", "family": "glm", "families": ["glm"]}
    weights = state.service.assistant.fingerprint
    return {"modified_at": _time(state.created), "size": 0, "digest": weights, "details": details}


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat()


def _check(request: Request, body: Json) -> Version:
    return check_model(request, str(body.get("model") or body.get("name") or "").removesuffix(":latest"))


def asked(body: Json) -> Json:
    """The request in our own words."""
    return {**_options(body), "messages": [_message(**one) for one in body["messages"]], "tools": body.get("tools")}


def _options(body: Json) -> Json:
    given = {_RENAMED.get(name, name): value for name, value in (body.get("options") or {}).items()}
    options = {name: value for name, value in given.items() if (name, value) != ("seed", -1) and name != "stream"}
    format, think = body.get("format"), body.get("think")
    if format:
        schema = {"type": "object"} if format == "json" else format
        options["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    if think is not None:
        options["thinking"] = {"type": "enabled" if think else "disabled"}
        options["reasoning_effort"] = think if isinstance(think, str) else None
    return options


def _message(role: str, content: str = "", thinking: str = "", tool_calls: list[Json] | None = None, images: None = None, **_: Any) -> Json:  # fmt: skip
    """A message in our own words; its calls have no ids, so that results stand in their order."""
    if images:
        raise ValueError("this model reads no images")
    functions = [one["function"] for one in tool_calls or ()]
    calls = [call("", one["name"], json.dumps(one["arguments"])) for one in functions]
    return {"role": role, "content": content, "reasoning_content": thinking or None, "tool_calls": calls}


def _of_chat(delta: Mapping[str, Any]) -> Json:
    calls = [one["function"] for one in delta.get("tool_calls") or ()]
    made = [{"function": {"name": one["name"], "arguments": json.loads(one["arguments"])}} for one in calls]
    more = {"thinking": delta.get("reasoning_content"), "tool_calls": made}
    said = {name: value for name, value in more.items() if value}
    return {"message": {"role": "assistant", "content": delta.get("content") or "", **said}}


def _of_text(delta: Mapping[str, Any]) -> Json:
    thoughts = delta.get("reasoning_content")
    return {"response": delta.get("text") or delta.get("content") or "", **({"thinking": thoughts} if thoughts else {})}


def _head(body: Json) -> Json:
    return {"model": body.get("model"), "created_at": _time(time.time())}


def _loaded(request: Request, body: Json, form: Form) -> Response:
    """A client has asked for nothing but that the model be there."""
    _check(request, body)
    return JSONResponse({**_head(body), **form({}), "done": True, "done_reason": "load"})


class _Lines(EventStream):
    """JSON, one a line."""

    media_type, ping = "application/x-ndjson", b""

    def failed(self, error: ApiError) -> bytes:
        return line({"error": error.message}) + b"\n"


async def _answer(request: Request, body: Json, ask: Ask, form: Form) -> Response:
    version = _check(request, body)
    start = time.perf_counter()
    if body.get("stream", True):
        return _Lines(_stream(request, body, ask, form, version))
    answering = await collect(request, ask, version)
    whole = answering.choices[0].whole(0)
    return JSONResponse({**_head(body), **form(whole.get("message", whole)), **_ended(answering, start)})


async def _stream(request: Request, body: Json, ask: Ask, form: Form, version: Version) -> AsyncGenerator[bytes, None]:
    start = time.perf_counter()
    async for answering, parts in deltas(request, ask, version):  # noqa: B007
        said = [{**_head(body), **form(delta), "done": False} for _, delta in parts if delta and "role" not in delta]
        yield b"".join(line(one) + b"\n" for one in said)
    yield line({**_head(body), **form({}), **_ended(answering, start)}) + b"\n"


def _ended(answering: Answering, start: float) -> Json:
    usage, nanoseconds = answering.usage(), int(1e9 * (time.perf_counter() - start))
    return {
        "done": True,
        "done_reason": "length" if answering.choices[0].reason == "length" else "stop",
        "total_duration": nanoseconds,
        "load_duration": 0,
        "prompt_eval_count": usage["prompt_tokens"],
        "prompt_eval_duration": 0,
        "eval_count": usage["completion_tokens"],
        "eval_duration": nanoseconds,
    }
