"""`openm3 find`: the lines of files that are nearest to a text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from openm3.cli.ask import tell_skipped
from openm3.cli.options import ModelOptions, context_option, model_options
from openm3.cli.progress import Progress
from openm3.context.files import collect
from openm3.errors import InputError

if TYPE_CHECKING:
    from openm3.context.retrieval import Found
    from openm3.context.sources import SourceSpan

_EXCERPT_LINES = 3
_EXCERPT_WIDTH = 100


@click.command()
@click.argument("query")
@context_option("search")
@click.option(
    "--load",
    "loaded",
    metavar="NAME",
    help="Search a context of `openm3 context save`, without reading it again; with its model and options.",
)
@click.option(
    "-k", type=click.IntRange(min=1), help="Tokens to find, in one place or many. Default: 1024, or all that there are."
)
@click.option(
    "--metric",
    type=click.Choice(["cosine", "dot"]),
    default="cosine",
    show_default=True,
    help="Compare the directions of keys, or their lengths too.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, with all lines of each part.")
@model_options
def find(
    query: str,
    paths: tuple[str, ...],
    loaded: str | None,
    k: int | None,
    metric: str,
    as_json: bool,
    model_options: ModelOptions,
) -> None:
    """Find the parts of files that are nearest to QUERY, a question or a description. Nothing is generated.

    Prints path:first-last, a score from 0 to 1 and the first lines, the nearest part first.

    \b
    Examples:
      openm3 find --context ./src "where the memory of pages is given back"
      openm3 find -c ./docs "how to install" -k 256 --json
      openm3 find --load sources "retry after an error"
    """  # fmt: skip
    if bool(paths) == (loaded is not None):
        raise InputError("--context", "name files to search, or a context with --load, and not both")
    if loaded is not None:
        llm, files = model_options.load_with(loaded)
    else:
        files = collect(paths)
        tell_skipped(files.skipped)
        llm = model_options.load()
    from openm3.context.manager import ContextManager
    from openm3.context.retrieval import DEFAULT_TOKENS

    context = ContextManager(llm)
    with Progress("reading", "tokens") as bar:
        num_tokens = context.read(files, bar.update)
    click.echo(f"{len(files.files)} files, {num_tokens:,} tokens, {llm.name}", err=True)
    if num_tokens > llm.max_context:
        fitting = f"{llm.max_context:,} of them fit into the window"
        click.echo(f"{fitting}: what was dropped can't be found; set a larger --window", err=True)
    lines = {file.path: file.text.split("\n") for file in files.files}
    for found in context.retrieve(query, k or min(DEFAULT_TOKENS, num_tokens), metric):  # type: ignore[arg-type]
        for source in found.sources:
            if source.path is not None:
                _show(found, source, lines[source.path][source.first_line - 1 : source.last_line], as_json)


def _show(found: Found, source: SourceSpan, lines: Sequence[str], as_json: bool) -> None:
    if as_json:
        place = {"path": source.path, "first_line": source.first_line, "last_line": source.last_line}
        click.echo(json.dumps({**place, "score": round(found.score, 4), "text": "\n".join(lines)}, ensure_ascii=False))
        return
    click.echo(f"{source.path}:{source.first_line}-{source.last_line}  {found.score:.2f}")
    for line in [line.rstrip() for line in lines if line.strip()][:_EXCERPT_LINES]:
        click.echo(f"    {line[:_EXCERPT_WIDTH]}")
