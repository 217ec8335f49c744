"""Ollama's interface: `/api/chat`, `/api/generate` and what its clients ask before, in the words of OpenAI's and
back."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from openglm import __version__
from openglm.serve.asking import ask_chat, ask_completion
from openglm.serve.blocks import as_chat
from openglm.serve.choices import Answering, new_call
from openglm.serve.errors import ApiError
from openglm.serve.forms import Ask, Form, Parts, check_model, respond
from openglm.serve.schemas import CompletionRequest, Json
from openglm.serve.service import Version
from openglm.serve.sse import EventStream, line

router = APIRouter(prefix="/api", tags=["Ollama"])
_RENAMED = {"num_predict": "max_tokens", "repeat_penalty": "repetition_penalty"}


@router.post("/chat")
async def chat(request: Request, body: Json) -> Response:
    """model, messages, tools, format, options, think, stream."""
    ask = partial(ask_chat, request, as_chat(asked, body)) if body.get("messages") else None
    return await _answer(request, body, ask, Chat(body))


@router.post("/generate")
async def generate(request: Request, body: Json) -> Response:
    """model, prompt, system, format, options, think, stream; with raw the prompt is a text to go on with, and suffix
    follows a blank."""
    prompt, ask = body.get("prompt"), None
    if prompt and (body.get("raw") or body.get("suffix")):
        fields = {"max_tokens": -1, "prompt": prompt, "suffix": body.get("suffix"), **_options(body)}
        ask = partial(ask_completion, request, CompletionRequest.model_validate(fields))
    elif prompt:
        system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
        talk = {**body, "messages": [*system, {"role": "user", "content": prompt}]}
        ask = partial(ask_chat, request, as_chat(asked, talk))
    return await _answer(request, body, ask, Generation(body))


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
    """The request in our own words. Ollama's clients send an empty list of tools where they have none."""
    messages = [_message(**one) for one in body["messages"]]
    return {**_options(body), "messages": messages, "tools": body.get("tools") or None}


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
    calls = [new_call(one["name"], json.dumps(one["arguments"]), "") for one in functions]
    return {"role": role, "content": content, "reasoning_content": thinking or None, "tool_calls": calls}


async def _answer(request: Request, body: Json, ask: Ask | None, form: Lines) -> Response:
    version = _check(request, body)
    if ask is None:  # a client has asked for nothing but that the model be there
        return JSONResponse({**form.head({}), "done": True, "done_reason": "load"})
    return await respond(request, ask, version, form, body.get("stream", True))


def _thoughts(delta: Mapping[str, Any]) -> str:
    """And among them the tools that the server ran, which Ollama has no field for: clients would run calls again."""
    ran = [f"{step['name']} {step['arguments']} → {step['result']}\n" for step in delta.get("steps", ())]
    return "".join([delta.get("reasoning_content") or "", *ran])


class _LineStream(EventStream):
    """JSON, one a line."""

    media_type, ping = "application/x-ndjson", b""

    def failed(self, error: ApiError) -> bytes:
        return line({"error": error.message}) + b"\n"


class Lines(Form):
    stream = _LineStream

    def __init__(self, body: Json) -> None:
        self.model, self.start = body.get("model"), time.perf_counter()

    def said(self, delta: Mapping[str, Any]) -> Json:
        raise NotImplementedError

    def head(self, delta: Mapping[str, Any]) -> Json:
        return {"model": self.model, "created_at": _time(time.time()), **self.said(delta)}

    def grow(self, answering: Answering, parts: Parts) -> bytes:
        deltas = [delta for _, delta in parts if delta and "role" not in delta]
        return b"".join([line({**self.head(delta), "done": False}) + b"\n" for delta in deltas])

    def end(self, answering: Answering) -> bytes:
        return line({**self.head({}), **self._ended(answering)}) + b"\n"

    def whole(self, answering: Answering) -> Json:
        whole = answering.choices[0].whole()
        return {**self.head(whole.get("message", whole)), **self._ended(answering)}

    def _ended(self, answering: Answering) -> Json:
        usage, nanoseconds = answering.usage(), int(1e9 * (time.perf_counter() - self.start))
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


class Chat(Lines):
    def said(self, delta: Mapping[str, Any]) -> Json:
        calls = [one["function"] for one in delta.get("tool_calls") or ()]
        made = [{"function": {"name": one["name"], "arguments": json.loads(one["arguments"])}} for one in calls]
        more = {"thinking": _thoughts(delta), "tool_calls": made}
        said = {name: value for name, value in more.items() if value}
        return {"message": {"role": "assistant", "content": delta.get("content") or "", **said}}


class Generation(Lines):
    def said(self, delta: Mapping[str, Any]) -> Json:
        thoughts = _thoughts(delta)
        text = delta.get("text") or delta.get("content") or ""
        return {"response": text, **({"thinking": thoughts} if thoughts else {})}
