"""`openm3 batch`: many requests from a file, answered together."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from uuid import uuid4

import click

from openm3.cli.answer import INTERRUPTED
from openm3.cli.options import ModelOptions, model_options
from openm3.cli.progress import Progress
from openm3.errors import InputError, OpenM3Error

if TYPE_CHECKING:
    from openm3.engine.service import Service

_RESULT_BEGINS = b'{"id": "batch_req_'
_ENDPOINT_OF = {"messages": "/v1/chat/completions", "prompt": "/v1/completions"}  # of lines that are bodies


@click.command()
@click.argument("source", metavar="IN.jsonl", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", metavar="OUT.jsonl", type=click.Path(dir_okay=False, path_type=Path))
@model_options
def batch(source: Path, target: Path, model_options: ModelOptions) -> None:
    """Answer the requests in IN.jsonl, one a line, and append each response to OUT.jsonl as it is there.

    A line is one of the OpenAI API's batches (custom_id, method, url, body), or the body of a request with `messages`
    or `prompt`; without a custom_id it is called line-N. Responses come in any order, with the custom_id. What
    OUT.jsonl holds already isn't asked again: after Ctrl-C or a crash the same command goes on.

    \b
    Examples:
      openm3 batch questions.jsonl answers.jsonl
      {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}    is a line of questions.jsonl
    """
    if target.exists() and target.samefile(source):
        raise InputError("OUT.jsonl", "is IN.jsonl; name another file")
    done = _done_before(target)
    total = sum(1 for _ in _lines(source))
    if done:
        click.echo(f"{len(done):,} of {total:,} requests are answered in {target} already", err=True)
    llm = model_options.load()
    from openm3.engine.service import Service

    with target.open("ab") as out, Progress("answering", "requests", total) as progress:
        work = _Batch(Service(llm), source, out, done, llm.config.max_running, progress)
        try:
            asyncio.run(work.run())
        except KeyboardInterrupt:
            click.echo(f"interrupted with {work.num_done:,} of {total:,} answered; the same command goes on", err=True)
            raise SystemExit(INTERRUPTED) from None
        except (RuntimeError, OSError) as error:  # of the engine, of the disk
            raise OpenM3Error(
                f"{error}; {work.num_done:,} of {total:,} are answered, the same command goes on"
            ) from error
    failed = f", {work.num_failed:,} of them with an error" if work.num_failed else ""
    click.echo(f"{work.num_done:,} requests answered{failed}: {target}", err=True)


@dataclass(frozen=True)
class _Line:
    """A request of the file; `problem` says why it is none."""

    custom_id: str
    url: str = ""
    body: Any = None
    problem: str = ""

    @classmethod
    def read(cls, number: int, line: bytes) -> _Line:
        """Line `number` of the file, from 1."""
        from pydantic_core import from_json

        from openm3.server.offline import ENDPOINTS

        name = f"line-{number}"
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
        if asked.get("url") not in ENDPOINTS:
            return cls(custom_id, problem=f"line {number}: url must be one of {', '.join(ENDPOINTS)}")
        return cls(custom_id, asked["url"], asked["body"])


class _Batch:
    """A run over the file.

    Attributes:
        num_done, num_failed: requests with a response, and those of this run whose response is an error.
    """

    def __init__(
        self, service: Service, source: Path, out: BinaryIO, done: set[str], most: int, progress: Progress
    ) -> None:
        self._service, self._source, self._out = service, source, out
        self._before, self._seen, self._most, self._progress = done, set[str](), most, progress
        self.num_done, self.num_failed = len(done), 0

    async def run(self) -> None:
        """Answers what isn't answered yet, as many at once as the engine computes."""
        await self._service.start()
        self._progress.update(self.num_done)
        tasks: set[asyncio.Task[None]] = set()
        try:
            for number, line in _lines(self._source):
                tasks.add(asyncio.create_task(self._answer(_Line.read(number, line))))
                if len(tasks) >= self._most:
                    tasks = await _some_end(tasks)
            while tasks:
                tasks = await _some_end(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._service.aclose()

    async def _answer(self, line: _Line) -> None:
        from openm3.server.offline import respond

        request_id = f"batch_req_{uuid4().hex}"
        if line.custom_id in self._before:
            return
        problem = f"custom_id {line.custom_id!r} is there twice" if line.custom_id in self._seen else line.problem
        self._seen.add(line.custom_id)
        if problem:
            status, rest = 0, {"response": None, "error": {"code": "invalid_line", "message": problem}}
        else:
            status, body = await respond(self._service, line.url, line.body, request_id)
            response = {"status_code": status, "request_id": request_id, "body": json.loads(body)}
            rest = {"response": response, "error": None}
        result = {"id": request_id, "custom_id": line.custom_id, **rest}
        self._out.write(json.dumps(result, ensure_ascii=False).encode() + b"\n")
        self._out.flush()
        self.num_done += 1
        self.num_failed += status != 200
        self._progress.update(self.num_done)


async def _some_end(tasks: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Waits until at least one has ended, and raises what one of them raised; returns the others."""
    ended, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in ended:
        task.result()
    return others


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that hold something with their numbers, one at a time: the file may be larger than memory."""
    with path.open("rb") as file:
        yield from ((number, line) for number, line in enumerate(file, start=1) if line.strip())


def _done_before(path: Path) -> set[str]:
    """The custom_ids in a file of responses; a last line that a crash has cut short is taken off.

    Raises:
        InputError: the file holds something else.
    """
    done: set[str] = set()
    if not path.exists():
        return done
    with path.open("r+b") as file:
        whole = 0  # bytes of the lines before
        for number, line in enumerate(file, start=1):
            begin = line[: len(_RESULT_BEGINS)]
            if not line.endswith(b"\n") and _RESULT_BEGINS.startswith(begin):
                os.ftruncate(file.fileno(), whole)
                break
            try:
                done.add(json.loads(line)["custom_id"])
            except (ValueError, KeyError, TypeError):
                message = f"line {number} is no response of a batch; name another file"
                raise InputError("OUT.jsonl", message) from None
            whole += len(line)
    return done
