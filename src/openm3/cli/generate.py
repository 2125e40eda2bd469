"""`openm3 generate`: text in, text out, for scripts."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from openm3.cli.answer import INTERRUPTED, show_answer
from openm3.cli.options import ModelOptions, SamplingOptions, model_options, sampling_options
from openm3.errors import InputError


@click.command()
@click.argument("prompt", required=False)
@click.option("--chat", "as_chat", is_flag=True, help="Send the prompt as a user's message, through the chat template.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: text, tokens, finish reason, figures.")
@model_options
@sampling_options(max_tokens=256)
def generate(
    prompt: str | None,
    as_chat: bool,
    as_json: bool,
    model_options: ModelOptions,
    sampling_options: SamplingOptions,
) -> None:
    """Continue PROMPT, or the standard input when it is not given.

    \b
    Examples:
      openm3 generate "def fibonacci(n):" --max-tokens 64
      git diff | openm3 generate --chat --json -n 100
    """
    params = sampling_options.params()
    text = prompt if prompt is not None else _stdin()
    llm = model_options.load()
    encoded = llm.encode_chat([{"role": "user", "content": text}]) if as_chat else llm.encode(text)
    answer = show_answer(llm, encoded, params, echo=not as_json)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "model": llm.name,
                    "text": answer.text,
                    **({"thinking": answer.thinking} if answer.thinking else {}),
                    "token_ids": answer.token_ids,
                    "finish_reason": answer.finish_reason,
                    "stats": asdict(answer.stats),
                },
                ensure_ascii=False,
            )
        )
    if answer.finish_reason == "cancelled":
        raise SystemExit(INTERRUPTED)


def _stdin() -> str:
    if sys.stdin.isatty():
        click.echo("type the prompt, then Ctrl-D", err=True)
    data = sys.stdin.buffer.read()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError("prompt", f"the standard input is not UTF-8 (byte {error.start})") from error
