"""minimax-code review."""

from __future__ import annotations

import asyncio
import json
from importlib.metadata import version
from pathlib import Path

import click

from minimax_code.review import render
from minimax_code.review.config import ReviewConfig, read_config
from minimax_code.review.posting import review_pull_request
from minimax_code.review.repository import Repository
from minimax_code.review.result import Review
from minimax_code.review.reviewer import review_range
from minimax_code.workbench.analysers import STANDARDS


@click.command()
@click.argument("what", metavar="BASE..HEAD|URL#NUMBER")
@click.option("--repo", type=click.Path(path_type=Path), default=".", help="The repository that BASE and HEAD are in.")
@click.option("--standard", "standards", multiple=True, help=f"Of {', '.join(STANDARDS)}, or a file with your own.")
@click.option("--min-coverage", type=float, help="Percent of the changed lines that tests have to run.")
@click.option("--max-comments", type=int, help="How many comments stand on lines at most.")
@click.option("--exclude", multiple=True, help="Files that aren't reviewed, as a glob.")
@click.option("--auto-fix", is_flag=True, help="Try fixes, each a commit of its own.")
@click.option("--branch", help="Make a branch of this name with the commits of --auto-fix.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Write the review to this file, for people.")
@click.option("--sarif", type=click.Path(path_type=Path), help="Write it as SARIF 2.1.0.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write it as JUnit's XML.")
@click.option("--review-json", type=click.Path(path_type=Path), help="Write it as GitHub takes it.")
@click.option("--post", is_flag=True, help="Post the review of a pull request, with the token in GITHUB_TOKEN.")
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
    python: str | None,
    **options: object,
) -> None:
    """Review a change: of a local repository, or a pull request.

    Analysers and tests run on both sides in a sandbox, and only what is new counts. The repository is only read, unless
    --branch asks for a branch. Exits with 1 where something of weight is found or too little is covered.
    """
    given = {name: value for name, value in options.items() if value not in (None, (), False)}
    config = read_config(given)
    url, hash_, number = what.partition("#")
    if post and not hash_:
        raise click.UsageError("--post needs a pull request, as https://github.com/owner/name#12")
    if branch and (hash_ or not config.auto_fix):
        raise click.UsageError("--branch needs --auto-fix and a local repository")
    if hash_:
        found = asyncio.run(_pull_request(url, number, config, python=python, post=post))
    else:
        found = asyncio.run(review_range(repo, what, config, python=python))
    click.echo(render.markdown(found), nl=False)
    texts = (
        (markdown, render.markdown(found)),
        (sarif, render.sarif(found, version("openm3"))),
        (junit, render.junit(found)),
        (review_json, json.dumps(render.github(found), indent=2) + "\n"),
    )
    for path, text in texts:
        if path:
            path.write_text(text, encoding="utf-8")
    if branch and found.auto_fixes:
        asyncio.run(Repository(repo).make_branch(branch, found.head, found.auto_fixes))
        click.echo(f"\nThe branch {branch} has the fixes.")
    context.exit(0 if found.passed else 1)


async def _pull_request(url: str, number: str, config: ReviewConfig, *, python: str | None, post: bool) -> Review:
    if not number.isdigit():
        raise click.UsageError("a pull request is URL#NUMBER, as https://github.com/owner/name#12")
    found, posted = await review_pull_request(url, int(number), config, python=python, post=post)
    if post:
        click.echo(f"Posted: {posted}\n" if posted else "This head was reviewed before; nothing was posted.\n")
    return found
