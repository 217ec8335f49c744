"""llama.cpp's `/infill`, which editor plug-ins speak."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from openglm.assistant import EngineRequest, SamplingParams
from openglm.serve.asking import Ask, collect, deltas
from openglm.serve.choices import Answering, TextChoice
from openglm.serve.schemas import InfillRequest
from openglm.serve.service import Service
from openglm.serve.sse import EventStream, event, prepare

router = APIRouter()
_INFILL_TOKENS = 128  # where a plug-in leaves it to the model


@router.post("/infill", tags=["Editors"])
async def infill(request: Request, body: InfillRequest) -> Response:
    service: Service = request.app.state.service
    if body.n_predict == 0:  # a plug-in warms the cache while the user types
        return JSONResponse({"content": "", "stop": True, "tokens_predicted": 0})
    start = time.perf_counter()
    ask = partial(_best, service, body) if body.candidates > 1 else partial(_blank, request, service, body)
    if body.stream:
        return EventStream(_pieces(request, ask))
    answering = await collect(request, ask)
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


async def _blank(request: Request, service: Service, body: InfillRequest) -> Answering:
    ids, params = engine_request = await prepare(request, _prompt, service, body)
    return Answering([engine_request], [TextChoice(service.assistant, params.continues)], len(ids))


def _prompt(service: Service, body: InfillRequest) -> EngineRequest:
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


async def _pieces(request: Request, ask: Ask) -> AsyncGenerator[bytes, None]:
    async for _, parts in deltas(request, ask):
        text = "".join(delta["text"] for _, delta in parts if delta)
        yield event({"content": text, "stop": parts[-1][1] is None})
