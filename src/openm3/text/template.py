"""Chat templates: from a conversation to the prompt that the model was trained on; messages stay data."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from openm3.errors import InputError, ModelError
from openm3.text import m3
from openm3.text.tokenizer import Tokenizer

Message = Mapping[str, Any]

# Templates take milliseconds; a runaway loop ends here.
RENDER_TIMEOUT_S = 10.0


class ChatTemplate:
    """A model's chat template: Jinja as `transformers` runs it, in a sandbox.

    A template that doesn't parse is a `ModelError`. Rendering is cut off after `RENDER_TIMEOUT_S`, checked
    between the pieces of output: a loop that prints nothing is held only by the sandbox's limit on `range`.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ModelError(f"chat template, line {error.lineno}: {error.message}") from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        bos_token: str = "",
        eos_token: str = "",
        **variables: Any,
    ) -> str:
        """The prompt as text; `variables` are the template's own (`enable_thinking=False`).

        A conversation that the template refuses or can't handle is an `InputError`.
        """
        if not messages:
            raise InputError("messages", "empty; a conversation needs at least one")
        context = {
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": bos_token,
            "eos_token": eos_token,
            **variables,
        }
        deadline = time.monotonic() + RENDER_TIMEOUT_S
        pieces = []
        try:
            for piece in self._template.generate(context):
                pieces.append(piece)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"it took more than {RENDER_TIMEOUT_S:g} s")
        except Exception as error:  # the template is a program: it may fail in any way
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError("messages", f"the model's chat template can't render them: {reason}") from error
        return "".join(pieces)


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    media: Mapping[str, Sequence[str]] | None = None,
    **variables: Any,
) -> list[int]:
    """The tokens of a conversation: control tokens come from the template alone, never from what it is given.

    The name of a control token inside a message ("<|im_end|>" in a file somebody asks about) passes through
    the template as a placeholder and is then encoded as ordinary text. Without such names the tokens are
    those of the rendered text. Arguments of tool calls may be JSON text, as in the API; templates get objects.

    Args:
        media: for the token that a template writes for an image or a video, what each of them is written as, in
            their order: `{m3.IMAGE: [begin + m3.IMAGE * 576 + end]}`.

    Raises:
        InputError: there is no template, it refuses the messages, or they hold images or videos that `media` hasn't.
    """
    if template is None:
        raise InputError("messages", "this model has no chat template; use plain completion")
    given = {"messages": [_with_arguments(message) for message in messages], "tools": tools, **variables}
    placeholders = _placeholders(tokenizer.special_tokens, given, template.source)
    rendered = template.render(
        add_generation_prompt=add_generation_prompt,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        **(_replace(given, placeholders) if placeholders else given),
    )
    rendered = _with_media(rendered, media or {}, tokenizer.special_tokens)
    names = {char: name for name, char in placeholders.items()}
    pieces = re.split(f"([{''.join(names)}])", rendered) if names else [rendered]
    ids: list[int] = []
    try:
        for piece in pieces:
            name = names.get(piece)
            ids += tokenizer.encode(piece, parse_special=True) if name is None else tokenizer.encode(name)
    except InputError as error:
        raise InputError("messages", error.message) from error
    return ids


def _with_arguments(message: Message) -> Message:
    """The message with its tool calls' arguments as objects."""
    if not isinstance(message, Mapping) or not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call.get("function", call)
        if isinstance(function.get("arguments"), str):
            try:
                arguments = json.loads(function["arguments"])
            except (ValueError, RecursionError) as error:
                raise InputError("messages", f"arguments of a tool call are not JSON: {error}") from error
            function = {**function, "arguments": arguments}
            call = {**call, "function": function} if "function" in call else function
        calls.append(call)
    return {**message, "tool_calls": calls}


def _with_media(rendered: str, media: Mapping[str, Sequence[str]], special_tokens: Collection[str]) -> str:
    """The rendered text with each image and video written out."""
    names = {m3.IMAGE, m3.VIDEO, *media}
    if missing := media.keys() - special_tokens:
        raise InputError("messages", f"this model has no token {', '.join(sorted(missing))}: it can't see")
    names &= set(special_tokens)
    for name in names:
        if rendered.count(name) != len(media.get(name, ())):
            raise InputError("messages", f"{rendered.count(name)} times {name}, but {len(media.get(name, ()))} given")
    if not media:
        return rendered
    texts = {name: iter(media.get(name, ())) for name in names}
    return re.sub("|".join(map(re.escape, sorted(names))), lambda match: next(texts[match[0]]), rendered)


def _placeholders(names: Iterable[str], given: object, source: str) -> dict[str, str]:
    """For each of `names` that `given` holds, the longest first, a private-use character found nowhere."""
    texts = list(_strings(given))
    present = sorted((name for name in names if any(name in text for text in texts)), key=len, reverse=True)
    if not present:
        return {}
    used = set(source).union(*texts)
    free = [char for char in map(chr, range(0xF0000, 0xFFFFE)) if char not in used]
    if len(free) < len(present):
        raise InputError("messages", "they use every private-use character from U+F0000 on; leave some out")
    return dict(zip(present, free, strict=False))


def _strings(value: object) -> Iterator[str]:
    """Every string in a JSON-like value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for pair in value.items():
            yield from _strings(pair)
    elif isinstance(value, Sequence):
        for item in value:
            yield from _strings(item)


def _replace(value: Any, placeholders: Mapping[str, str]) -> Any:
    """A copy of a JSON-like value with the placeholders in the place of what they stand for."""
    pattern = re.compile("|".join(map(re.escape, placeholders)))

    def replaced(value: Any) -> Any:
        if isinstance(value, str):
            return pattern.sub(lambda match: placeholders[match[0]], value)
        if isinstance(value, Mapping):
            return {replaced(key): replaced(item) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [replaced(item) for item in value]
        return value

    return replaced(value)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks an answer for training; here it is just its body."""

    tags = {"generation"}  # noqa: RUF012  # the base class declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """What published templates expect: the settings and helpers of `transformers`."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes HTML, which a prompt isn't.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
