"""Every way a request can fail, in the shape that the OpenAI API gives it. No other module knows both."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from openm3.errors import InputError, OpenM3Error
from openm3.server.schema.request import UNKNOWN_FIELD, UNSUPPORTED_FIELD
from openm3.server.schema.response import ErrorDetail, ErrorResponse

_CLIENT_CLOSED_REQUEST = 499  # nginx's code; nobody is left to read it

_log = logging.getLogger(__name__)


class ApiError(HTTPException):
    """A failure as clients see it."""

    def __init__(
        self,
        status_code: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status_code, message, headers)
        self.code = code
        self.param = param

    def body(self) -> bytes:
        """The JSON of the response, or of the error event of a stream that has begun."""
        kind = "invalid_request_error" if self.status_code < 500 else "server_error"
        detail = ErrorDetail(message=self.detail, type=kind, param=self.param, code=self.code)
        return ErrorResponse(error=detail).model_dump_json().encode()

    def response(self) -> Response:
        """The whole response, when nothing has been sent yet."""
        return Response(self.body(), self.status_code, self.headers, media_type="application/json")


def as_api_error(error: Exception, request_id: str) -> ApiError:
    """The failure to report for an exception; what nobody foresaw is logged and told without its text."""
    match error:
        case ApiError():
            return error
        case InputError():
            return ApiError(400, str(error), code="invalid_value", param=error.field)
        case OpenM3Error():
            return ApiError(400, str(error), code="invalid_request")
        case RequestValidationError():
            return _from_validation(error)
        case HTTPException(status_code=400, __cause__=ValueError() as cause):  # from `JsonRoute`
            return ApiError(400, f"the body is not valid JSON: {cause}", code="invalid_json")
        case HTTPException():
            status = HTTPStatus(error.status_code)
            return ApiError(status, error.detail, code=status.name.lower(), headers=error.headers)
        case _:
            _log.error("%s failed", request_id, exc_info=error)
            message = f"internal error; the server's log has it as {request_id}"
            return ApiError(500, message, code="internal_error")


def install(app: FastAPI) -> None:
    """Makes the app answer every foreseen error; the unforeseen ones reach `RequestBoundary`."""

    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, ClientDisconnect):
            return Response(status_code=_CLIENT_CLOSED_REQUEST)
        return as_api_error(error, request.state.request_id).response()

    for kind in (OpenM3Error, RequestValidationError, HTTPException, ClientDisconnect):
        app.add_exception_handler(kind, answer)


_CODES = {
    UNSUPPORTED_FIELD: UNSUPPORTED_FIELD,
    UNKNOWN_FIELD: UNKNOWN_FIELD,
    "missing": "missing_field",
}


def _from_validation(failure: RequestValidationError) -> ApiError:
    # An unsupported kind of object brings unknown and missing fields with it; the kind is what to tell.
    order = {kind: rank for rank, kind in enumerate(_CODES)}
    error = min(failure.errors(), key=lambda error: order.get(error["type"], len(order)))
    location = error["loc"][1:]  # without "body"
    if name := error.get("ctx", {}).get("field"):  # of an error that the whole object raised
        location = (*location, name)
    if not location:
        return ApiError(400, "the body must be a JSON object, sent as application/json", code="invalid_body")
    param = _path(location, failure.body)
    message = error["msg"][0].lower() + error["msg"][1:]
    return ApiError(400, f"{param}: {message}", code=_CODES.get(error["type"], "invalid_value"), param=param)


def _path(location: Sequence[str | int], body: Any) -> str:
    """`messages[0].content`: where an error is, without the tags of unions, which the body doesn't hold."""
    path = ""
    node = body
    for place, key in enumerate(location, start=1):
        if isinstance(node, list) and isinstance(key, int):
            path, node = f"{path}[{key}]", node[key]
        elif isinstance(node, dict) and (key in node or place == len(location)):
            path, node = f"{path}.{key}", node.get(key)
    return path.removeprefix(".")
