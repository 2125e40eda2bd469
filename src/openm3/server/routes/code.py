"""`POST /v1/code/generate` and `POST /v1/code/review`: facts first. What a model wrote runs in a sandbox or not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request, Response

from minimax_code.skills.answer import files_in
from minimax_code.skills.calibration import Calibration, calibrate, known_calibration
from minimax_code.skills.effort import Effort
from minimax_code.skills.review import Review, review
from minimax_code.skills.solution import Solution
from minimax_code.workbench.analysers import DEFAULT_STANDARDS, Analysers
from minimax_code.workbench.files import CodeFile, check_files
from minimax_code.workbench.findings import Findings
from minimax_code.workbench.receipt import Receipt
from openm3.hub import home
from openm3.server.body import JsonRoute
from openm3.server.callers import Caller, caller_of
from openm3.server.conversation import Talk
from openm3.server.disconnect import EventStream, until_disconnect
from openm3.server.errors import as_api_error
from openm3.server.schema import code
from openm3.server.schema.response import ErrorResponse, documented
from openm3.server.served_model import ServedModel, total
from openm3.server.wording import Piece, sent_event
from openm3.server.workshop import Workshop
from openm3.server.write_code import write_code

_MAX_ISSUES = 1000
_FACTS_ONLY = "These are the findings of analysers alone; no model has read the code."
# What the conversation calls the first name, the caller knows as the second.
_FIELDS = {"messages": "prompt", "messages[0]": "prompt", "messages[1]": "prompt"}
_REVIEW_FIELDS = {"messages": "files", "messages[0]": "files"}


def router(talk: Talk) -> APIRouter:
    """The endpoints that write code with the served model, and review it with analysers and the model."""
    routes = APIRouter(route_class=JsonRoute)
    analysers, workshop = Analysers(), Workshop()

    @routes.post(
        "/v1/code/generate", response_model=code.CodeGeneration, responses=documented(ErrorResponse, streams=True)
    )
    async def generate(asked: code.GenerateRequest, request: Request) -> Response:
        """Writes files and checks them; with `stream`, as server-sent events, the last of which is the whole."""
        check_files([*asked.code_files(), *asked.test_files()])
        request_id = request.state.request_id
        generation = _Generation(talk, asked, caller_of(request), request_id, workshop, analysers)
        events = generation.events()
        first = await until_disconnect(request.receive, anext(events))
        if asked.stream:
            return EventStream(events)
        await events.aclose()
        return Response(first, media_type="application/json")

    @routes.post("/v1/code/review", response_model=code.CodeReview, responses=documented(ErrorResponse))
    async def review_code(asked: code.ReviewRequest, request: Request) -> Response:
        """Says what is wrong with files."""
        if asked.with_model or "model" in asked.model_fields_set:  # facts alone need none
            talk.speaker(asked.model)
        files = asked.code_files()
        check_files(files)
        work = _review(talk, asked, files, caller_of(request), request.state.request_id, analysers)
        body = await until_disconnect(request.receive, work)
        return Response(body.model_dump_json(), media_type="application/json")

    return routes


async def _review(
    talk: Talk,
    asked: code.ReviewRequest,
    files: Sequence[CodeFile],
    caller: Caller,
    request_id: str,
    analysers: Analysers,
) -> code.CodeReview:
    name = talk.name(asked.model)
    standards = DEFAULT_STANDARDS if asked.standards is None else asked.standards
    async with caller.reserve(name, 0):
        facts = await analysers.analyse(files, standards)
    found, notice, usage = Review(findings=facts), _FACTS_ONLY, total([])
    if asked.with_model:
        model = ServedModel(talk, asked.model, caller, request_id, sampling={}, fields=_REVIEW_FIELDS)
        known = await calibrate(model, home() / "calibrations")
        found = await review(model, files, facts, effort=Effort(calibration=known))
        read = f"The model has read {', '.join(found.read)}." if found.read else "No model has read the code."
        notice, usage = " ".join([read, *(f"{note[:1].upper()}{note[1:]}." for note in found.notes)]), model.usage
    return code.CodeReview(
        **_checked("review", found.findings, name if found.read else None, found.findings.receipts),
        usage=usage,
        files=[file.path for file in files],
        notice=notice,
    )


class _Generation:
    """A solution, while it is made."""

    def __init__(
        self,
        talk: Talk,
        asked: code.GenerateRequest,
        caller: Caller,
        request_id: str,
        workshop: Workshop,
        analysers: Analysers,
    ) -> None:
        self._talk, self._request_id = talk, request_id
        self._asked, self._workshop, self._analysers = asked, workshop, analysers
        self._pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        sampling = asked.model_dump(include={"max_tokens", "top_p"}, exclude_none=True)
        sampling.setdefault("max_tokens", None)  # as many as there is room for
        self._model = ServedModel(
            talk, asked.model, caller, request_id, sampling=sampling, fields=_FIELDS, told=self._pieces.put_nowait
        )
        self._id = f"codegen-{uuid4().hex}"

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Streamed: an empty event once the request is admitted, and then server-sent events; else the JSON alone."""
        stream = bool(self._asked.stream)
        work = asyncio.create_task(self._work())
        work.add_done_callback(lambda _: self._pieces.put_nowait(None))
        try:
            piece = await self._pieces.get()
            if piece is None:
                work.result()  # raises: nothing was admitted
            if stream:
                yield b""
            try:
                while piece is not None:
                    if stream and piece.text:
                        yield sent_event(code.CodeChunk(id=self._id, content=piece.text))
                    piece = await self._pieces.get()
                whole = work.result()
                if not stream:
                    yield whole.model_dump_json().encode()
                    return
                yield sent_event(whole)
                yield b"data: [DONE]\n\n"
            except Exception as error:
                if not stream:
                    raise
                yield b"data: " + as_api_error(error, self._request_id).body("openai", self._request_id) + b"\n\n"
        finally:
            work.cancel()
            await asyncio.wait([work])

    async def _work(self) -> code.CodeGeneration:
        asked, name = self._asked, self._model.name
        calibration = known_calibration(name, home() / "calibrations") or Calibration(model=name)
        effort = Effort(
            candidates=asked.n,
            temperature=asked.temperature,
            seed=asked.seed,
            stop=(asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ()),
            calibration=calibration,
        )
        async with self._workshop.bench(asked.code_files()) as (bench, problem):
            solution = await write_code(self._model, bench, asked, effort)
        notes = [*solution.notes, *([problem] if problem else [])]
        found = solution.findings or await self._analysers.parse(solution.files)
        reply = next((one for one in self._model.replies if one.content == solution.text), None)
        return code.CodeGeneration(
            **{
                **_checked("generation", found, self._talk.name(asked.model), solution.receipts or found.receipts),
                "id": self._id,
            },
            usage=self._model.usage,
            content=solution.text,
            files=_written(solution, asked.language),
            finish_reason=reply.finish_reason if reply and reply.finish_reason == "length" else "stop",
            verdict=solution.verdict,
            notes=notes,
            num_candidates=solution.num_candidates,
            chosen=solution.chosen,
            sandbox=bench.sandbox.name if bench else None,
        )


def _written(solution: Solution, language: str | None) -> list[code.WrittenFile]:
    """The files; incomplete is the last one of an answer that ended within it."""
    inside, ends = files_in(solution.text, language)
    cut = None if ends or not inside else inside[-1].path
    return [
        code.WrittenFile(path=file.path, language=file.language, content=file.content, complete=file.path != cut)
        for file in solution.files
    ]


def _checked(kind: str, found: Findings, model: str | None, receipts: Sequence[Receipt]) -> dict[str, Any]:
    """The fields that both responses share."""
    return {
        "id": f"code{kind}-{uuid4().hex}",
        "created": int(time.time()),
        "model": model,
        "issues": [code.CodeIssue.model_validate(issue, from_attributes=True) for issue in found.issues[:_MAX_ISSUES]],
        "num_issues": len(found.issues),
        "quality_score": found.quality_score,
        "receipts": [code.CodeReceipt.of(receipt) for receipt in receipts],
    }
