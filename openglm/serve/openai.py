"""OpenAI's interface: /v1/models, /v1/chat/completions, /v1/completions. Tools and blanks are in the words of the
family, see text/streaming.py and Assistant.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from openglm.assistant import EngineRequest, SamplingParams, Thinking
from openglm.config import require
from openglm.serve.choices import Answering, CallChoice, ChatChoice, TextChoice
from openglm.serve.errors import ApiError
from openglm.serve.schemas import ChatRequest, CompletionRequest, Message, Sampling, TemplateOptions, ToolChoice
from openglm.serve.service import Service, Version
from openglm.serve.sse import DONE, EventStream, event, prepare, unless_gone

router = APIRouter(prefix="/v1", tags=["OpenAI"])
_QUIET = 10.0  # seconds without a chunk, after which a comment tells clients and proxies that the answer goes on


@router.get("/models")
async def models(request: Request) -> dict[str, Any]:
    embedder = request.app.state.embedder
    more = (
        [{"id": embedder.name, "object": "model", "created": request.app.state.created, "owned_by": "openglm"}]
        if embedder
        else []
    )
    adapters = [_model(request, name) for name in request.app.state.service.adapters]
    return {"object": "list", "data": [_model(request), *adapters, *more]}


@router.get("/models/{name}")
async def model(request: Request, name: str) -> dict[str, Any]:
    _check_model(request, name)
    return _model(request, name)


@router.post("/chat/completions")
async def chat(request: Request, body: ChatRequest) -> Response:
    service: Service = request.app.state.service
    _check_model(request, body.model)
    return await _respond(request, body, "chat.completion", await _chat(request, service, body))


@router.post("/completions")
async def completions(request: Request, body: CompletionRequest) -> Response:
    service: Service = request.app.state.service
    _check_model(request, body.model)
    if body.candidates > 1:
        answering = await unless_gone(request.receive, _best(service, body))
    else:
        answering = await prepare(request, _completion, service, body)
    return await _respond(request, body, "text_completion", answering)


def _model(request: Request, name: str = "") -> dict[str, Any]:
    state = request.app.state
    adapter = state.service.adapters.get(name)
    return {
        "id": name or state.model,
        "object": "model",
        "created": state.created,
        "owned_by": "openglm",
        "max_model_len": state.service.assistant.context,
        **({"parent": state.model} if adapter else {}),
    }


def _check_model(request: Request, name: str | None) -> None:
    known = [request.app.state.model, *request.app.state.service.adapters]
    if name not in (None, "", *known):
        use = " or ".join(map(repr, known))
        raise ApiError(404, f"model: {name!r} is not served here; use {use}", param="model", code="model_not_found")


async def _chat(request: Request, service: Service, body: ChatRequest) -> Answering:
    """The requests and choices of a chat."""
    tools, forced = await _tools(request, service, body)
    schema, assistant = _schema(body), service.assistant
    thinking = _thinking(body, closed=bool(forced) or schema is not None)
    ids = await prepare(request, _prompt, service, body, tools, thinking)
    opening = ""
    if forced:
        function = next(tool.function for tool in body.tools or () if tool.function.name == forced)
        begun, opening = assistant.call_opening(forced)
        ids += begun
        schema = None if opening else {"type": "object"} if function.parameters is None else function.parameters
    requests = _requests(
        service,
        body,
        ids,
        body.max_completion_tokens or body.max_tokens,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        schema=schema,
    )
    if forced and not opening:
        return Answering(requests, [CallChoice(assistant, forced) for _ in requests], len(ids))
    names = [tool["function"]["name"] for tool in tools]
    readers = [assistant.reader(tools, thinking) for _ in requests]
    if opening:
        for reader in filter(None, readers):
            reader.feed(opening)
    most = 1 if body.parallel_tool_calls is False else None
    return Answering(requests, [ChatChoice(assistant, names, reader, most) for reader in readers], len(ids))


def _thinking(body: ChatRequest, closed: bool) -> Thinking:
    """closed: the answer's shape is given, so there is no room for thoughts."""
    options = body.chat_template_kwargs or TemplateOptions()
    effort = options.reasoning_effort or body.reasoning_effort
    enabled = False if options.enable_thinking is None and effort == "none" else options.enable_thinking
    return Thinking(enabled, options.clear_thinking, effort, closed)


async def _tools(request: Request, service: Service, body: ChatRequest) -> tuple[list[dict[str, Any]], str | None]:
    """The tools in play, and the one that must be called, where the request says so."""
    if not body.tools or body.tool_choice == "none":
        if body.tool_choice not in (None, "none", "auto"):
            raise ApiError(400, "tool_choice: there are no tools to choose from", param="tool_choice")
        return [], None
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools]
    names = list(dict.fromkeys(tool.function.name for tool in body.tools))
    if body.tool_choice in (None, "auto"):
        return tools, None
    chosen = (
        body.tool_choice.function.name
        if isinstance(body.tool_choice, ToolChoice)
        else await _choose(request, service, body, tools, names)
    )
    if chosen not in names:
        raise ApiError(
            400, f"tool_choice.function.name: {chosen!r} is not among the tools", param="tool_choice.function.name"
        )
    return tools, chosen


async def _choose(
    request: Request, service: Service, body: ChatRequest, tools: list[dict[str, Any]], names: list[str]
) -> str:
    """The tool whose name the model would write if it had to write one; its arguments are a request of their own, which
    finds this prompt in the cache.
    """
    if len(names) == 1:
        return names[0]
    ids = await prepare(request, _prompt, service, body, tools, _thinking(body, closed=True))
    ids += service.assistant.call_opening()[0]
    params = SamplingParams(max_tokens=128, regex="|".join(name.replace(".", r"\.") for name in names))
    async for batch in service.answer([(ids, params)], service.pick(body.model)):
        result = batch[-1][1].result
    assert result is not None, "an answer's last event brings its result"
    return result.text


def _prompt(service: Service, body: ChatRequest, tools: Sequence[dict[str, Any]], thinking: Thinking) -> list[int]:
    return service.assistant.chat_prompt(plain(body.messages), tools or None, thinking=thinking)[0]


def _schema(body: ChatRequest) -> dict[str, Any] | None:
    wanted = body.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "object"}
    if wanted.json_schema is None or wanted.json_schema.json_schema is None:
        raise ApiError(400, "response_format.json_schema: must hold a schema", param="response_format.json_schema")
    return wanted.json_schema.json_schema


def plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as the renderer takes them."""
    for index, message in enumerate(messages):
        has_text = message.content is not None or bool(message.tool_calls)
        require(has_text, f"messages[{index}].content", None, "must be text")
    roles = {"developer": "system"}
    return [
        {
            **message.model_dump(exclude_none=True),
            "role": roles.get(message.role, message.role),
            "content": _text(message),
        }
        for message in messages
    ]


def _text(message: Message) -> str:
    return message.content if isinstance(message.content, str) else "".join(part.text for part in message.content or ())


def _completion(service: Service, body: CompletionRequest) -> Answering:
    """The requests and choices of plain texts to go on with, or of blanks where there is a suffix."""
    assistant = service.assistant
    requests: list[EngineRequest] = []
    for prompt in _prompts(body):
        text = prompt if isinstance(prompt, str) else None
        continues: bytes | None = None
        stops: tuple[int, ...] = ()
        if body.suffix:
            if text is None:
                raise ApiError(400, "suffix: needs a prompt that is text", param="suffix")
            ids, continues = assistant.prompt(text, body.suffix)
            stops = assistant.blank_ends
        elif text is None:
            ids = prompt
        else:
            ids, continues = assistant.prompt(text)
        more = {"logprobs": body.logprobs, "stop_ids": stops, "continues": continues}
        requests += _requests(service, body, ids, body.max_tokens or 16, **more)
    choices = [TextChoice(assistant, params.continues) for _, params in requests]
    return Answering(requests, choices, sum(len(ids) for ids, _ in requests[:: body.n or 1]))


def _prompts(body: CompletionRequest) -> Sequence[Any]:
    return [body.prompt] if isinstance(body.prompt, str) or isinstance(body.prompt[0], int) else body.prompt


async def _best(service: Service, body: CompletionRequest) -> Answering:
    """Blanks whose fillings are the best of several candidates."""
    assistant, prompts, suffix = service.assistant, _prompts(body), body.suffix or ""
    for option, wrong, why in (
        ("suffix", not suffix, "candidates fill the blank before a suffix; give one, or leave candidates out"),
        (
            "prompt",
            not all(isinstance(prompt, str) for prompt in prompts),
            "must be text where candidates are asked for",
        ),
        ("n", (body.n or 1) > 1, "one of the candidates is the answer; leave n or candidates out"),
        ("logprobs", body.logprobs is not None, "are of one answer alone; leave logprobs or candidates out"),
    ):
        if wrong:
            raise ApiError(400, f"{option}: {why}", param=option)
    params = SamplingParams(
        max_tokens=body.max_tokens or 16,
        temperature=assistant.sampling(temperature=body.temperature)["temperature"],
        seed=None if body.seed is None else body.seed % (1 << 63),
    )
    rounds = assistant.best_of([[p, suffix] for p in prompts], body.candidates, params)
    fillings = await service.settle(rounds, service.pick(body.model))
    choices = [TextChoice.done(assistant, filling.text) for [filling] in fillings]
    return Answering([], choices, sum(len(assistant.tokenizer.encode(p + suffix)) for p in prompts))


def _requests(
    service: Service, body: Sampling, ids: list[int], max_tokens: int | None, **more: Any
) -> list[EngineRequest]:
    """`n` requests for one prompt; each has a seed of its own, so that they differ and can be repeated."""
    room = service.assistant.context - len(ids) - len(more.get("continues") or b"")
    if room < 1:
        raise ValueError(
            f"{'messages' if isinstance(body, ChatRequest) else 'prompt'}: {len(ids)} tokens do not fit the context of {room + len(ids)}; shorten it"
        )
    given = service.assistant.sampling(**{name: getattr(body, name) for name in _SAME})
    if body.logit_bias:
        given["logit_bias"] = {int(token): bias for token, bias in body.logit_bias.items()}
    params = {**given, **more, "max_tokens": min(max_tokens or room, room)}
    seeds = [None if body.seed is None else (body.seed + number) % (1 << 63) for number in range(body.n or 1)]
    return [(ids, SamplingParams(**params, seed=seed)) for seed in seeds]


_SAME = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "stop",
    "ignore_eos",
)


async def _respond(request: Request, body: Sampling, kind: str, answering: Answering) -> Response:
    state = request.app.state
    service: Service = state.service
    version = service.pick(body.model)
    head = {
        "id": f"{'chatcmpl' if kind == 'chat.completion' else 'cmpl'}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": version.adapter or state.model,
        "system_fingerprint": version.fingerprint,
    }
    if body.stream:
        if kind == "chat.completion":
            head["object"] = "chat.completion.chunk"
        return EventStream(
            _chunks(service, head, answering, bool(body.stream_options and body.stream_options.include_usage), version)
        )
    await unless_gone(request.receive, collect(service, answering, version))
    return JSONResponse(
        {
            **head,
            "choices": [choice.whole(index) for index, choice in enumerate(answering.choices)],
            "usage": answering.usage(),
        }
    )


async def collect(service: Service, answering: Answering, version: Version | None = None) -> None:
    async for batch in service.answer(answering.requests, version):
        for _ in answering.feed(batch):
            pass


async def _chunks(
    service: Service, head: dict[str, Any], answering: Answering, with_usage: bool, version: Version
) -> AsyncGenerator[bytes, None]:
    """An answer as server-sent events; those that lie ready are sent in one piece."""
    extra = {"usage": None} if with_usage else {}
    opened: set[int] = set()
    for index, choice in enumerate(answering.choices):
        if choice.reason:  # known before the engine says anything
            parts = [choice.chunk(index, {"text": choice.text}, False), choice.chunk(index, {}, True)]
            yield b"".join(event({**head, "choices": [part], **extra}) for part in parts)
    sent = time.monotonic()
    async with aclosing(service.answer(answering.requests, version)) as batches:
        async for batch in batches:
            parts = []
            for index, deltas in answering.feed(batch):
                choice = answering.choices[index]
                deltas = deltas if index in opened else choice.opening() + deltas
                opened.add(index)
                parts += [choice.chunk(index, delta, False) for delta in deltas]
                if choice.reason:
                    parts.append(choice.chunk(index, {}, True))
            if parts or time.monotonic() - sent > _QUIET:
                yield b"".join(event({**head, "choices": [part], **extra}) for part in parts) or b": a call grows\n\n"
                sent = time.monotonic()
    yield (event({**head, "choices": [], "usage": answering.usage()}) if with_usage else b"") + DONE
