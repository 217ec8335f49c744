"""Errors in OpenAI's form, whatever raised them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from openglm.config import shorten
from openglm.runtime import say
from openglm.serve.service import Broken, Busy

_OPTION = re.compile(r"[\w.\[\]]+(?= = |: )")
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An HTTP status with OpenAI's error object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        message = shorten(message, 2000)  # it may quote what a client sent
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers

    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"type": "error", "error": error}  # the type outside is Anthropic's

    def response(self) -> Response:
        text = json.dumps(self.body(), ensure_ascii=True)  # whatever a message quotes
        return Response(text, self.status, self.headers, "application/json")


def as_api_error(error: Exception) -> ApiError:
    """What a client is told of an error."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Busy):
        return ApiError(
            503 if error.ending else 429, str(error), code="busy", headers={"Retry-After": str(error.seconds)}
        )
    if isinstance(error, RequestValidationError | ValidationError):
        return of_validation(error.errors())
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail), headers=error.headers)
    if isinstance(error, ValueError):
        option = _OPTION.match(str(error))
        return ApiError(
            400,
            str(error),
            param=option and option[0],
            code="context_length_exceeded" if "context" in str(error) else None,
        )
    if not isinstance(error, Broken):
        say(f"glm serve: {type(error).__name__}: {error}")
    return ApiError(500, str(error) if isinstance(error, Broken) else "the server failed; its log says why")


def install(app: FastAPI) -> None:
    """All errors of an application take this form."""

    async def answer(_: Request, error: Exception) -> Response:
        return as_api_error(error).response()

    for kind in (ApiError, Busy, Broken, ValueError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)


def of_validation(errors: Sequence[Any]) -> ApiError:
    """The complaint that got furthest into the request, for of a union's branches that is the one that was meant, with
    the field written as in the request's JSON: messages[0].role. Its path names branches of unions too: those are left
    out."""
    first = max(errors, key=lambda error: (len(error["loc"]), [part for part in error["loc"] if isinstance(part, int)]))
    field = ""
    for part in first["loc"]:
        if isinstance(part, int):
            field += f"[{part}]"
        elif part.islower() and part.isidentifier() and part not in ("body", "str", "int"):
            field += f".{part}" if field else part
    return ApiError(400, f"{field or 'body'}: {first['msg']}", param=field or None, code="invalid_value")
