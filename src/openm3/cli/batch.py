"""`openm3 batch`: many requests from a file, answered together."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from openm3.cli.answer import INTERRUPTED
from openm3.cli.options import ModelOptions, model_options
from openm3.cli.progress import Progress
from openm3.errors import InputError, OpenM3Error

if TYPE_CHECKING:
    from openm3.engine.service import Service


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
    from openm3.server.batch import done_before, lines_of

    done = done_before(target)
    total = sum(1 for _ in lines_of(source))
    if done:
        click.echo(f"{len(done):,} of {total:,} requests are answered in {target} already", err=True)
    llm = model_options.load()
    from openm3.engine.service import Service

    with target.open("ab") as out, Progress("answering", "requests", total) as progress:
        work = _Work(Service(llm), out, done, progress)
        try:
            asyncio.run(work.run(source, llm.config.max_running))
        except KeyboardInterrupt:
            click.echo(f"interrupted with {work.num_done:,} of {total:,} answered; the same command goes on", err=True)
            raise SystemExit(INTERRUPTED) from None
        except (RuntimeError, OSError) as error:  # of the engine, of the disk
            raise OpenM3Error(
                f"{error}; {work.num_done:,} of {total:,} are answered, the same command goes on"
            ) from error
    failed = f", {work.num_failed:,} of them with an error" if work.num_failed else ""
    click.echo(f"{work.num_done:,} requests answered{failed}: {target}", err=True)


class _Work:
    """Answers a file with a model.

    Attributes:
        num_done, num_failed: requests with a response, and those of this run whose response is an error.
    """

    def __init__(self, service: Service, out: BinaryIO, done: set[str], progress: Progress) -> None:
        self._service, self._out, self._done, self._progress = service, out, done, progress
        self.num_done, self.num_failed = len(done), 0

    async def run(self, source: Path, at_once: int) -> None:
        """Answers what isn't answered yet, as many requests at once as the engine computes."""
        from openm3.server.batch import BatchRun
        from openm3.server.offline import ENDPOINTS, respond

        await self._service.start()
        self._progress.update(self.num_done)
        try:
            await BatchRun(partial(respond, self._service), source, ENDPOINTS, self._write, self._done, at_once).run()
        finally:
            await self._service.aclose()

    def _write(self, status: int, result: bytes) -> None:
        self._out.write(result)
        self._out.flush()
        self.num_done += 1
        self.num_failed += status != 200
        self._progress.update(self.num_done)
