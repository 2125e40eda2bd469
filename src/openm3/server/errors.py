"""Every way a request can fail, in the shapes that the OpenAI and the Anthropic API give it, with MiniMax's codes.

No other module knows all three.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from minimax_code.errors import InputError as CodeInputError
from minimax_code.errors import ModelError, SandboxError
from openm3.errors import DatabaseError, InputError, OpenM3Error, WindowError
from openm3.server.schema.request import UNKNOWN_FIELD, UNSUPPORTED_FIELD
from openm3.server.schema.response import AnthropicDetail, AnthropicError, BaseResp, ErrorDetail, ErrorResponse

_CLIENT_CLOSED_REQUEST = 499  # nginx's code; nobody is left to read it

Shape = Literal["openai", "anthropic"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Kind:
    """How the APIs name what a status means.

    Attributes:
        openai, anthropic: the error's type.
        base_resp: MiniMax's code.
    """

    openai: str
    anthropic: str
    base_resp: int


_WRONG = _Kind("invalid_request_error", "invalid_request_error", 2013)
_KINDS = {
    401: _Kind("invalid_request_error", "authentication_error", 1004),
    402: _Kind("insufficient_quota", "billing_error", 1008),
    403: _Kind("invalid_request_error", "permission_error", 1004),
    404: _Kind("invalid_request_error", "not_found_error", 2013),
    408: _Kind("invalid_request_error", "timeout_error", 1001),
    413: _Kind("invalid_request_error", "request_too_large", 2013),
    429: _Kind("rate_limit_error", "rate_limit_error", 1002),
    500: _Kind("server_error", "api_error", 1013),
    503: _Kind("server_error", "overloaded_error", 1013),
    504: _Kind("server_error", "timeout_error", 1001),
    529: _Kind("server_error", "overloaded_error", 1002),
}
# What a code says more exactly than its status.
_BASE_RESP = {"context_length_exceeded": 1039, "insufficient_quota": 1008}


def shape_of(path: str) -> Shape:
    """The shape of errors under a path."""
    return "anthropic" if path.startswith(("/anthropic/", "/v1/messages")) else "openai"


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

    def body(self, shape: Shape, request_id: str) -> bytes:
        """The JSON of the response, or of the error event of a stream that has begun."""
        kind = _KINDS.get(self.status_code, _WRONG if self.status_code < 500 else _KINDS[500])
        told = BaseResp(status_code=_BASE_RESP.get(self.code, kind.base_resp), status_msg=self.detail)
        if shape == "anthropic":
            wrong = AnthropicDetail(type=kind.anthropic, message=self.detail)
            return AnthropicError(error=wrong, request_id=request_id, base_resp=told).model_dump_json().encode()
        detail = ErrorDetail(message=self.detail, type=kind.openai, param=self.param, code=self.code)
        return ErrorResponse(error=detail, base_resp=told).model_dump_json().encode()

    def response(self, shape: Shape, request_id: str) -> Response:
        """The whole response, when nothing has been sent yet."""
        return Response(self.body(shape, request_id), self.status_code, self.headers, media_type="application/json")


def timed_out(limit_s: float) -> ApiError:
    """What a client is told whose answer isn't there in time."""
    return ApiError(504, f"the answer took longer than {limit_s:g} seconds", code="timeout")


def as_api_error(error: Exception, request_id: str) -> ApiError:
    """The failure to report for an exception; what nobody foresaw is logged and told without its text."""
    match error:
        case ApiError():
            return error
        case WindowError():
            return ApiError(400, str(error), code="context_length_exceeded", param=error.field)
        case InputError() | CodeInputError():
            return ApiError(400, str(error), code="invalid_value", param=error.field)
        case DatabaseError():
            _log.error("%s failed: %s", request_id, error)
            message = f"the server can't reach its database of keys; its log has it as {request_id}"
            return ApiError(503, message, code="database_unavailable")
        case ModelError(__cause__=Exception() as cause):  # from `ServedModel`
            return as_api_error(cause, request_id)
        case SandboxError():
            return ApiError(503, str(error), code="no_sandbox")
        case OpenM3Error():
            return ApiError(400, str(error), code="invalid_request")
        case RequestValidationError():
            return _from_validation(error)
        case HTTPException(status_code=400, __cause__=ValueError() as cause):  # from `JsonRoute`
            return ApiError(400, f"the body is not valid JSON: {cause}", code="invalid_json")
        case HTTPException():
            code = HTTPStatus(error.status_code).name.lower()
            return ApiError(error.status_code, error.detail, code=code, headers=error.headers)
        case _:
            _log.error("%s failed", request_id, exc_info=error, extra={"fields": {"request_id": request_id}})
            message = f"internal error; the server's log has it as {request_id}"
            return ApiError(500, message, code="internal_error")


def install(app: FastAPI) -> None:
    """Makes the app answer every foreseen error; the unforeseen ones reach `RequestBoundary`."""

    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, ClientDisconnect):
            return Response(status_code=_CLIENT_CLOSED_REQUEST)
        request_id = request.state.request_id
        return as_api_error(error, request_id).response(shape_of(request.url.path), request_id)

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
    # What is in the path or the query isn't in the body.
    param = _path(location, failure.body) if error["loc"][0] == "body" else str(location[-1])
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
