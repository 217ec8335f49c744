"""OpenAI's interface: /v1/models, /v1/chat/completions, /v1/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from openglm.serve.asking import Ask, ask_chat, ask_completion, collect, deltas
from openglm.serve.errors import ApiError
from openglm.serve.schemas import ChatRequest, CompletionRequest, Sampling
from openglm.serve.service import Version
from openglm.serve.sse import DONE, EventStream, event

router = APIRouter(prefix="/v1", tags=["OpenAI"])


@router.get("/models")
async def models(request: Request) -> dict[str, Any]:
    state = request.app.state
    embedder = [state.embedder.name] if state.embedder else []
    names = [state.model, *state.aliases, *state.service.adapters, *embedder]
    return {"object": "list", "data": [_model(request, name) for name in names]}


@router.get("/models/{name:path}")
async def model(request: Request, name: str) -> dict[str, Any]:
    check_model(request, name)
    return _model(request, name)


@router.post("/chat/completions")
async def chat(request: Request, body: ChatRequest) -> Response:
    return await _respond(request, body, "chat.completion", partial(ask_chat, request, body))


@router.post("/completions")
async def completions(request: Request, body: CompletionRequest) -> Response:
    return await _respond(request, body, "text_completion", partial(ask_completion, request, body))


def _model(request: Request, name: str) -> dict[str, Any]:
    state = request.app.state
    card = {"id": name, "object": "model", "created": state.created, "owned_by": "openglm"}
    if state.embedder and name == state.embedder.name:
        return card
    parent = {"parent": state.model} if name in state.service.adapters else {}
    return {**card, "max_model_len": state.service.assistant.context, **parent}


def check_model(request: Request, name: str | None) -> Version:
    """The version that answers a request for this model. Raises ApiError where it is not here."""
    state = request.app.state
    known = [state.model, *state.aliases, *state.service.adapters]
    if name not in (None, "", *known):
        use = " or ".join(map(repr, known))
        raise ApiError(404, f"model: {name!r} is not served here; use {use}", param="model", code="model_not_found")
    return state.service.pick(name)


async def _respond(request: Request, body: Sampling, kind: str, ask: Ask) -> Response:
    version = check_model(request, body.model)
    head = {
        "id": f"{'chatcmpl' if kind == 'chat.completion' else 'cmpl'}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": version.adapter or request.app.state.model,
        "system_fingerprint": version.fingerprint,
    }
    if body.stream:
        if kind == "chat.completion":
            head["object"] = "chat.completion.chunk"
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        return EventStream(_chunks(request, head, ask, with_usage, version))
    answering = await collect(request, ask, version)
    choices = [choice.whole(index) for index, choice in enumerate(answering.choices)]
    return JSONResponse({**head, "choices": choices, "usage": answering.usage()})


async def _chunks(
    request: Request, head: dict[str, Any], ask: Ask, with_usage: bool, version: Version
) -> AsyncGenerator[bytes, None]:
    """An answer as server-sent events; those that lie ready are sent in one piece."""
    extra = {"usage": None} if with_usage else {}
    async for answering, parts in deltas(request, ask, version):
        choices = [answering.choices[index].chunk(index, delta) for index, delta in parts]
        yield b"".join(event({**head, "choices": [choice], **extra}) for choice in choices)
    yield (event({**head, "choices": [], "usage": answering.usage()}) if with_usage else b"") + DONE
