"""Another version of the model beside the one that answers: on trial with a share of requests, then kept or dropped.

Only the admin key opens these routes (openglm/serve/guard.py). Answers say which version they come from by their
`system_fingerprint`; feedback that repeats it is kept under it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field

from openglm.assistant import Assistant
from openglm.serve.errors import ApiError
from openglm.serve.schemas import Body
from openglm.serve.service import Service, Version

router = APIRouter(prefix="/v1/versions", tags=["Versions"])
Load = Callable[[str], Assistant]


class Trial(Body):
    """A version to try, or a new share for the one on trial."""

    model: Annotated[str, Field(min_length=1, max_length=4096)]
    share: Annotated[float, Field(ge=0, le=1)] = 0.1


class Verdict(Body):
    """How a trial ends: with the version on trial, or with the one before."""

    keep: bool


@router.get("")
async def show(request: Request) -> dict[str, Any]:
    """The versions that answer, the one on trial last."""
    service: Service = request.app.state.service
    trial = service.versions[1:]
    shares = [1 - trial[0].share, trial[0].share] if trial else [1.0]
    return {
        "data": [
            {"model": one.name, "system_fingerprint": one.fingerprint, "requests": one.requests, "share": share}
            for one, share in zip(service.versions, shares, strict=True)
        ]
    }


@router.post("")
async def try_out(request: Request, body: Trial) -> dict[str, Any]:
    """Load a folder while answers go on, and give it its share of the requests. A new share for the version that is on
    trial already takes effect at once."""
    state = request.app.state
    service: Service = state.service
    trial = service.versions[-1]
    if len(service.versions) > 1 and trial.name == body.model:
        trial.share = body.share
    else:
        assistant = await asyncio.to_thread(state.load, str(Path(body.model)))
        service.try_out(Version(assistant, body.model, body.share))
    return await show(request)


@router.post("/verdict")
async def end(request: Request, body: Verdict) -> dict[str, Any]:
    """End the trial. Answers that are on their way are finished by the version that began them."""
    service: Service = request.app.state.service
    if len(service.versions) == 1:
        raise ApiError(409, "no version is on trial")
    service.keep(body.keep)
    return await show(request)
