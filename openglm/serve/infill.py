"""llama.cpp's `/infill`, which editor plug-ins speak: a blank of `/v1/completions` in other words."""

from __future__ import annotations

import time
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from openglm.serve.asking import ask_completion
from openglm.serve.choices import Answering
from openglm.serve.forms import Form, Parts, check_model, respond
from openglm.serve.schemas import CompletionRequest, InfillRequest, Json
from openglm.serve.sse import event

router = APIRouter()
_INFILL_TOKENS = 128  # where a plug-in leaves it to the model


@router.post("/infill", tags=["Editors"])
async def infill(request: Request, body: InfillRequest) -> Response:
    """Files around the edited one stand before it, as much of them as fits."""
    if body.n_predict == 0:  # a plug-in warms the cache while the user types
        return JSONResponse({"content": "", "stop": True, "tokens_predicted": 0})
    version = check_model(request)
    context = version.assistant.context
    tokens = min(body.n_predict if body.n_predict > 0 else _INFILL_TOKENS, context // 2)
    files = "".join(f"{file.filename}\n{file.text}\n" for file in body.input_extra or ())
    blank = CompletionRequest.model_construct(  # all of it is checked already
        prompt=files + body.input_prefix + body.prompt,
        suffix=body.input_suffix,
        max_tokens=tokens,
        seed=None if body.seed == -1 else body.seed,
        **body.model_dump(include={"candidates", "temperature", "top_k", "top_p", "stop"}),
    )
    ask = partial(ask_completion, request, blank, context - tokens)
    return await respond(request, ask, version, _Infill(request.app.state.model, body.n_predict), body.stream)


class _Infill(Form):
    def __init__(self, model: str, asked: int) -> None:
        self.model, self.asked, self.start = model, asked, time.perf_counter()

    def grow(self, answering: Answering, parts: Parts) -> bytes:
        text = "".join(delta["text"] for _, delta in parts if delta)
        return event({"content": text, "stop": parts[-1][1] is None})

    def whole(self, answering: Answering) -> Json:
        choice, read = answering.choices[0], answering.prompt_tokens
        milliseconds = 1000 * (time.perf_counter() - self.start)
        return {
            "content": choice.text("text"),
            "stop": True,
            "model": self.model,
            "tokens_predicted": choice.tokens,
            "tokens_evaluated": read,
            "tokens_cached": choice.cached,
            "truncated": False,
            "stop_type": "eos" if choice.reason == "stop" else "limit",
            "generation_settings": {"n_predict": self.asked},
            "timings": {
                "prompt_n": read,
                "prompt_ms": 0.0,
                "predicted_n": choice.tokens,
                "predicted_ms": milliseconds,
            },
        }
