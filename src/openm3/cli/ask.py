"""`openm3 ask`: a question about files and folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openm3.cli.answer import INTERRUPTED, references, show_answer, summary
from openm3.cli.options import ModelOptions, SamplingOptions, context_option, model_options, sampling_options
from openm3.context.files import QUESTION, Collection, SkippedFile, collect
from openm3.context.sources import SourceMap
from openm3.errors import InputError

if TYPE_CHECKING:
    from openm3.context.evidence import Evidence
    from openm3.engine.llm import LLM
    from openm3.engine.prompt import Prompt

_IMAGE = re.compile(r"messages\[0\]\.content\[(\d+)\]")  # the field of an error about one of the images
_SKIPPED_SHOWN = 5
DEFAULT_ANSWER_TOKENS = 256


@click.command()
@click.argument("question")
@context_option("read")
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A png, jpeg, webp or gif to look at; may be given again. For models that see.",
)
@click.option(
    "--load",
    "loaded",
    metavar="NAME",
    help="Ask about a context of `openm3 context save`, without reading it again; with its model and options.",
)
@click.option("--evidence", is_flag=True, help="Name the files and lines that the answer was read from.")
@click.option(
    "--evidence-html",
    "page",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a page that shows what each token of the answer read.",
)
@click.option("--fit", is_flag=True, help="When the files are more than the window, leave out the last ones.")
@model_options
@sampling_options(temperature=0.0, frequency_penalty=0.5, max_tokens=DEFAULT_ANSWER_TOKENS)
def ask(
    question: str,
    paths: tuple[str, ...],
    images: tuple[Path, ...],
    loaded: str | None,
    evidence: bool,
    page: Path | None,
    fit: bool,
    model_options: ModelOptions,
    sampling_options: SamplingOptions,
) -> None:
    """Read files, look at images, and answer a QUESTION about them.

    The answer goes to the standard output, everything else to the standard error.

    \b
    Examples:
      openm3 ask --context ./src "Where are pages freed?"
      openm3 ask -c 'docs/**/*.md' -c README.md "How is it installed?"
      openm3 ask -c ./src --attention sparse --blocks 8 "What does the scheduler do?"
      openm3 ask -c ./src --evidence "Where are pages freed?"
      openm3 ask -c . --overflow compact "What is this project about?"
      openm3 ask --load sources "Where are pages freed?"      # after: openm3 context save sources -c ./src
      openm3 ask -m ./MiniMax-M3 --image plan.png "How many rooms are there?"
    """  # fmt: skip
    params = replace(sampling_options.params(), evidence=evidence or page is not None)
    if not paths and not images and loaded is None:
        raise InputError("--context", "name files to read, or images to look at with --image")
    if loaded is not None and (paths or images):
        raise InputError("--load", "brings its own files; leave --context and --image out")
    if page is not None and not page.parent.is_dir():
        raise InputError("--evidence-html", f"there is no folder {page.parent}")
    files = collect(paths) if paths else Collection((), ())
    tell_skipped(files.skipped)
    llm, files = model_options.load_with(loaded) if loaded is not None else (model_options.load(), files)
    if images and not llm.can_see:
        raise InputError("--image", f"{llm.name} has no vision part; take a model that sees, or leave the images out")
    room = llm.max_context - (params.max_tokens or DEFAULT_ANSWER_TOKENS)
    asked = Question(llm, question, images)
    files, prompt = fit_files(asked, files, room, fit)
    num_tokens = len(prompt.ids)
    shown = f", {len(images)} images" if images else ""
    click.echo(f"{len(files.files)} files{shown}, {num_tokens:,} tokens, {llm.name}", err=True)
    if llm.max_context > llm.model_config.max_position_embeddings < num_tokens:
        click.echo(
            f"warning: {llm.name} was trained for {llm.model_config.max_position_embeddings:,} tokens; "
            "its answers get worse beyond",
            err=True,
        )
    answer = show_answer(llm, prompt, params)
    for line in references(answer) if evidence else ():
        click.echo(line, err=True)
    if page is not None and answer.evidence is not None:
        _write_page(page, answer.evidence, question, llm)
    click.echo(summary(answer, llm), err=True)
    if answer.finish_reason == "cancelled":
        raise SystemExit(INTERRUPTED)


def _write_page(path: Path, evidence: Evidence, question: str, llm: LLM) -> None:
    from openm3.context.evidence_page import evidence_page

    try:
        path.write_text(evidence_page(evidence, title=question, about=f"{llm.name}."), encoding="utf-8")
    except OSError as error:
        raise InputError("--evidence-html", f"{path} can't be written: {error.strerror}") from error
    click.echo(f"wrote {path}", err=True)


class Question:
    """A question, and the prompt that it makes with some files."""

    def __init__(self, llm: LLM, question: str, images: Sequence[Path]) -> None:
        self.llm, self._question, self._images = llm, question, images

    def prompt(self, files: Collection) -> Prompt:
        """The prompt with these files.

        Raises:
            InputError: an image can't be read or is too large.
        """
        text = QUESTION.format(context=files.render(), question=self._question) if files.files else self._question
        parts: list[dict[str, Any]] = [{"type": "image", "image": path} for path in self._images]
        content = [*parts, {"type": "text", "text": text}] if parts else text
        try:
            prompt = self.llm.encode_chat([{"role": "user", "content": content}])
        except InputError as error:
            if about := _IMAGE.match(error.field):
                raise InputError("--image", f"{self._images[int(about[1])]}: {error.message}") from error
            if self._images and error.field == "messages":
                raise InputError("--image", error.message) from error
            raise
        sources = SourceMap.of_files(prompt.ids, self.llm.tokenizer.token_bytes, files) if files.files else None
        # What the question is without files is at least as long as it is behind them.
        alone = self.llm.encode_chat(
            [{"role": "user", "content": QUESTION.format(context="", question=self._question)}]
        )
        return replace(prompt, sources=sources or prompt.sources, tail=len(alone.ids))


def fit_files(asked: Question, files: Collection, room: int, fit: bool) -> tuple[Collection, Prompt]:
    """The files that fit and the prompt that they make.

    Raises:
        InputError: they are more than the window; says how much too much, and which options help.
    """
    prompt, window = asked.prompt(files), asked.llm.max_context
    compacts = asked.llm.config.overflow == "compact" and not prompt.media
    if (num_tokens := len(prompt.ids)) <= room or (compacts and not fit):
        return files, prompt
    if not files.files:
        raise InputError("--image", f"{num_tokens:,} tokens are more than fit beside the answer in {window:,}")
    if not fit:
        raise InputError(
            "--context",
            f"{num_tokens:,} tokens are {num_tokens - room:,} more than fit beside the answer in the "
            f"window of {window:,}; name fewer files, let --fit leave out the last ones, let --overflow compact drop "
            "what is least important, or set --window to read past what the model was trained for",
        )
    fewest, most = 0, len(files.files)  # the first `fewest` files fit, the first `most` don't
    while most - fewest > 1:
        middle = (fewest + most) // 2
        fits = len(asked.prompt(_first(files, middle)).ids) <= room
        fewest, most = (middle, most) if fits else (fewest, middle)
    if not fewest:
        raise InputError("--context", f"{files.files[0].path} alone is more than the window of {window:,} tokens")
    click.echo(f"left out to fit: {', '.join(file.path for file in files.files[fewest:])}", err=True)
    kept = _first(files, fewest)
    return kept, asked.prompt(kept)


def _first(files: Collection, count: int) -> Collection:
    return Collection(files.files[:count], files.skipped)


def tell_skipped(skipped: Sequence[SkippedFile]) -> None:
    """Says on the standard error what was not taken, and why."""
    for file in skipped[:_SKIPPED_SHOWN]:
        click.echo(f"skipped {file.path}: {file.reason}", err=True)
    if len(skipped) > _SKIPPED_SHOWN:
        click.echo(f"skipped {len(skipped) - _SKIPPED_SHOWN} more", err=True)
