"""OpenAI's interface: /v1/models, /v1/chat/completions, /v1/completions."""

from __future__ import annotations

import time
import uuid
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from openglm.serve.asking import ask_chat, ask_completion
from openglm.serve.choices import Answering
from openglm.serve.forms import Ask, Form, Parts, check_model, public_name, respond
from openglm.serve.schemas import ChatRequest, CompletionRequest, Json, Sampling
from openglm.serve.sse import DONE, event

router = APIRouter(prefix="/v1", tags=["OpenAI"])


@router.get("/models")
async def models(request: Request) -> Json:
    state = request.app.state
    embedder = [state.embedder.name] if state.embedder else []
    names = [state.model, *state.aliases, *state.service.adapters, *embedder]
    return {"object": "list", "data": [_card(request, name) for name in names]}


@router.get("/models/{name:path}")
async def model(request: Request, name: str) -> Json:
    check_model(request, name)
    return _card(request, name)


def _card(request: Request, name: str) -> Json:
    state = request.app.state
    card = {"id": name, "object": "model", "created": state.created, "owned_by": "openglm"}
    if state.embedder and name == state.embedder.name:
        return card
    parent = {"parent": state.model} if name in state.service.adapters else {}
    return {**card, "max_model_len": state.service.assistant.context, **parent}


@router.post("/chat/completions")
async def chat(request: Request, body: ChatRequest) -> Response:
    kind = "chat.completion.chunk" if body.stream else "chat.completion"
    return await _respond(request, body, "chatcmpl", kind, partial(ask_chat, request, body))


@router.post("/completions")
async def completions(request: Request, body: CompletionRequest) -> Response:
    return await _respond(request, body, "cmpl", "text_completion", partial(ask_completion, request, body))


async def _respond(request: Request, body: Sampling, prefix: str, kind: str, ask: Ask) -> Response:
    version = check_model(request, body.model)
    head = {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time())}
    head |= {"model": public_name(request, version), "system_fingerprint": version.fingerprint}
    usage = bool(body.stream_options and body.stream_options.include_usage)
    return await respond(request, ask, version, _Completion(head, usage), body.stream)


class _Completion(Form):
    def __init__(self, head: Json, usage: bool) -> None:
        """usage: a stream ends with the counts of tokens."""
        self.head, self.usage = head, usage

    def grow(self, answering: Answering, parts: Parts) -> bytes:
        extra = {"usage": None} if self.usage else {}
        choices = [_numbered(answering, index, delta) for index, delta in parts]
        return b"".join([event({**self.head, "choices": [choice], **extra}) for choice in choices])

    def end(self, answering: Answering) -> bytes:
        last = {**self.head, "choices": [], "usage": answering.usage()}
        return (event(last) if self.usage else b"") + DONE

    def whole(self, answering: Answering) -> Json:
        choices = [
            {"index": index, **choice.whole(), "finish_reason": choice.reason}
            for index, choice in enumerate(answering.choices)
        ]
        return {**self.head, "choices": choices, "usage": answering.usage()}


def _numbered(answering: Answering, index: int, delta: Json | None) -> Json:
    choice = answering.choices[index]
    return {"index": index, **choice.chunk(delta), "finish_reason": choice.reason if delta is None else None}
