"""Batches that run in the background, and go on after a restart.

    FOLDER/CALLER/batch_ID/batch.json     what is known of it, with whose it is
                           input.jsonl    a link to the uploaded file, which may be deleted
                           output.jsonl   results with an answer, in any order
                           errors.jsonl   the others
                           cancel         is there when it is to be cancelled

Results are what tells what is done. One process works on a batch: it holds a lock on the folder's file.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel

from openm3.server.batch import BatchRun, Line, done_before, lines_of
from openm3.server.callers import Caller
from openm3.server.errors import ApiError, as_api_error
from openm3.server.files import FileStore, folder_of, write_whole
from openm3.server.schema.batches import Batch, BatchCounts, BatchProblem, BatchProblems, BatchRequest

_WINDOW_S = 86_400
_MAX_PROBLEMS = 50
_SAVE_S = 1.0
_RETRY_S = 1.0, 60.0  # first and longest wait before what was refused for now is asked again
_FOR_NOW = (429, 503, 529)
_MAX_FAILURES = 4  # of the server, after which a request is the one that fails
_ENDED = ("completed", "failed", "expired", "cancelled")

Answer = Callable[[str, Any, str, Caller], Awaitable[tuple[int, str]]]
"""Answers a caller's body that is posted to a URL as the request that the third names."""

_log = logging.getLogger(__name__)


class _Saved(BaseModel):
    """What batch.json holds."""

    owner: str
    batch: Batch


class Batches:
    """The batches of all callers.

    Args:
        folder: where they are.
        files: where their inputs are and their outputs go.
        answer: answers a request.
        caller_of: the caller that a batch is of, by its key's id, after a restart.
        max_requests: of a batch.
        at_once: requests of a batch that are answered at the same time.
    """

    def __init__(
        self,
        folder: Path,
        files: FileStore,
        answer: Answer,
        caller_of: Callable[[str], Awaitable[Caller]],
        *,
        max_requests: int,
        at_once: int,
    ) -> None:
        self._folder, self._files, self._answer, self._caller_of = folder, files, answer, caller_of
        self._max_requests, self._at_once = max_requests, at_once
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Goes on with what had not ended."""
        for path in sorted(self._folder.glob("*/batch_*/batch.json")):
            saved = _Saved.model_validate_json(path.read_bytes())
            if saved.batch.status not in _ENDED:
                self._begin(path.parent)

    async def aclose(self) -> None:
        """Stops working; what has not ended goes on with the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def create(self, owner: str, asked: BatchRequest) -> Batch:
        """Begins a batch.

        Raises:
            ApiError: there is no such file.
        """
        self._files.get(owner, asked.input_file_id, "input_file_id")
        now = int(time.time())
        batch = Batch(
            id=f"batch_{time.time_ns():016x}{secrets.token_hex(8)}",
            endpoint=asked.endpoint,
            input_file_id=asked.input_file_id,
            created_at=now,
            expires_at=now + _WINDOW_S,
            metadata=asked.metadata,
        )
        folder = self._folder / folder_of(owner) / batch.id
        folder.mkdir(parents=True)
        os.link(self._files.path(owner, asked.input_file_id), folder / "input.jsonl")
        _save(folder, owner, batch)
        self._begin(folder)
        return batch

    def get(self, owner: str, batch_id: str) -> Batch:
        """What is known of a batch.

        Raises:
            ApiError: 404.
        """
        return _read(self._folder_of(owner, batch_id), batch_id).batch

    def list(self, owner: str) -> Iterator[Batch]:
        """A caller's batches, the newest first."""
        for path in sorted((self._folder / folder_of(owner)).glob("batch_*"), reverse=True):
            with suppress(ApiError):
                yield _read(path, path.name).batch

    def cancel(self, owner: str, batch_id: str) -> Batch:
        """Asks for the end of a batch; what is being answered is answered.

        Raises:
            ApiError: 404, or 409 where it has ended.
        """
        folder = self._folder_of(owner, batch_id)
        batch = _read(folder, batch_id).batch
        if batch.status in _ENDED:
            raise ApiError(409, f"the batch has ended: it is {batch.status}", code="batch_ended")
        (folder / "cancel").touch()
        if batch.status == "cancelling":
            return batch
        return batch.model_copy(update={"status": "cancelling", "cancelling_at": int(time.time())})

    def _folder_of(self, owner: str, batch_id: str) -> Path:
        known = re.fullmatch(r"batch_[0-9a-f]{32}", batch_id, re.ASCII)
        return self._folder / (f"{folder_of(owner)}/{batch_id}" if known else "none")

    def _begin(self, folder: Path) -> None:
        task = asyncio.create_task(self._work(folder))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, folder: Path) -> None:
        with (folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return  # another process works on it
            saved = _read(folder, folder.name)
            run = _Run(self, folder, saved.owner, saved.batch)
            try:
                await run.run(await self._caller_of(saved.owner))
            except asyncio.CancelledError:
                raise
            except Exception as error:  # of one batch; the others go on
                _log.exception("batch %s failed", folder.name)
                told = str(error) if isinstance(error, ApiError) else "internal error; the server's log has it"
                run.fail([BatchProblem(code="batch_failed", message=told, line=None)])

    # What a run needs of its batches.

    def run_of(self, run: _Run, caller: Caller, write: Callable[[int, bytes], object], done: set[str]) -> BatchRun:
        """The work on what is not done."""
        respond = partial(self._patiently, caller, run)
        source = run.folder / "input.jsonl"
        return BatchRun(respond, source, (run.batch.endpoint,), write, done, self._at_once, run.goes_on)

    async def _patiently(self, caller: Caller, run: _Run, url: str, body: Any, request_id: str) -> tuple[int, str]:
        """An answer; what is refused for now is asked again, until the batch ends."""
        wait_s, longest_s = _RETRY_S
        num_failures = 0
        while True:
            try:
                status, answer = await self._answer(url, body, request_id, caller)
            except Exception as error:
                failure = as_api_error(error, request_id)
                num_failures += failure.status_code not in _FOR_NOW
                status, answer = failure.status_code, failure.body("openai", request_id).decode()
            is_refused = status in _FOR_NOW or (status >= 500 and num_failures < _MAX_FAILURES)
            if not is_refused or not run.goes_on():
                return status, answer
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, longest_s)

    @property
    def max_requests(self) -> int:
        """Of a batch."""
        return self._max_requests

    @property
    def files(self) -> FileStore:
        """Where outputs go."""
        return self._files


class _Run:
    """Work on one batch, from where it is to its end."""

    def __init__(self, batches: Batches, folder: Path, owner: str, batch: Batch) -> None:
        self._batches, self.folder, self._owner, self.batch = batches, folder, owner, batch
        self._saved_s = 0.0

    def goes_on(self) -> bool:
        """Whether the next request may begin."""
        return not (self.folder / "cancel").exists() and time.time() < self.batch.expires_at

    async def run(self, caller: Caller) -> None:
        if self.batch.status == "validating":
            total, problems = await self._validate()
            if problems:
                self.fail(problems)
                return
            self._set("in_progress", request_counts=BatchCounts(total=total))
        done = set[str]()
        counts = []
        for name in ("output.jsonl", "errors.jsonl"):
            before = await asyncio.to_thread(done_before, self.folder / name, name)
            counts.append(len(before))
            done |= before
        with (self.folder / "output.jsonl").open("ab") as output, (self.folder / "errors.jsonl").open("ab") as errors:
            self._count(counts[0], counts[1])
            await self._batches.run_of(self, caller, partial(self._write, output, errors), done).run()
        self._end()

    async def _validate(self) -> tuple[int, list[BatchProblem]]:
        """How many requests there are, and the first that are none."""
        seen, problems = set[str](), list[BatchProblem]()
        total = 0
        for number, text in lines_of(self.folder / "input.jsonl"):
            total += 1
            if total > self._batches.max_requests:
                message = f"the file has more than {self._batches.max_requests:,} requests"
                return total, [BatchProblem(code="too_many_requests", message=message, line=number)]
            line = Line.read(number, text, (self.batch.endpoint,))
            twice = f"line {number}: custom_id {line.custom_id!r} is there twice"
            problem = line.problem or (twice if line.custom_id in seen else "")
            seen.add(line.custom_id)
            if problem:
                problems.append(BatchProblem(code="invalid_line", message=problem[:500], line=number))
                if len(problems) == _MAX_PROBLEMS:
                    break
            if number % 100 == 0:
                await asyncio.sleep(0)  # requests have their turn
        if not total:
            problems.append(BatchProblem(code="empty_file", message="the file has no requests", line=None))
        return total, problems

    def _write(self, output: BinaryIO, errors: BinaryIO, status: int, result: bytes) -> None:
        out = output if status == 200 else errors
        out.write(result)
        out.flush()
        counts = self.batch.request_counts
        self._count(counts.completed + (status == 200), counts.failed + (status != 200))

    def _count(self, completed: int, failed: int) -> None:
        counts = self.batch.request_counts.model_copy(update={"completed": completed, "failed": failed})
        self.batch = self.batch.model_copy(update={"request_counts": counts})
        if time.monotonic() - self._saved_s > _SAVE_S:
            self._save()

    def _end(self) -> None:
        """Hands the results over."""
        is_cancelled = (self.folder / "cancel").exists()
        counts = self.batch.request_counts
        is_whole = counts.completed + counts.failed >= counts.total
        self._set("finalizing")
        ids: dict[str, str] = {}
        for field, name in (("output_file_id", "output.jsonl"), ("error_file_id", "errors.jsonl")):
            path = self.folder / name
            if path.stat().st_size:
                ids[field] = self._batches.files.adopt(self._owner, path, f"{self.batch.id}_{name}").id
        self._set("completed" if is_whole else "cancelled" if is_cancelled else "expired", **ids)

    def fail(self, problems: list[BatchProblem]) -> None:
        """Ends it without results."""
        self._set("failed", errors=BatchProblems(data=problems))

    def _set(self, status: str, **changes: object) -> None:
        self.batch = self.batch.model_copy(update={"status": status, f"{status}_at": int(time.time()), **changes})
        self._save()

    def _save(self) -> None:
        self._saved_s = time.monotonic()
        _save(self.folder, self._owner, self.batch)


def _save(folder: Path, owner: str, batch: Batch) -> None:
    write_whole(folder / "batch.json", _Saved(owner=owner, batch=batch).model_dump_json().encode())


def _read(folder: Path, batch_id: str) -> _Saved:
    try:
        saved = _Saved.model_validate_json((folder / "batch.json").read_bytes())
    except OSError:
        raise ApiError(404, f"there is no batch {batch_id[:64]!r}", code="batch_not_found") from None
    cancel = folder / "cancel"
    if saved.batch.status in ("validating", "in_progress") and cancel.exists():
        asked_at = int(cancel.stat().st_mtime)
        saved.batch = saved.batch.model_copy(update={"status": "cancelling", "cancelling_at": asked_at})
    return saved
