"""The first ChatGLM-6B server's `POST /`, for clients that were written for it."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request

from openglm.assistant import EngineRequest, SamplingParams
from openglm.serve.choices import Answering, ChatChoice
from openglm.serve.forms import check_model, collect
from openglm.serve.schemas import ChatGLMRequest, Json
from openglm.serve.service import Service
from openglm.serve.sse import prepare

router = APIRouter()


@router.post("/", tags=["ChatGLM-6B"])
async def chatglm(request: Request, body: ChatGLMRequest) -> Json:
    """History goes in and comes out with this round; where it no longer fits, its oldest rounds are not read, though
    they stay in it.
    """
    service: Service = request.app.state.service

    async def ask() -> Answering:
        engine_request = await prepare(request, _chat, service, body)
        choice = ChatChoice(service.assistant, (), service.assistant.reader(()))
        return Answering([engine_request], [choice], len(engine_request[0]))

    answering = await collect(request, ask, check_model(request))
    response = answering.choices[0].text("content")
    return {
        "response": response,
        "history": [*(body.history or []), [body.prompt, response]],
        "status": 200,
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _chat(service: Service, body: ChatGLMRequest) -> EngineRequest:
    """max_length counts prompt and answer together, as it did in the first server."""
    said = [text for round in body.history or [] for text in round] + [body.prompt]
    messages = [{"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(said)]
    ids, _ = service.assistant.chat_prompt(messages, cut=True)
    limit = min(body.max_length or 2048, service.assistant.context)
    sampling = service.assistant.sampling(temperature=body.temperature, top_p=body.top_p)
    return ids, SamplingParams(max_tokens=max(limit - len(ids), 1), **sampling)
