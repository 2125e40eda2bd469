"""Requests without HTTP: the body of one in, the status and body of its response out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from openm3.errors import InputError, OpenM3Error
from openm3.server.answer import Answer, whole
from openm3.server.callers import ANONYMOUS, Caller
from openm3.server.errors import ApiError, as_api_error
from openm3.server.routes import chat, completions
from openm3.server.schema.chat import ChatRequest
from openm3.server.schema.completions import CompletionRequest
from openm3.server.schema.request import GenerationRequest
from openm3.server.wording import Wording

if TYPE_CHECKING:
    from openm3.server.backend import Backend

Begin = Callable[["Backend", Any], Awaitable[tuple[Answer, Wording]]]

ENDPOINTS: dict[str, tuple[type[GenerationRequest], Begin]] = {
    "/v1/chat/completions": (ChatRequest, chat.begin),
    "/v1/completions": (CompletionRequest, completions.begin),
}


async def respond(
    service: Backend, url: str, body: Any, request_id: str, caller: Caller = ANONYMOUS
) -> tuple[int, str]:
    """What the server would answer to a body that is posted to one of `ENDPOINTS`: the status and the JSON.

    Raises:
        ApiError: the service stopped.
        RuntimeError: the engine failed.
    """
    schema, begin = ENDPOINTS[url]

    async def answer() -> str:
        asked = schema.model_validate(body)
        if asked.stream:
            raise InputError("stream", "nobody is there to read a stream; leave it out")
        return (await whole(*await begin(service, asked), caller)).model_dump_json()

    return await told(answer(), body, request_id)


async def told(answer: Awaitable[str], body: Any, request_id: str) -> tuple[int, str]:
    """The status and JSON of the response that an answer to `body` is, or of what is wrong with the request.

    Raises:
        ApiError: the fault is the server's.
    """
    try:
        return 200, await answer
    except ValidationError as error:
        problems = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        failure = as_api_error(RequestValidationError(problems, body=body), request_id)
    except (OpenM3Error, ApiError) as error:
        failure = as_api_error(error, request_id)
        if failure.status_code >= 500:
            raise
    return failure.status_code, failure.body("openai", request_id).decode()
