"""`POST /v1/code/generate` and `POST /v1/code/review`: facts first. No file is ever run."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from fastapi import APIRouter, Request, Response

from minimax_code.skills.answer import files_in, request_for_files
from minimax_code.workbench.analysers import DEFAULT_STANDARDS, Analysers
from minimax_code.workbench.files import check_files
from minimax_code.workbench.findings import Findings
from openm3.server.answer import Answer
from openm3.server.body import JsonRoute
from openm3.server.callers import Caller, caller_of
from openm3.server.conversation import converse
from openm3.server.disconnect import EventStream, until_disconnect
from openm3.server.errors import as_api_error
from openm3.server.routes.models import check_model
from openm3.server.schema import code
from openm3.server.schema.chat import ChatRequest
from openm3.server.schema.response import CompletionDetails, ErrorResponse, PromptDetails, Usage, documented
from openm3.server.wording import Piece, sent_event

if TYPE_CHECKING:
    from openm3.server.backend import Backend

_MAX_ISSUES = 1000
_NOTICE = "These are the findings of analysers alone; no model has read the code."
# What the conversation calls the first name, the caller knows as the second.
_FIELDS = {"messages": "prompt", "messages[0]": "prompt", "messages[1]": "prompt"}


def router(service: Backend) -> APIRouter:
    """The endpoints that write code with the served model and review it with analysers."""
    routes = APIRouter(route_class=JsonRoute)
    analysers = Analysers()

    @routes.post(
        "/v1/code/generate", response_model=code.CodeGeneration, responses=documented(ErrorResponse, streams=True)
    )
    async def generate(asked: code.GenerateRequest, request: Request) -> Response:
        """Writes files; with `stream`, as server-sent events, the last of which is the whole."""
        answer = await _begin(service, asked)
        generation = _Generation(asked, answer, analysers, service.llm.name)
        events = generation.events(caller_of(request), request.state.request_id, stream=bool(asked.stream))
        first = await until_disconnect(request.receive, anext(events))
        if asked.stream:
            return EventStream(events)
        await events.aclose()
        return Response(first, media_type="application/json")

    @routes.post("/v1/code/review", response_model=code.CodeReview, responses=documented(ErrorResponse))
    async def review(asked: code.ReviewRequest, request: Request) -> Response:
        """Says what is wrong with files."""
        check_model(asked.model, service.llm)
        files = asked.code_files()
        check_files(files)
        standards = DEFAULT_STANDARDS if asked.standards is None else asked.standards
        async with caller_of(request).reserve(service.llm.name, 0):
            found = await until_disconnect(request.receive, analysers.analyse(files, standards))
        usage = Usage(
            prompt_tokens=0,
            completion_tokens=0,
            total_tokens=0,
            prompt_tokens_details=PromptDetails(cached_tokens=0),
            completion_tokens_details=CompletionDetails(reasoning_tokens=0),
        )
        body = code.CodeReview(
            **_checked("review", found, None, usage), files=[file.path for file in files], notice=_NOTICE
        )
        return Response(body.model_dump_json(), media_type="application/json")

    return routes


async def _begin(service: Backend, asked: code.GenerateRequest) -> Answer:
    """The model's answer to a request for files.

    Raises:
        InputError: the request can't be served.
        ApiError: another model is asked for.
    """
    files = asked.code_files()
    check_files(files)
    system, prompt = request_for_files(
        asked.prompt,
        language=asked.language,
        framework=asked.framework,
        style=asked.style,
        include_tests=asked.include_tests,
        standards=asked.standards or (),
        files=files,
    )
    sampling = asked.model_dump(
        include={"model", "max_tokens", "temperature", "top_p", "seed", "stop"}, exclude_none=True
    )
    messages = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
    answer, _ = await converse(service, ChatRequest.model_validate({**sampling, "messages": messages}), _FIELDS)
    return answer


class _Generation:
    """An answer of files, while it is made."""

    def __init__(self, asked: code.GenerateRequest, answer: Answer, analysers: Analysers, model: str) -> None:
        self._asked, self._answer, self._analysers, self._model = asked, answer, analysers, model
        self._id = f"codegen-{uuid4().hex}"

    async def events(self, caller: Caller, request_id: str, *, stream: bool) -> AsyncGenerator[bytes, None]:
        """Streamed: an empty event once the request is admitted, and then server-sent events; else the JSON alone."""
        pieces: list[Piece] = []
        async with aclosing(self._answer.pieces(caller)) as arriving:
            pieces.append(await anext(arriving))
            if stream:
                yield b""
            try:
                async for piece in arriving:
                    pieces.append(piece)
                    if stream and piece.text:
                        yield sent_event(code.CodeChunk(id=self._id, content=piece.text))
                whole = await self._whole(Piece.join(pieces))
                if not stream:
                    yield whole.model_dump_json().encode()
                    return
                yield sent_event(whole)
                yield b"data: [DONE]\n\n"
            except Exception as error:
                if not stream:
                    raise
                yield b"data: " + as_api_error(error, request_id).body("openai", request_id) + b"\n\n"

    async def _whole(self, answered: Piece) -> code.CodeGeneration:
        assert answered.finish_reason, "the service ended a stream without a reason"
        files, ends = files_in(answered.text, self._asked.language)
        found = await self._analysers.parse(files)
        written = [
            code.WrittenFile(path=file.path, language=file.language, content=file.content, complete=ends or i > 1)
            for i, file in zip(range(len(files), 0, -1), files, strict=True)
        ]
        return code.CodeGeneration(
            **{**_checked("generation", found, self._model, self._answer.usage), "id": self._id},
            content=answered.text,
            files=written,
            finish_reason=answered.finish_reason,
        )


def _checked(kind: str, found: Findings, model: str | None, usage: Usage) -> dict[str, Any]:
    """The fields that both responses share."""
    return {
        "id": f"code{kind}-{uuid4().hex}",
        "created": int(time.time()),
        "model": model,
        "issues": [code.CodeIssue(**vars(issue)) for issue in found.issues[:_MAX_ISSUES]],
        "num_issues": len(found.issues),
        "quality_score": found.quality_score,
        "receipts": [code.CodeReceipt.of(receipt) for receipt in found.receipts],
        "usage": usage,
    }
