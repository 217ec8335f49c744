"""From a request to what the engine is asked: prompts, tools, sampling, and the choice that each answer becomes. Tools
and blanks are in the words of the family, see text/streaming.py and Assistant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import Request

from openglm.assistant import Assistant, EngineRequest, Result, Rounds, SamplingParams, Thinking
from openglm.config import require
from openglm.serve.choices import Answering, CallChoice, ChatChoice, TextChoice, TurnChoice
from openglm.serve.schemas import ChatRequest, CompletionRequest, Json, Message, Sampling, TemplateOptions, ToolChoice
from openglm.serve.service import Service
from openglm.serve.sse import in_thread, prepare
from openglm.text.replies import arguments_of
from openglm.text.steps import no_call

Prompt = str | list[int]
_MOST = 2048  # answers of one request
_LONGEST_NAME = 128  # tokens of a tool's name
_SAME = (
    *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty"),
    *("stop", "ignore_eos"),
)


async def ask_chat(request: Request, body: ChatRequest) -> Answering:
    """The requests and choices of a chat. An answer that comes last is gone on with, unless another shape is asked for:
    then it counts as said."""
    service: Service = request.app.state.service
    if body.web:
        return await _in_turns(request, service, body, _thinking(body, closed=False))
    tools, forced = await _tools(request, service, body)
    schema, assistant = _schema(body), service.assistant
    begun = "" if forced or schema is not None else _begun(body)
    thinking = _thinking(body, closed=bool(forced or begun) or schema is not None)
    if body.tools is None and schema is None and not begun and (assistant.tools is not None or assistant.reflect):
        return await _in_turns(request, service, body, thinking)
    ids = await prepare(request, _prompt, service, body, tools, thinking, bool(begun))
    opening = ""
    if forced:
        function = next(tool.function for tool in body.tools or () if tool.function.name == forced)
        start, opening = assistant.call_opening(forced)
        ids += start
        schema = None if opening else {"type": "object"} if function.parameters is None else function.parameters
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    requests = _requests(service, body, ids, logprobs=logprobs, schema=schema, continues=b"" if begun else None)
    if forced and not opening:
        return Answering(requests, [CallChoice(assistant, forced) for _ in requests], len(ids))
    names = [tool["function"]["name"] for tool in tools]
    readers = [assistant.reader(tools, thinking) for _ in requests]
    for reader in filter(None, readers):
        reader.feed(opening or begun.rstrip())
    most = 1 if body.parallel_tool_calls is False else None
    choices = [ChatChoice(assistant, names, reader, most, bool(begun)) for reader in readers]
    return Answering(requests, choices, len(ids))


async def _in_turns(request: Request, service: Service, body: ChatRequest, thinking: Thinking) -> Answering:
    """A chat whose tools are run here, or whose sources are found here."""
    web = bool(body.web)
    own = "answers are checked (--reflect)" if service.assistant.tools is None else "the server runs tools"
    own += "; send tools: [] to do without"
    why = "not where " + ("answers are from sources; leave web out" if web else own)
    require(body.n in (None, 1), "n", body.n, why)
    require(not body.logprobs, "logprobs", True, why)
    require(not (web and body.tools), "tools", len(body.tools or ()), why)
    require(not web or _schema(body) is None, "response_format", "a schema", why)
    [(_, params)] = _requests(service, body, [])
    start = partial(service.assistant.turn, plain(body.messages), params, thinking=thinking, cut=False, web=web)
    # Sources are searched, and may be fetched: always in a thread.
    turn = await (in_thread(lambda stop: start(stop=stop)) if web else prepare(request, start))
    return Answering([], [TurnChoice(service.assistant, turn)], len(turn.request[0]))


def _begun(body: ChatRequest) -> str:
    """What the client wrote of the answer."""
    last = _plain(body.messages[-1])
    return last["content"] if last["role"] == "assistant" and "tool_calls" not in last else ""


def _thinking(body: ChatRequest, closed: bool) -> Thinking:
    """closed: the answer's shape is given, so there is no room for thoughts."""
    options = body.chat_template_kwargs or TemplateOptions()
    effort = options.reasoning_effort or body.reasoning_effort
    enabled = options.enable_thinking
    if enabled is None and (effort == "none" or body.thinking):
        enabled = effort != "none" and (body.thinking is None or body.thinking.type != "disabled")
    return Thinking(enabled, options.clear_thinking, effort, closed)


async def _tools(request: Request, service: Service, body: ChatRequest) -> tuple[list[Json], str | None]:
    """The tools in play, and the one that must be called, where the request says so."""
    choice = body.tool_choice
    if not body.tools or choice == "none":
        require(choice in (None, "none", "auto"), "tool_choice", choice, "there are no tools to choose from")
        return [], None
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools]
    if choice in (None, "auto"):
        return tools, None
    names = list(dict.fromkeys(tool.function.name for tool in body.tools))
    if not isinstance(choice, ToolChoice):
        return tools, await _choose(request, service, body, tools, names)
    chosen = choice.function.name
    require(chosen in names, "tool_choice.function.name", chosen, "is not among the tools")
    return tools, chosen


async def _choose(request: Request, service: Service, body: ChatRequest, tools: list[Json], names: list[str]) -> str:
    """The tool whose name the model would write if it had to write one; its arguments are a request of their own, which
    finds this prompt in the cache.
    """
    if len(names) == 1:
        return names[0]
    ids = await prepare(request, _prompt, service, body, tools, _thinking(body, closed=True))
    ids += service.assistant.call_opening()[0]
    most = min(_room(service, ids, "messages"), _LONGEST_NAME)
    params = SamplingParams(max_tokens=most, regex="|".join(name.replace(".", r"\.") for name in names))
    [result] = await service.settle(_answered([(ids, params)]), service.pick(body.model))
    return result.text


def _prompt(
    service: Service, body: ChatRequest, tools: Sequence[Json], thinking: Thinking, goes_on: bool = False
) -> list[int]:
    messages = plain(body.messages)
    if messages[-1]["role"] == "assistant" and not goes_on:
        messages.append({"role": "user", "content": ""})
    return service.assistant.chat_prompt(messages, tools or None, thinking=thinking)[0]


def _schema(body: ChatRequest) -> Json | None:
    wanted = body.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "object"}
    schema = wanted.json_schema and wanted.json_schema.json_schema
    require(schema is not None, "response_format.json_schema", None, "must hold a schema")
    return schema


def plain(messages: Sequence[Message]) -> list[Json]:
    """Messages as the renderer takes them."""
    for index, message in enumerate(messages):
        given = message.role == "assistant" or "content" in message.model_fields_set
        require(given, f"messages[{index}].content", None, "must be text")
    return [_plain(message) for message in messages]


def _plain(message: Message) -> Json:
    """A call whose arguments are no JSON object, as where max_tokens cut them, is text, as for who reads replies."""
    content = message.content or ""
    text = content if isinstance(content, str) else "".join(part.text for part in content)
    calls = []
    for call in message.tool_calls or ():
        if arguments_of(call.function.arguments) is None:
            text = "\n".join([*filter(None, [text]), call.function.name, call.function.arguments])
        else:
            calls.append(call.model_dump())
    role = "system" if message.role == "developer" else message.role
    more = message.model_dump(exclude_none=True, exclude={"role", "content", "tool_calls"})
    return {**more, "role": role, "content": text, **({"tool_calls": calls} if calls else {})}


async def ask_completion(request: Request, body: CompletionRequest, room: int | None = None) -> Answering:
    """The requests and choices of plain texts to go on with, or of blanks where there is a suffix. room: so many tokens
    of what lies around a blank are read at most."""
    service: Service = request.app.state.service
    single = isinstance(body.prompt, str) or isinstance(body.prompt[0], int)
    prompts: Any = [body.prompt] if single else body.prompt
    require(len(prompts) * (body.n or 1) <= _MOST, "prompt", f"{len(prompts)} of them", f"at most {_MOST} answers")
    if body.candidates > 1:
        return await _best(service, body, prompts, room)
    if body.echo:
        return await _echo(request, service, body, prompts)
    return await prepare(request, _completion, service, body, prompts, room)


def _completion(service: Service, body: CompletionRequest, prompts: Sequence[Prompt], room: int | None) -> Answering:
    assistant = service.assistant
    blank = bool(body.suffix) or room is not None
    requests: list[EngineRequest] = []
    for prompt in prompts:
        continues: bytes | None = None
        if isinstance(prompt, str):
            ids, continues = assistant.prompt(prompt, body.suffix if blank else None, room)
        else:
            require(not blank, "suffix", body.suffix, "needs a prompt that is text")
            ids = prompt if assistant.tokenizer.tokens.sop in prompt else [*assistant.filler.start, *prompt]
        stops = assistant.blank_ends if blank else ()
        requests += _requests(service, body, ids, logprobs=body.logprobs, stop_ids=stops, continues=continues)
    choices = [TextChoice(assistant, params.continues) for _, params in requests]
    return Answering(requests, choices, sum(len(ids) for ids, _ in requests[:: body.n or 1]))


async def _echo(request: Request, service: Service, body: CompletionRequest, prompts: Sequence[Prompt]) -> Answering:
    """Prompts in front of their answers, with the log-probability of each of their tokens: a text is read from left to
    right and goes on where it ends."""
    require(not body.suffix, "echo", True, "a blank has no end to go on from; leave echo or suffix out")
    assistant = service.assistant
    start = assistant.filler.start
    texts = await prepare(request, lambda: [_cut(assistant, prompt) for prompt in prompts])
    require(all(texts), "prompt", "", "has no token to echo")
    for ids in texts:
        _room(service, [*start, *ids], "prompt")
    scores: list[Result | None] = [None] * len(texts)
    if body.logprobs is not None:
        params = SamplingParams(logprobs=body.logprobs, ignore_eos=True)
        asked: list[EngineRequest] = [(start, replace(params, forced=tuple(ids))) for ids in texts]
        scores = list(await service.settle(_answered(asked), service.pick(body.model)))
    requests, choices = [], []
    for ids, score in zip(texts, scores, strict=True):
        if body.most != 0:
            requests += _requests(service, body, [*start, *ids], logprobs=body.logprobs)
        text = assistant.tokenizer.decode(ids)
        choices += [TextChoice.echo(assistant, text, score, body.most == 0) for _ in range(body.n or 1)]
    return Answering(requests, choices, sum(len(start) + len(ids) for ids in texts))


def _cut(assistant: Assistant, prompt: Prompt) -> list[int]:
    if not isinstance(prompt, str):
        start = assistant.filler.start
        return prompt[len(start) :] if prompt[: len(start)] == start else prompt
    assistant.require_short("prompt", len(prompt))
    return assistant.tokenizer.encode(prompt)


def _answered(requests: list[EngineRequest]) -> Rounds[list[Result]]:
    return (yield requests)


async def _best(service: Service, body: CompletionRequest, prompts: Sequence[Prompt], room: int | None) -> Answering:
    """Blanks whose fillings are the best of several candidates."""
    assistant, suffix = service.assistant, body.suffix or ""
    texts = all(isinstance(prompt, str) for prompt in prompts)
    for option, sound, why in (
        ("suffix", suffix or room is not None, "candidates fill the blank before a suffix; leave them out without one"),
        ("prompt", texts, "must be text where candidates are asked for"),
        ("n", body.n in (None, 1), "one of the candidates is the answer; leave n or candidates out"),
        ("logprobs", body.logprobs is None, "are of one answer alone; leave logprobs or candidates out"),
    ):
        require(bool(sound), option, getattr(body, option), why)
    params = SamplingParams(
        max_tokens=body.most if body.most >= 0 else assistant.context // 2,
        temperature=assistant.sampling(temperature=body.temperature)["temperature"],
        seed=None if body.seed is None else body.seed % (1 << 63),
    )
    pieces = [[str(prompt), suffix] for prompt in prompts]
    fillings = await service.settle(assistant.best_of(pieces, body.candidates, params), service.pick(body.model))
    choices = [TextChoice.done(assistant, filling.text) for [filling] in fillings]
    return Answering([], choices, sum(len(assistant.tokenizer.encode("".join(both))) for both in pieces))


def _room(service: Service, ids: Sequence[int], option: str, spare: int = 0) -> int:
    """Tokens that are left for an answer. Raises ValueError where there are none."""
    context = service.assistant.context
    room = context - len(ids) - spare
    if room < 1:
        raise ValueError(f"{option}: {len(ids)} tokens do not fit the context of {context}; shorten it")
    return room


def _requests(service: Service, body: Sampling, ids: list[int], **more: Any) -> list[EngineRequest]:
    """`n` requests for one prompt; each has a seed of its own, so that they differ and can be repeated."""
    option = "messages" if isinstance(body, ChatRequest) else "prompt"
    room = _room(service, ids, option, spare=len(more.get("continues") or b""))
    given = service.assistant.sampling(**{name: getattr(body, name) for name in _SAME})
    wanted = {int(token): bias for token, bias in (body.logit_bias or {}).items()}
    given["logit_bias"] = no_call(service.assistant.tokenizer.special) | wanted
    most = room if body.most == -1 else min(body.most, room)
    seeds = [None if body.seed is None else (body.seed + number) % (1 << 63) for number in range(body.n or 1)]
    return [(ids, SamplingParams(**given, **more, max_tokens=most, seed=seed)) for seed in seeds]
