"""`openm3 generate`: text in, text out, for scripts."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, TextIO

import click

from openm3.cli.answer import INTERRUPTED, show_answer
from openm3.cli.options import ModelOptions, SamplingOptions, model_options, sampling_options
from openm3.errors import InputError

if TYPE_CHECKING:
    from openm3.text.grammar import Constraint


@click.command()
@click.argument("prompt", required=False)
@click.option("--chat", "as_chat", is_flag=True, help="Send the prompt as a user's message, through the chat template.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: text, tokens, finish reason, figures.")
@click.option("--json-object", is_flag=True, help="The answer is a JSON object.")
@click.option(
    "--json-schema",
    type=click.File(encoding="utf-8"),
    metavar="FILE",
    help="The answer is JSON that is valid by the schema in FILE; - is the standard input.",
)
@click.option("--regex", metavar="PATTERN", help="The answer is what PATTERN matches, from beginning to end.")
@click.option(
    "--grammar",
    type=click.File(encoding="utf-8"),
    metavar="FILE",
    help="The answer follows the grammar in FILE, in Lark's notation with a rule `start`.",
)
@model_options
@sampling_options(max_tokens=256)
def generate(
    prompt: str | None,
    as_chat: bool,
    as_json: bool,
    json_object: bool,
    json_schema: TextIO | None,
    regex: str | None,
    grammar: TextIO | None,
    model_options: ModelOptions,
    sampling_options: SamplingOptions,
) -> None:
    """Continue PROMPT, or the standard input when it is not given.

    \b
    Examples:
      openm3 generate "def fibonacci(n):" --max-tokens 64
      git diff | openm3 generate --chat --json -n 100
      openm3 generate --chat --json-schema person.json "Ada Lovelace was born in 1815. Who is it?"
      openm3 generate --chat --regex "yes|no" "Is Paris the capital of France?"
    """
    constraint, option = _constraint(json_object, json_schema, regex, grammar)
    params = replace(sampling_options.params(), constraint=constraint)
    text = prompt if prompt is not None else _stdin()
    llm = model_options.load()
    encoded = llm.encode_chat([{"role": "user", "content": text}]) if as_chat else llm.encode(text)
    try:
        answer = show_answer(llm, encoded, params, echo=not as_json)
    except InputError as error:
        raise InputError(option if error.field == "constraint" else error.field, error.message) from error
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


def _constraint(
    json_object: bool, json_schema: TextIO | None, regex: str | None, grammar: TextIO | None
) -> tuple[Constraint | None, str]:
    """What the answer has to look like, and the option that says so.

    Raises:
        InputError: more than one option says so, or a file doesn't hold what it should.
    """
    from openm3.text.grammar import Constraint

    given = {"--json-object": json_object, "--json-schema": json_schema, "--regex": regex, "--grammar": grammar}
    names = [name for name, value in given.items() if value not in (None, False)]
    if len(names) > 1:
        raise InputError(names[1], f"can't go with {names[0]}; give one of them")
    if json_schema is not None:
        try:
            schema = json.load(json_schema)
        except ValueError as error:
            raise InputError("--json-schema", f"{json_schema.name} is not JSON: {error}") from error
        return Constraint.json_schema(schema), "--json-schema"
    if grammar is not None:
        return Constraint("grammar", grammar.read()), "--grammar"
    if regex is not None:
        return Constraint("regex", regex), "--regex"
    return (Constraint.json_object(), "--json-object") if json_object else (None, "")


def _stdin() -> str:
    if sys.stdin.isatty():
        click.echo("type the prompt, then Ctrl-D", err=True)
    data = sys.stdin.buffer.read()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError("prompt", f"the standard input is not UTF-8 (byte {error.start})") from error
