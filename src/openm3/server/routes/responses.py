"""`POST /v1/responses`, and `GET` and `DELETE /v1/responses/{id}`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request, Response

from openm3.server.answer import respond
from openm3.server.body import JsonRoute
from openm3.server.callers import CurrentCaller
from openm3.server.conversation import Talk
from openm3.server.errors import ApiError
from openm3.server.from_responses import as_chat
from openm3.server.response_store import ResponseStore
from openm3.server.schema import responses_answer as said
from openm3.server.schema.chat_answer import ContentLogprob
from openm3.server.schema.response import ErrorResponse, Usage, documented
from openm3.server.schema.responses import (
    CallItem,
    MessageItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    ResponsesRequest,
)
from openm3.server.wording import Piece, Wording, content_logprobs, sent_event
from openm3.text.parse import ToolCall


def router(talk: Talk, store: ResponseStore) -> APIRouter:
    """The endpoints of responses, which `talk` answers."""
    routes = APIRouter(route_class=JsonRoute)
    failures = documented(ErrorResponse)

    @routes.post("/v1/responses", response_model=said.Response, responses=documented(ErrorResponse, streams=True))
    async def create(asked: ResponsesRequest, request: Request, caller: CurrentCaller) -> Response:
        """Goes on with a conversation; with `stream`, as server-sent events."""
        before: tuple[Any, ...] = ()
        if asked.previous_response_id is not None:
            known = await store.get(caller.key_id, asked.previous_response_id, "previous_response_id")
            before = known.items
        answer = await talk.converse(*as_chat(asked, before), request.state.request_id)

        def keep(response: said.Response) -> None:
            if response.store:
                items = [*before, *asked.items, *(_as_input(item) for item in response.output)]
                store.put(caller.key_id, response, items)

        wording = ResponsesWording(asked, talk.name(asked.model), keep)
        return await respond(request, answer, wording, stream=bool(asked.stream))

    @routes.get("/v1/responses/{response_id}", responses=failures)
    async def get(response_id: str, caller: CurrentCaller) -> said.Response:
        """Gives a response again."""
        return (await store.get(caller.key_id, response_id)).response

    @routes.delete("/v1/responses/{response_id}", responses=failures)
    async def delete(response_id: str, caller: CurrentCaller) -> said.Deleted:
        """Forgets a response."""
        await store.delete(caller.key_id, response_id)
        return said.Deleted(id=response_id)

    return routes


class ResponsesWording(Wording):
    """Responses of items, and events that add, fill and end one item after the other.

    Args:
        asked: what comes back with the response.
        model: the name of the model that answers.
        keep: takes the response that is whole or as whole as it gets.
    """

    def __init__(self, asked: ResponsesRequest, model: str, keep: Callable[[said.Response], None]) -> None:
        self._keep = keep
        self._head = _head(asked, model)
        self._number = 0  # of the next event
        self._output: list[said.OutputItem] = []  # items that are done
        self._open: said.OutputMessage | said.Reasoning | None = None  # the item that is filled
        self._last: Piece | None = None

    def whole(self, choices: Iterable[Piece], usage: Usage) -> said.Response:
        [piece] = choices
        status = _status(piece)
        if piece.reasoning:
            self._output.append(_reasoning(piece.reasoning, "completed"))
        if piece.text:
            self._output.append(_message(piece.text, content_logprobs(piece.logprobs), status))
        self._output += [_call(call) for call in piece.calls]
        response = self._response(status, usage)
        self._keep(response)
        return response

    def begin(self, usage: Usage) -> Iterable[bytes]:
        yield self._event(said.ResponseEvent, "response.created", response=self._response("in_progress"))
        yield self._event(said.ResponseEvent, "response.in_progress", response=self._response("in_progress"))

    def events(self, piece: Piece) -> Iterable[bytes]:
        if piece.reasoning:
            yield from self._think(piece.reasoning)
        if piece.text:
            yield from self._say(piece.text, content_logprobs(piece.logprobs))
        for call in piece.calls:
            yield from self._close("completed")
            yield from self._called(_call(call))
        self._last = piece

    def end(self, usage: Usage) -> Iterable[bytes]:
        assert self._last is not None
        status = _status(self._last)
        yield from self._close(status)
        response = self._response(status, usage)
        self._keep(response)
        yield self._event(said.ResponseEvent, f"response.{status}", response=response)

    def failure(self, error: ApiError, request_id: str) -> Iterable[bytes]:
        yield self._event(said.ErrorEvent, "error", code=error.code, message=error.detail, param=error.param)
        failed = self._response("failed", error=said.Failure(message=error.detail))
        yield self._event(said.ResponseEvent, "response.failed", response=failed)

    def _event(self, kind: type[said.Event], name: str, /, **fields: Any) -> bytes:
        event = kind(type=name, sequence_number=self._number, **fields)
        self._number += 1
        return sent_event(event, name)

    def _response(
        self, status: said.Status, usage: Usage | None = None, error: said.Failure | None = None
    ) -> said.Response:
        return said.Response(
            **self._head,
            status=status,
            completed_at=int(time.time()) if status == "completed" else None,
            error=error,
            incomplete_details=said.Incomplete() if status == "incomplete" else None,
            output=list(self._output),
            usage=None if usage is None else _usage(usage),
        )

    def _think(self, text: str) -> Iterable[bytes]:
        if not isinstance(self._open, said.Reasoning):
            yield from self._start(_reasoning("", "in_progress"))
        assert isinstance(self._open, said.Reasoning)
        self._open.content[0].text += text
        yield self._event(said.DeltaEvent, "response.reasoning_text.delta", **self._place, delta=text)

    def _say(self, text: str, logprobs: list[ContentLogprob]) -> Iterable[bytes]:
        if not isinstance(self._open, said.OutputMessage):
            yield from self._start(_message("", [], "in_progress"))
        assert isinstance(self._open, said.OutputMessage)
        self._open.content[0].text += text
        self._open.content[0].logprobs += logprobs
        yield self._event(said.DeltaEvent, "response.output_text.delta", **self._place, delta=text, logprobs=logprobs)

    @property
    def _place(self) -> dict[str, Any]:
        """Where the open item is."""
        assert self._open is not None
        return {"item_id": self._open.id, "output_index": len(self._output)}

    def _start(self, item: said.OutputMessage | said.Reasoning) -> Iterable[bytes]:
        """Adds an item with one part that is empty yet."""
        yield from self._close("completed")
        self._open = item
        empty = item.model_copy(update={"content": []})
        yield self._event(said.ItemEvent, "response.output_item.added", output_index=len(self._output), item=empty)
        yield self._event(said.PartEvent, "response.content_part.added", **self._place, part=item.content[0])

    def _close(self, status: said.Status) -> Iterable[bytes]:
        """Ends the item that is open."""
        if self._open is None:
            return
        part = self._open.content[0]
        if isinstance(part, said.OutputText):
            done: dict[str, Any] = {"text": part.text, "logprobs": part.logprobs}
        else:
            done = {"text": part.text}
        yield self._event(said.DoneEvent, f"response.{part.type}.done", **self._place, **done)
        yield self._event(said.PartEvent, "response.content_part.done", **self._place, part=part)
        item = self._open.model_copy(update={"status": status})
        yield self._event(said.ItemEvent, "response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        self._open = None

    def _called(self, call: said.Call) -> Iterable[bytes]:
        index, place = len(self._output), {"item_id": call.id, "output_index": len(self._output)}
        begun = call.model_copy(update={"arguments": "", "status": "in_progress"})
        yield self._event(said.ItemEvent, "response.output_item.added", output_index=index, item=begun)
        name = "response.function_call_arguments"
        yield self._event(said.ArgumentsDelta, f"{name}.delta", **place, delta=call.arguments)
        yield self._event(said.ArgumentsDone, f"{name}.done", **place, name=call.name, arguments=call.arguments)
        yield self._event(said.ItemEvent, "response.output_item.done", output_index=index, item=call)
        self._output.append(call)


_GIVEN_BACK = (
    "instructions",
    "max_output_tokens",
    "previous_response_id",
    "prompt_cache_key",
    "safety_identifier",
    "user",
)


def _head(asked: ResponsesRequest, model: str) -> dict[str, Any]:
    """What every state of a response has: who it is, and what was asked for."""
    choice = asked.tool_choice or "auto"
    return {
        **{name: getattr(asked, name) for name in _GIVEN_BACK},
        "id": f"resp_{uuid4().hex}",
        "created_at": int(time.time()),
        "metadata": asked.metadata or {},
        "model": model,
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "reasoning": {"effort": asked.reasoning.effort if asked.reasoning else None, "summary": None},
        "store": asked.store is not False,
        "temperature": 1.0 if asked.temperature is None else asked.temperature,
        "text": {"format": _dumped(asked.text.format) if asked.text and asked.text.format else {"type": "text"}},
        "tool_choice": choice if isinstance(choice, str) else _dumped(choice),
        "tools": [{"strict": False, **_dumped(tool)} for tool in asked.tools or ()],
        "top_logprobs": asked.top_logprobs or 0,
        "top_p": 1.0 if asked.top_p is None else asked.top_p,
    }


def _dumped(given: Any) -> dict[str, Any]:
    dumped: dict[str, Any] = given.model_dump(by_alias=True, exclude_none=True)
    return dumped


def _status(piece: Piece) -> said.Status:
    assert piece.finish_reason, "the service ended a stream without a reason"
    return "incomplete" if piece.finish_reason == "length" else "completed"


def _reasoning(text: str, status: said.Status) -> said.Reasoning:
    return said.Reasoning(id=f"rs_{uuid4().hex}", content=[said.ReasoningText(text=text)], status=status)


def _message(text: str, logprobs: list[ContentLogprob], status: said.Status) -> said.OutputMessage:
    content = [said.OutputText(text=text, logprobs=logprobs)]
    return said.OutputMessage(id=f"msg_{uuid4().hex}", content=content, status=status)


def _call(call: ToolCall) -> said.Call:
    own, name = uuid4().hex, call.name
    return said.Call(id=f"fc_{own}", call_id=f"call_{own}", name=name, arguments=call.arguments, status="completed")


def _usage(usage: Usage) -> said.Usage:
    return said.Usage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=said.InputDetails(cached_tokens=usage.prompt_tokens_details.cached_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=said.OutputDetails(reasoning_tokens=usage.completion_tokens_details.reasoning_tokens),
        total_tokens=usage.total_tokens,
    )


def _as_input(item: said.OutputItem) -> MessageItem | CallItem | ReasoningItem:
    """An item of an answer as one of a request."""
    match item:
        case said.OutputMessage():
            text = "".join(part.text for part in item.content)
            return MessageItem(role="assistant", content=[OutputText(type="output_text", text=text)])
        case said.Call():
            return CallItem(type="function_call", call_id=item.call_id, name=item.name, arguments=item.arguments)
        case said.Reasoning():
            content = [ReasoningText(type="reasoning_text", text=part.text) for part in item.content]
            return ReasoningItem(type="reasoning", content=content)
