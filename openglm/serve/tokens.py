"""`/tokenize` and `/detokenize`, as vLLM and llama.cpp have them: a text, or a conversation, as the model's ids and
back."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import AliasChoices, Field

from openglm.serve.asking import plain
from openglm.serve.schemas import Body, Ids, Json, Message, Text, Tool
from openglm.serve.sse import prepare

router = APIRouter(tags=["Tokens"])


class TokenizeRequest(Body):
    """A text (`content` in llama.cpp's words), or messages as they are asked."""

    prompt: Text = Field("", validation_alias=AliasChoices("prompt", "content"))
    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None


class DetokenizeRequest(Body):
    tokens: Ids


@router.post("/tokenize")
@router.post("/v1/tokenize", include_in_schema=False)
async def tokenize(request: Request, body: TokenizeRequest) -> Json:
    assistant = request.app.state.service.assistant
    if body.messages is None:
        assistant.require_short("prompt", len(body.prompt))
        ids = await prepare(request, assistant.tokenizer.encode, body.prompt)
    else:
        tools = [tool.model_dump(exclude_none=True) for tool in body.tools or ()]
        ids, _ = await prepare(request, lambda: assistant.chat_prompt(plain(body.messages or ()), tools))
    return {"tokens": ids, "count": len(ids), "max_model_len": assistant.context}


@router.post("/detokenize")
@router.post("/v1/detokenize", include_in_schema=False)
async def detokenize(request: Request, body: DetokenizeRequest) -> dict[str, str]:
    """`prompt` in vLLM's words, `content` in llama.cpp's."""
    text = request.app.state.service.assistant.tokenizer.decode(body.tokens)
    return {"prompt": text, "content": text}
