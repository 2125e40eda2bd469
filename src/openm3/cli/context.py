"""`openm3 context`: what was read is kept on disk, and asked about again without being read again."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from openm3.cli.answer import INTERRUPTED, show_answer
from openm3.cli.ask import DEFAULT_ANSWER_TOKENS, Question, fit_files, tell_skipped
from openm3.cli.options import ModelOptions, context_option, contexts_here, model_options
from openm3.cli.progress import Progress, format_amount
from openm3.context.files import Collection, collect
from openm3.context.store import digest
from openm3.errors import StoreError

if TYPE_CHECKING:
    from openm3.context.store import Context
    from openm3.engine.llm import LLM


@click.group()
def context() -> None:
    """Keep contexts on disk: read files once, ask about them again and again.

    \b
    Examples:
      openm3 context save sources --context ./src --window 65536
      openm3 ask --load sources "Where are pages freed?"
      openm3 context list
    """  # fmt: skip


@context.command()
@click.argument("name")
@context_option("read", required=True)
@click.option("--fit", is_flag=True, help="When the files are more than the window, leave out the last ones.")
@model_options
def save(name: str, paths: tuple[str, ...], fit: bool, model_options: ModelOptions) -> None:
    """Read files and keep what was read as NAME.

    Where there is such a context already, the files that begin it and are still the same are not read again: what
    was changed or added comes after them. Ctrl-C leaves the old one as it was.
    """
    store = contexts_here()
    is_there = store.has(name)  # a wrong name is told before anything is read
    files = collect(paths)
    tell_skipped(files.skipped)
    llm = model_options.load()
    from openm3.engine import contexts
    from openm3.engine.params import SamplingParams

    if is_there:
        files = _continue(llm, name, files)
    files, prompt = fit_files(Question(llm, "", ()), files, llm.max_context - DEFAULT_ANSWER_TOKENS, fit)
    click.echo(f"{len(files.files)} files, {len(prompt.ids):,} tokens, {llm.name}", err=True)
    started = time.perf_counter()
    answer = show_answer(llm, prompt, SamplingParams(max_tokens=1, ignore_eos=True), echo=False)
    if answer.finish_reason == "cancelled":
        click.echo("interrupted; nothing was saved", err=True)
        raise SystemExit(INTERRUPTED)
    read = len(prompt.ids) - answer.stats.num_cached
    click.echo(f"{read:,} tokens read in {time.perf_counter() - started:.1f} s", err=True)
    with Progress(f"saving {name}", "bytes") as progress:
        contexts.save(llm, store, name, prompt, files, options=model_options.kept(), report=progress.update)
    click.echo(store.path(name))


@context.command()
@click.argument("name")
@model_options
def load(name: str, model_options: ModelOptions) -> None:
    """Load NAME with its model, to see that it can be: compares every checksum, and says size and time."""
    model_options.load_with(name)


@context.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of name, path, size_bytes and description.")
def list_(as_json: bool) -> None:
    """List the contexts on this disk; one that can't be read says why."""
    store, rows = contexts_here(), []
    for name in store.names():
        try:
            with store.open(name) as found:
                rows.append((name, _as_json(name, found), _line(found)))
        except StoreError as error:
            rows.append((name, {"name": name, "path": str(store.path(name)), "error": str(error)}, f"error: {error}"))
    if as_json:
        click.echo(json.dumps([row for _, row, _ in rows], indent=2))
        return
    if not rows:
        click.echo("no contexts yet: `openm3 context save NAME --context PATH` reads one", err=True)
    width = max((len(name) for name, _, _ in rows), default=0)
    for name, _, line in rows:
        click.echo(f"{name:{width}}  {line}")


@context.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def show(name: str, as_json: bool) -> None:
    """Show what NAME holds: model, options, and the files with their tokens."""
    with contexts_here().open(name) as found:
        if as_json:
            click.echo(json.dumps(_as_json(name, found), indent=2))
            return
        click.echo(_line(found))
        about = found.about
        click.echo(", ".join(f"{key} {value}" for key, value in about.identity.items()))
        width = max(len(file.path) for file in about.files)
        for file in about.files:
            tokens = f"tokens {file.start:,} to {file.stop - 1:,}" if file.stop else "tokens unknown"
            click.echo(f"{file.path:{width}}  {format_amount(file.num_bytes, 'bytes'):>8}  {tokens}")


@context.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def rm(names: tuple[str, ...]) -> None:
    """Delete contexts."""
    for name in names:
        contexts_here().remove(name)


def _continue(llm: LLM, name: str, files: Collection) -> Collection:
    """Loads the context of this name, if it is this model's, and puts the files in the order that uses most of it."""
    from openm3.engine import contexts

    try:
        with contexts_here().open(name) as found:
            contexts.load(llm, found)
            kept = [(file.path, file.digest) for file in found.about.files]
    except StoreError as error:
        click.echo(f"{error}; all is read again", err=True)
        return files
    here = {(file.path, digest(file.text.encode())): file for file in files.files}
    same = []
    for key in kept:
        if key not in here:
            break
        same.append(here.pop(key))
    return Collection((*same, *here.values()), files.skipped)


def _line(found: Context) -> str:
    about = found.about
    size = format_amount(found.num_bytes, "bytes")
    return f"{about.num_tokens:,} tokens of {len(about.files)} files, {size}, {about.model}, {about.created}"


def _as_json(name: str, found: Context) -> dict[str, object]:
    return {"name": name, "path": str(found.path), "size_bytes": found.num_bytes, **asdict(found.about)}
