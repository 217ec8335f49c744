"""The one way from a request to its answer that all interfaces share: what a model is asked (asking.py) becomes deltas,
and a `Form` puts them into the words of an interface, streamed or whole."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

from fastapi import Request
from starlette.responses import JSONResponse, Response

from openglm.serve.choices import Answering
from openglm.serve.errors import ApiError
from openglm.serve.schemas import Json
from openglm.serve.service import Version
from openglm.serve.sse import EventStream, unless_gone

Ask = Callable[[], Awaitable[Answering]]
"""What makes an answer's requests; it may have to ask the engine itself"""
Parts = Sequence[tuple[int, Json | None]]
"""The index of a choice and what is added to it; None: its end"""


class Form:
    """An interface's words for one answer: `begin`, `grow` and `end` write a stream, `whole` the same at once."""

    stream: type[EventStream] = EventStream

    def begin(self, answering: Answering) -> bytes:
        return b""

    def grow(self, answering: Answering, parts: Parts) -> bytes:
        raise NotImplementedError

    def end(self, answering: Answering) -> bytes:
        return b""

    def whole(self, answering: Answering) -> Json:
        raise NotImplementedError


def check_model(request: Request, name: str | None = None) -> Version:
    """The version that answers a request for this model. Raises ApiError where it is not here."""
    state = request.app.state
    known = [state.model, *state.aliases, *state.service.adapters]
    if name not in (None, "", *known):
        use = " or ".join(map(repr, known))
        raise ApiError(404, f"model: {name!r} is not served here; use {use}", param="model", code="model_not_found")
    return state.service.pick(name)


def public_name(request: Request, version: Version) -> str:
    """A version's name in answers: one on trial goes by that of the model."""
    return version.adapter or request.app.state.model


async def respond(request: Request, ask: Ask, version: Version, form: Form, stream: bool | None) -> Response:
    if stream:
        return form.stream(_pieces(request, ask, version, form))
    return JSONResponse(form.whole(await collect(request, ask, version)))


async def _pieces(request: Request, ask: Ask, version: Version, form: Form) -> AsyncGenerator[bytes, None]:
    begun = False
    async with aclosing(deltas(request, ask, version)) as found:
        async for answering, parts in found:
            yield form.grow(answering, parts) if begun else form.begin(answering) + form.grow(answering, parts)
            begun = True
    yield form.end(answering)


async def collect(request: Request, ask: Ask, version: Version) -> Answering:
    """The whole answer; nothing is computed for a client that went away."""

    async def work() -> Answering:
        async for answering, _ in deltas(request, ask, version):  # noqa: B007
            pass
        return answering

    return await unless_gone(request.receive, work())


async def deltas(request: Request, ask: Ask, version: Version) -> AsyncGenerator[tuple[Answering, Parts], None]:
    """What is added to which choice, piece by piece. What lies ready comes in one list."""
    answering = await ask()
    done = [(index, choice) for index, choice in enumerate(answering.choices) if choice.reason]
    if done:  # before the engine says anything
        yield answering, [(index, delta) for index, choice in done for delta in choice.feed([])]
    async with aclosing(answering.batches(request.app.state.service, version)) as batches:
        async for batch in batches:
            if parts := answering.feed(batch):
                yield answering, parts
