"""The `minimax` command: the methods of the client, for terminals, pipes and CI."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import click
import openai

from minimax.client import MiniMaxM3
from minimax.types import Review

FOUND, FAILED = 3, 1
_SEVERITIES = ("low", "medium", "high")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--base-url", envvar="MINIMAX_BASE_URL", help="The server; a local one unless given.")
@click.option("--model", default="default", show_default=True)
@click.option("--timeout", default=600.0, show_default=True, help="Seconds.")
@click.pass_context
def minimax(context: click.Context, base_url: str | None, model: str, timeout: float) -> None:
    """Ask a server of the M3 API. The key is MINIMAX_API_KEY.

    \b
    minimax chat "What is a closure?"          git diff | minimax chat "Write a commit message."
    minimax review src/*.py --fail-on medium   exits with 3 where there is such an issue
    minimax tests src/slug.py > tests/test_slug.py

    Exits with 0, 1 where the server or the network failed, 2 for wrong arguments, 3 where a review found something.
    """
    context.obj = MiniMaxM3(base_url=base_url, model_version=model, timeout=timeout)


_json = click.option("--json", "as_json", is_flag=True, help="One JSON object.")
_tokens = click.option("-n", "--max-tokens", type=click.IntRange(1), help="Of the answer.")


@minimax.command()
@click.argument("words", nargs=-1)
@_json
@_tokens
@click.pass_obj
def chat(client: MiniMaxM3, words: tuple[str, ...], as_json: bool, max_tokens: int | None) -> None:
    """Answers WORDS and what comes by a pipe; the answer is printed as it arrives."""
    options: dict[str, Any] = {} if max_tokens is None else {"max_tokens": max_tokens}
    options |= {"model": client.defaults.model, "messages": [{"role": "user", "content": _prompt(words)}]}
    if as_json:
        return click.echo(client.chat.completions.create(**options).model_dump_json(exclude_none=True))
    for event in client.chat.completions.create(stream=True, **options):
        click.echo((event.choices[0].delta.content or "") if event.choices else "", nl=False)
    click.echo()


@minimax.command()
@click.argument("words", nargs=-1)
@_json
@_tokens
@click.pass_obj
def complete(client: MiniMaxM3, words: tuple[str, ...], as_json: bool, max_tokens: int | None) -> None:
    """Goes on with WORDS, or with what comes by a pipe."""
    answer = client.complete(_prompt(words), max_tokens=max_tokens or 256)
    click.echo(answer.model_dump_json(exclude_none=True) if as_json else answer.choices[0].text)


@minimax.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--standard", "standards", multiple=True, help="For example pep8, security; may be given again.")
@click.option("--fail-on", type=click.Choice([*_SEVERITIES, "never"]), default="high", show_default=True)
@_json
@click.pass_obj
def review(client: MiniMaxM3, files: tuple[Path, ...], standards: tuple[str, ...], fail_on: str, as_json: bool) -> None:
    """Reviews FILES; exits with 3 where an issue is at least as severe as --fail-on."""
    sources = {path.as_posix().lstrip("/"): _text(path) for path in files}
    result = client.review_code(sources, standards=standards)
    click.echo(json.dumps(dataclasses.asdict(result)) if as_json else _told(result))
    severe = _SEVERITIES[_SEVERITIES.index(fail_on) :] if fail_on != "never" else ()
    if any(issue.severity in severe for issue in result.issues):
        sys.exit(FOUND)


@minimax.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--framework", default="pytest", show_default=True)
@_json
@_tokens
@click.pass_obj
def tests(client: MiniMaxM3, file: Path, framework: str, as_json: bool, max_tokens: int | None) -> None:
    """Writes tests for FILE. Nobody has run them: the standard error says so."""
    sampling: Any = {} if max_tokens is None else {"max_tokens": max_tokens}
    result = client.generate_tests(_text(file), framework=framework, module=file.stem, **sampling)
    click.echo(json.dumps(dataclasses.asdict(result)) if as_json else result.code or result.content)
    click.echo("nothing was run; read the tests, then run them", err=True)


@minimax.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_json
@_tokens
@click.pass_obj
def explain(client: MiniMaxM3, file: Path, as_json: bool, max_tokens: int | None) -> None:
    """Explains what FILE does; one beyond the window is read in parts."""
    sampling: Any = {} if max_tokens is None else {"max_tokens": max_tokens}
    result = client.analyze(
        _text(file), "Explain what this code does, for a newcomer.", on_overflow="chunk", **sampling
    )
    click.echo(json.dumps(dataclasses.asdict(result)) if as_json else str(result))


@minimax.command()
@click.pass_obj
def usage(client: MiniMaxM3) -> None:
    """Prints what the key has used, as JSON."""
    click.echo(json.dumps(client.usage(), indent=2))


def main() -> None:
    """Runs the command line; an error is one sentence and exit code 1."""
    try:
        minimax(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except openai.OpenAIError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(FAILED)


def _prompt(words: tuple[str, ...]) -> str:
    piped = "" if sys.stdin.isatty() else sys.stdin.read()
    prompt = "\n\n".join(part for part in (" ".join(words), piped.strip()) if part)
    if not prompt:
        raise click.UsageError("nothing to ask; give WORDS or pipe a text")
    return prompt


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"{path}: is not UTF-8 text") from error


def _told(review: Review) -> str:
    lines = [
        f"{issue.file}:{issue.line}: {issue.severity}: {issue.message}{f' [{issue.rule}]' if issue.rule else ''}"
        for issue in review.issues
    ]
    score = "unknown" if review.quality_score is None else f"{review.quality_score:g}/100"
    return "\n".join([*lines, f"{len(review.issues)} issues, quality {score}"])
