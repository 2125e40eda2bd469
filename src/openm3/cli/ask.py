"""`openm3 ask`: a question about files and folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from openm3.cli.answer import INTERRUPTED, show_answer, summary
from openm3.cli.options import ModelOptions, SamplingOptions, model_options, sampling_options
from openm3.context.files import Collection, collect
from openm3.errors import InputError

if TYPE_CHECKING:
    from openm3.engine.llm import LLM

_QUESTION = "{context}\nUse the files above to answer. {question}"
_SKIPPED_SHOWN = 5
_DEFAULT_ANSWER_TOKENS = 256


@click.command()
@click.argument("question")
@click.option(
    "-c",
    "--context",
    "paths",
    multiple=True,
    required=True,
    metavar="PATH",
    help="A file, folder or glob to read; may be given again. Folders respect .gitignore.",
)
@click.option("--fit", is_flag=True, help="When the files are more than the window, leave out the last ones.")
@model_options
@sampling_options(temperature=0.0, frequency_penalty=0.5, max_tokens=_DEFAULT_ANSWER_TOKENS)
def ask(
    question: str,
    paths: tuple[str, ...],
    fit: bool,
    model_options: ModelOptions,
    sampling_options: SamplingOptions,
) -> None:
    """Read files and answer a QUESTION about them.

    The answer goes to the standard output, everything else to the standard error.

    \b
    Examples:
      openm3 ask --context ./src "Where are pages freed?"
      openm3 ask -c 'docs/**/*.md' -c README.md "How is it installed?"
      openm3 ask -c ./src --attention sparse --blocks 8 "What does the scheduler do?"
    """  # fmt: skip
    params = sampling_options.params()
    files = collect(paths)
    _tell_skipped(files)
    llm = model_options.load()
    room = llm.max_context - (params.max_tokens or _DEFAULT_ANSWER_TOKENS)
    files, prompt_ids = _fit(llm, files, question, room, fit)
    click.echo(f"{len(files.files)} files, {len(prompt_ids):,} tokens, {llm.name}", err=True)
    if llm.max_context > llm.model_config.max_position_embeddings < len(prompt_ids):
        click.echo(
            f"warning: {llm.name} was trained for {llm.model_config.max_position_embeddings:,} tokens; "
            "its answers get worse beyond",
            err=True,
        )
    answer = show_answer(llm, prompt_ids, params)
    click.echo(summary(answer, llm), err=True)
    if answer.finish_reason == "cancelled":
        raise SystemExit(INTERRUPTED)


def _fit(llm: LLM, files: Collection, question: str, room: int, fit: bool) -> tuple[Collection, list[int]]:
    """The files that fit and the prompt that they make.

    Raises:
        InputError: they are more than the window; says how much too much, and which options help.
    """
    prompt_ids = _encode(llm, files, question)
    if len(prompt_ids) <= room:
        return files, prompt_ids
    if not fit:
        raise InputError(
            "--context",
            f"{len(prompt_ids):,} tokens are {len(prompt_ids) - room:,} more than fit beside the answer in the "
            f"window of {llm.max_context:,}; name fewer files, let --fit leave out the last ones, or set --window "
            "to read past what the model was trained for",
        )
    fewest, most = 0, len(files.files)  # the first `fewest` files fit, the first `most` don't
    while most - fewest > 1:
        middle = (fewest + most) // 2
        fits = len(_encode(llm, _first(files, middle), question)) <= room
        fewest, most = (middle, most) if fits else (fewest, middle)
    if not fewest:
        raise InputError(
            "--context", f"{files.files[0].path} alone is more than the window of {llm.max_context:,} tokens"
        )
    click.echo(f"left out to fit: {', '.join(file.path for file in files.files[fewest:])}", err=True)
    kept = _first(files, fewest)
    return kept, _encode(llm, kept, question)


def _first(files: Collection, count: int) -> Collection:
    return Collection(files.files[:count], files.skipped)


def _encode(llm: LLM, files: Collection, question: str) -> list[int]:
    content = _QUESTION.format(context=files.render(), question=question)
    return llm.encode_chat([{"role": "user", "content": content}])


def _tell_skipped(files: Collection) -> None:
    for skipped in files.skipped[:_SKIPPED_SHOWN]:
        click.echo(f"skipped {skipped.path}: {skipped.reason}", err=True)
    if len(files.skipped) > _SKIPPED_SHOWN:
        click.echo(f"skipped {len(files.skipped) - _SKIPPED_SHOWN} more", err=True)
