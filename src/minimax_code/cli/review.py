"""minimax-code review."""

from __future__ import annotations

import asyncio
import json
from importlib.metadata import version
from pathlib import Path

import click

from minimax_code.cli.options import Wanted, model_options
from minimax_code.review import render
from minimax_code.review.config import read_config
from minimax_code.review.posting import review_pull_request
from minimax_code.review.repository import Repository
from minimax_code.review.result import Review
from minimax_code.review.reviewer import review_range
from minimax_code.review.sarif import sarif as sarif_of
from minimax_code.workbench.analysers import STANDARDS


@click.command()
@click.argument("what", metavar="BASE..HEAD|URL#NUMBER")
@click.option("--repo", type=click.Path(path_type=Path), default=".", help="The repository that BASE and HEAD are in.")
@click.option(
    "--standard",
    "standards",
    multiple=True,
    help=f"Of {', '.join(STANDARDS)}, or a .md, .txt or .rst of the base that a model reads.",
)
@click.option("--min-coverage", type=float, help="Percent of the changed lines that tests have to run.")
@click.option("--max-comments", type=int, help="How many comments stand on lines at most.")
@click.option("--exclude", multiple=True, help="Files that aren't reviewed, as a glob.")
@click.option("--auto-fix", is_flag=True, help="Try fixes, each a commit of its own.")
@click.option("--auto-test", is_flag=True, help="Have tests written for changed lines that no test runs.")
@click.option("--branch", help="Make a branch of this name with those commits.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Write the review to this file, for people.")
@click.option("--sarif", type=click.Path(path_type=Path), help="Write it as SARIF 2.1.0.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write it as JUnit's XML.")
@click.option("--review-json", type=click.Path(path_type=Path), help="Write it as GitHub takes it.")
@click.option("--post", is_flag=True, help="Post the review of a pull request, with the token in GITHUB_TOKEN.")
@model_options
@click.option("--facts-only", is_flag=True, help="Ask no model, even where one is named.")
@click.option("--python", help="The interpreter that has what the project needs; by default that of its .venv.")
@click.pass_context
def review(
    context: click.Context,
    /,
    what: str,
    repo: Path,
    branch: str | None,
    markdown: Path | None,
    sarif: Path | None,
    junit: Path | None,
    review_json: Path | None,
    post: bool,
    base_url: str | None,
    model: str | None,
    context_tokens: int | None,
    python: str | None,
    **options: object,
) -> None:
    """Review a change: of a local repository, or a pull request.

    Analysers and tests run on both sides in a sandbox, and only what is new counts. A model reads the change too where
    one is named, by --base-url, --model, MINIMAX_BASE_URL or your settings, if a short examination finds that it can
    judge; its findings are tried by tests. Without one these are facts only. The repository is only read, unless
    --branch asks for a branch. Exits with 1 where something of weight is found, or less is covered than --min-coverage
    asks for.
    """
    given = {name: value for name, value in options.items() if value not in (None, (), False)}
    config = read_config(given)
    url, hash_, number = what.partition("#")
    if post and not hash_:
        raise click.UsageError("--post needs a pull request, as https://github.com/owner/name#12")
    if branch and (hash_ or not (config.auto_fix or config.auto_test)):
        raise click.UsageError("--branch needs --auto-fix or --auto-test, and a local repository")
    if hash_ and not number.isdigit():
        raise click.UsageError("a pull request is URL#NUMBER, as https://github.com/owner/name#12")

    wanted = Wanted(base_url=base_url, model=model, context_tokens=context_tokens)
    is_named = bool(wanted.address["base_url"] or wanted.address["model"])

    async def run() -> Review:
        reader = wanted.server_model() if is_named and not config.facts_only else None
        if not hash_:
            return await review_range(repo, what, config, model=reader, python=python)
        found, posted = await review_pull_request(url, int(number), config, model=reader, python=python, post=post)
        if post:
            click.echo(f"Posted: {posted}\n" if posted else "This head was reviewed before; nothing was posted.\n")
        return found

    found = asyncio.run(run())
    click.echo(render.markdown(found), nl=False)
    texts = (
        (markdown, render.markdown(found)),
        (sarif, sarif_of(found, version("openm3"))),
        (junit, render.junit(found)),
        (review_json, json.dumps(render.github(found), indent=2) + "\n"),
    )
    for path, text in texts:
        if path:
            path.write_text(text, encoding="utf-8")
    if branch and (patches := [*found.auto_fixes, *found.auto_tests]):
        asyncio.run(Repository(repo).make_branch(branch, found.head, patches))
        click.echo(f"\nThe branch {branch} has them, {len(patches)} on top of the head.")
    context.exit(0 if found.passed else 1)
