"""Errors of the client. All are of the `openai` package's tree, so code and retries for that package work with them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import openai

if TYPE_CHECKING:
    import httpx2


class NoServerError(openai.APIConnectionError):
    """Nobody answers at the base URL."""

    def __init__(self, request: httpx2.Request) -> None:
        where = f"{request.url.scheme}://{request.url.netloc.decode()}"
        how = "start one with `openm3 serve`, or set" if request.url.host in _LOCAL else "check the address, or set"
        super().__init__(message=f"no server answers at {where}; {how} MINIMAX_BASE_URL or base_url", request=request)


class SlowServerError(openai.APITimeoutError):
    """The server took longer than `timeout`."""

    def __init__(self, request: httpx2.Request) -> None:
        super().__init__(request)
        self.message = f"{request.url} didn't answer in time; give `timeout` more seconds, or stream the answer"
        self.args = (self.message,)


class WrongKeyError(openai.AuthenticationError):
    """The server doesn't take the key."""


class QuotaError(openai.RateLimitError):
    """A quota or rate limit is used up.

    Attributes:
        resets_at: when it is full again, in UTC; None where the server doesn't say.
    """

    resets_at: datetime | None


class StreamCutError(openai.APIConnectionError):
    """A stream ended before the answer did.

    Attributes:
        partial: the text that had arrived.
    """

    def __init__(self, partial: str, request: httpx2.Request, request_id: str | None) -> None:
        super().__init__(
            message=f"the stream was cut after {len(partial):,} characters (request {request_id}); "
            "`partial` has them; ask again, or with fewer tokens",
            request=request,
        )
        self.partial, self.request_id = partial, request_id


class NotAnApiError(openai.APIResponseValidationError):
    """Something answered that doesn't speak this API: a proxy's page, another service, an older server."""

    def __init__(self, response: httpx2.Response, what: str) -> None:
        super().__init__(
            response,
            body=None,
            message=f"{response.request.url} answered with {what}; check base_url (it ends in /v1) and proxies "
            f"(request {response.headers.get('x-request-id')})",
        )


class ContextOverflowError(openai.OpenAIError):
    """A text is longer than the model's window.

    Attributes:
        tokens, window: of the text with its instructions and answer, and of the model.
    """

    def __init__(self, tokens: int, window: int, *, is_exact: bool) -> None:
        about = "" if is_exact else "about "
        super().__init__(
            f"{about}{tokens:,} tokens don't fit into the window of {window:,}; send less, "
            "or pass on_overflow='chunk' to have the text read in parts"
        )
        self.tokens, self.window = tokens, window


_LOCAL = ("127.0.0.1", "localhost", "::1")


def of_status(error: openai.APIStatusError) -> openai.APIStatusError:
    """The same error as one of ours, where ours tells more."""
    response, message = error.response, error.message
    if response.headers.get("content-type", "").startswith("text/html"):
        message = f"{response.request.url} answered {response.status_code} with a web page; is a proxy in between?"
        return type(error)(message, response=response, body=None)
    if isinstance(error, openai.AuthenticationError):
        hint = "; pass api_key or set MINIMAX_API_KEY to a key of this server (`openm3 keys create`)"
        return WrongKeyError(message + hint, response=response, body=error.body)
    if isinstance(error, openai.RateLimitError):
        resets_at = _resets_at(response.headers)
        hint = "" if resets_at is None else f"; it resets at {resets_at:%Y-%m-%d %H:%M:%S} UTC"
        limited = QuotaError(message + hint, response=response, body=error.body)
        limited.resets_at = resets_at
        return limited
    if isinstance(error, openai.NotFoundError) and not isinstance(error.body, dict):
        hint = f"; {response.request.url} is no endpoint of this server, which may be older, or base_url lacks /v1"
        return openai.NotFoundError(message + hint, response=response, body=error.body)
    return error


def _resets_at(headers: httpx2.Headers) -> datetime | None:
    try:
        return datetime.fromtimestamp(datetime.now(UTC).timestamp() + float(headers["retry-after"]), UTC)
    except (KeyError, ValueError, OverflowError):
        return None
