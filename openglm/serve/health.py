"""What those who operate a server ask: `/health` and `/metrics`."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

router = APIRouter()


@router.get("/health", tags=["Operation"])
async def health(request: Request) -> Response:
    healthy = request.app.state.service.healthy
    return JSONResponse({"status": "ok" if healthy else "ending"}, 200 if healthy else 503)


@router.get("/metrics", tags=["Operation"], response_class=Response)
async def metrics(request: Request) -> Response:
    return Response(request.app.state.service.metrics.text(), media_type="text/plain; version=0.0.4")
