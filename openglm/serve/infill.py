"""llama.cpp's `/infill`, which editor plug-ins speak."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from openglm.assistant import EngineRequest, SamplingParams
from openglm.serve.choices import Answering, TextChoice
from openglm.serve.openai import collect
from openglm.serve.schemas import InfillRequest
from openglm.serve.service import Service
from openglm.serve.sse import EventStream, event, prepare, unless_gone

router = APIRouter()
_INFILL_TOKENS = 128  # where a plug-in leaves it to the model


@router.post("/infill", tags=["Editors"])
async def infill(request: Request, body: InfillRequest) -> Response:
    service: Service = request.app.state.service
    if body.n_predict == 0:  # a plug-in warms the cache while the user types
        return JSONResponse({"content": "", "stop": True, "tokens_predicted": 0})
    start = time.perf_counter()
    if body.candidates > 1:
        answering = await unless_gone(request.receive, _best(service, body))
        if body.stream:
            return EventStream(_whole(answering.choices[0].text))
    else:
        ids, params = engine_request = await prepare(request, _blank, service, body)
        if body.stream:
            return EventStream(_pieces(service, engine_request))
        answering = Answering([engine_request], [TextChoice(service.assistant, params.continues)], len(ids))
        await unless_gone(request.receive, collect(service, answering))
    choice, seconds = answering.choices[0], time.perf_counter() - start
    return JSONResponse(
        {
            "content": choice.whole(0)["text"],
            "stop": True,
            "model": request.app.state.model,
            "tokens_predicted": choice.tokens,
            "tokens_evaluated": answering.prompt_tokens,
            "tokens_cached": choice.cached,
            "truncated": False,
            "stop_type": "eos" if choice.reason == "stop" else "limit",
            "generation_settings": {"n_predict": body.n_predict},
            "timings": {
                "prompt_n": answering.prompt_tokens,
                "prompt_ms": 0.0,
                "predicted_n": choice.tokens,
                "predicted_ms": 1000 * seconds,
            },
        }
    )


def _blank(service: Service, body: InfillRequest) -> EngineRequest:
    """Files around the edited one stand before it, as much of them as fits."""
    assistant, tokens = service.assistant, _most(service, body)
    room = assistant.context - tokens
    ids, continues = assistant.prompt(_before(body), body.input_suffix, room)
    params = SamplingParams(
        max_tokens=tokens,
        temperature=body.temperature,
        top_k=body.top_k,
        top_p=body.top_p,
        seed=_seed(body),
        stop=tuple(body.stop or ()),
        stop_ids=assistant.blank_ends,
        continues=continues,
    )
    return ids, params


async def _best(service: Service, body: InfillRequest) -> Answering:
    """The best of several candidates."""
    assistant = service.assistant
    params = SamplingParams(max_tokens=_most(service, body), temperature=body.temperature, seed=_seed(body))
    pieces = [_before(body), body.input_suffix]
    [[filling]] = await service.settle(assistant.best_of([pieces], body.candidates, params))
    return Answering([], [TextChoice.done(assistant, filling.text)], len(assistant.tokenizer.encode("".join(pieces))))


def _before(body: InfillRequest) -> str:
    files = "".join(f"{file.filename}\n{file.text}\n" for file in body.input_extra or ())
    return files + body.input_prefix + body.prompt


def _most(service: Service, body: InfillRequest) -> int:
    """Tokens of the answer."""
    wanted = body.n_predict if body.n_predict > 0 else _INFILL_TOKENS
    return min(wanted, service.assistant.context // 2)


def _seed(body: InfillRequest) -> int | None:
    return None if body.seed == -1 else body.seed


async def _whole(text: str) -> AsyncGenerator[bytes, None]:
    yield event({"content": text, "stop": True})


async def _pieces(service: Service, engine_request: EngineRequest) -> AsyncGenerator[bytes, None]:
    async with aclosing(service.answer([engine_request])) as batches:
        async for batch in batches:
            done = batch[-1][1].result is not None
            yield event({"content": "".join(one.text for _, one in batch), "stop": done})
