"""Many requests from a file, a line each, answered together: of `openm3 batch` and of `/v1/batches`."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Collection, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic_core import from_json

from openm3.errors import InputError

RESULT_BEGINS = b'{"id": "batch_req_'
MAX_LINE_BYTES = 64 << 20
_ENDPOINT_OF = {"messages": "/v1/chat/completions", "prompt": "/v1/completions"}  # of lines that are bodies

Respond = Callable[[str, Any, str], Awaitable[tuple[int, str]]]
"""Answers a body (the second) that is posted to a URL (the first) as the request that the third names."""


@dataclass(frozen=True)
class Line:
    """A request of the file; `problem` says why it is none."""

    custom_id: str
    url: str = ""
    body: Any = None
    problem: str = ""

    @classmethod
    def read(cls, number: int, line: bytes, urls: Collection[str]) -> Line:
        """Line `number` of the file, from 1; `urls` are those that are answered."""
        name = f"line-{number}"
        if len(line) > MAX_LINE_BYTES:
            return cls(name, problem=f"line {number} is more than {MAX_LINE_BYTES} bytes")
        try:
            asked = from_json(line, allow_inf_nan=False)
        except ValueError as error:
            return cls(name, problem=f"line {number} is not JSON: {error}")
        if not isinstance(asked, dict):
            return cls(name, problem=f"line {number} is no JSON object")
        custom_id = asked.pop("custom_id", name)
        if not isinstance(custom_id, str):
            return cls(name, problem=f"line {number}: custom_id must be a string")
        if "body" not in asked:
            url = next((url for field, url in _ENDPOINT_OF.items() if field in asked), None)
            if url is None:
                return cls(custom_id, problem=f"line {number}: has no body, no messages and no prompt")
            return cls(custom_id, url, {"model": "default", **asked})
        if unknown := set(asked) - {"method", "url", "body"}:
            return cls(custom_id, problem=f"line {number}: {min(unknown)}: unknown field")
        if asked.get("method", "POST") != "POST":
            return cls(custom_id, problem=f"line {number}: method must be POST")
        url = asked.get("url")
        if not isinstance(url, str) or url not in urls:
            return cls(custom_id, problem=f"line {number}: url must be one of {', '.join(urls)}")
        return cls(custom_id, url, asked["body"])


class BatchRun:
    """A run over a file, which leaves out what was answered before.

    Args:
        respond: answers a request.
        source: the file; it may be larger than memory.
        urls: what requests may be posted to.
        write: gets each result as a line, and the status of its response, 0 where a line is no request.
        done: the custom_ids that were answered before.
        at_once: requests that are answered at the same time.
        goes_on: asked before each line; once it is false no further one is begun.
    """

    def __init__(
        self,
        respond: Respond,
        source: Path,
        urls: Collection[str],
        write: Callable[[int, bytes], object],
        done: Container[str],
        at_once: int,
        goes_on: Callable[[], bool] = lambda: True,
    ) -> None:
        self._respond, self._source, self._urls, self._write = respond, source, urls, write
        self._before, self._seen, self._at_once, self._goes_on = done, set[str](), at_once, goes_on

    async def run(self) -> None:
        """Answers what isn't answered yet; it raises what `respond` does."""
        tasks: set[asyncio.Task[None]] = set()
        try:
            for number, text in lines_of(self._source):
                if not self._goes_on():
                    break
                line = Line.read(number, text, self._urls)
                if line.custom_id in self._before:
                    if number % 1000 == 0:
                        await asyncio.sleep(0)  # others have their turn while what is done is passed over
                    continue
                tasks.add(asyncio.create_task(self._answer(line)))
                if len(tasks) >= self._at_once:
                    tasks = await _some_end(tasks)
            while tasks:
                tasks = await _some_end(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, line: Line) -> None:
        request_id = f"batch_req_{uuid4().hex}"
        problem = f"custom_id {line.custom_id!r} is there twice" if line.custom_id in self._seen else line.problem
        self._seen.add(line.custom_id)
        if problem:
            status, rest = 0, {"response": None, "error": {"code": "invalid_line", "message": problem}}
        else:
            status, body = await self._respond(line.url, line.body, request_id)
            response = {"status_code": status, "request_id": request_id, "body": json.loads(body)}
            rest = {"response": response, "error": None}
        result = {"id": request_id, "custom_id": line.custom_id, **rest}
        self._write(status, json.dumps(result, ensure_ascii=False).encode() + b"\n")


async def _some_end(tasks: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Waits until at least one has ended, and raises what one of them raised; returns the others."""
    ended, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in ended:
        task.result()
    return others


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that hold something with their numbers, one at a time.

    One that is too long comes as its beginning, which is too long too.
    """
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            rest = line
            while not rest.endswith(b"\n") and (rest := file.readline(MAX_LINE_BYTES)):
                pass
            if line.strip():
                yield number, line


def done_before(path: Path, field: str = "OUT.jsonl") -> set[str]:
    """The custom_ids in a file of results; a last line that a crash has cut short is taken off.

    Raises:
        InputError: the file holds something else; `field` names it.
    """
    done: set[str] = set()
    if not path.exists():
        return done
    with path.open("r+b") as file:
        whole = 0  # bytes of the lines before
        for number, line in enumerate(file, start=1):
            begin = line[: len(RESULT_BEGINS)]
            if not line.endswith(b"\n") and RESULT_BEGINS.startswith(begin):
                os.ftruncate(file.fileno(), whole)
                break
            try:
                done.add(json.loads(line)["custom_id"])
            except (ValueError, KeyError, TypeError):
                message = f"line {number} is no response of a batch; name another file"
                raise InputError(field, message) from None
            whole += len(line)
    return done
