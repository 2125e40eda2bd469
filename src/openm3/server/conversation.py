"""From a conversation to its answer: what the endpoints share that converse. Each translates to `ChatRequest`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from openm3.engine.prompt import Prompt
from openm3.errors import InputError
from openm3.model.vision_source import MAX_IMAGE_BYTES
from openm3.server.answer import Answer, Answering, renamed
from openm3.server.fetch import fetch
from openm3.server.gate import Gate
from openm3.server.routes.models import check_model
from openm3.server.schema.chat import ChatRequest, Message

if TYPE_CHECKING:
    from openm3.server.backend import Backend


MAX_FETCHED = 16
_MAX_BYTES = {"image_url": MAX_IMAGE_BYTES, "video_url": 50_000_000}  # the published API's limits


@dataclass(frozen=True)
class Speaker:
    """A model that answers.

    Attributes:
        name: its own, whatever callers know it as.
        window: tokens of prompt and answer together; None: its server doesn't say.
        keeps_to_schemas: whether its answers are known to follow a JSON schema that is asked for.
    """

    name: str
    window: int | None
    keeps_to_schemas: bool


class Talk(Protocol):
    """What answers conversations for endpoints that translate to them: the engine here, or upstreams.

    Attributes:
        thinks_unless_told: a model that should not think has to be told so.
    """

    @property
    def thinks_unless_told(self) -> bool: ...

    def name(self, asked: str) -> str:
        """What the model that answers is called."""

    def speaker(self, asked: str) -> Speaker:
        """The model that answers.

        Raises:
            ApiError: there is none of that name.
        """

    async def converse(self, asked: ChatRequest, fields: Mapping[str, str], request_id: str) -> Answering:
        """The answer; `fields` are as in `converse`.

        Raises:
            InputError: the request can't be served.
            ApiError: another model is asked for.
        """


class EngineTalk:
    """Keeps `Talk`: what a backend answers."""

    def __init__(self, service: Backend) -> None:
        self._service = service

    @property
    def thinks_unless_told(self) -> bool:
        return self._service.llm.has_thinking_modes

    def name(self, asked: str) -> str:
        return self._service.llm.name

    def speaker(self, asked: str) -> Speaker:
        llm = self._service.llm
        check_model(asked, llm)
        return Speaker(llm.name, llm.max_context, keeps_to_schemas=True)

    async def converse(self, asked: ChatRequest, fields: Mapping[str, str], request_id: str) -> Answering:
        return (await converse(self._service, asked, fields))[0]


@dataclass
class Translated:
    """Messages of a chat completion, and what the caller knows its fields as, as in `renamed`."""

    fields: dict[str, str]
    messages: list[Message] = field(default_factory=list)

    def add(self, message: Message, field: str) -> str:
        """Adds a message that the caller knows as `field`, and returns the name of the message added."""
        name = f"messages[{len(self.messages)}]"
        self.messages.append(message)
        self.fields[name] = field
        return name


async def converse(
    service: Backend, asked: ChatRequest, fields: Mapping[str, str] = MappingProxyType({})
) -> tuple[Answer, Prompt]:
    """The answer to a conversation, and the prompt that the conversation is.

    Args:
        service: generates.
        asked: the conversation.
        fields: what the endpoint's caller knows the fields of `asked` as, as in `renamed`.

    Raises:
        InputError: the request can't be served.
        ApiError: another model is asked for.
    """
    fields = _fields(asked, fields)
    with renamed(fields):
        params = asked.sampling(
            max_tokens=asked.max_completion_tokens or asked.max_tokens,
            logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
            evidence=bool(asked.openm3 and asked.openm3.evidence),
            max_thinking=asked.thinks[1],
        )
    prompt = await encode(service, asked, fields)
    one_call, progress = asked.parallel_tool_calls is False, bool(asked.openm3 and asked.openm3.progress)
    return Answer(service, [prompt], params, fields, one_call=one_call, progress=progress), prompt


async def encode(service: Backend, asked: ChatRequest, fields: Mapping[str, str] = MappingProxyType({})) -> Prompt:
    """The prompt that a conversation is; the arguments and errors are those of `converse`."""
    llm = service.llm
    check_model(asked.model, llm)
    messages = [message.for_template(inline=asked.reasoning_split is False) for message in asked.messages]
    with renamed(_fields(asked, fields)):
        if llm.can_see:
            await _fetch_media(messages, allowed=not isinstance(service, Gate) or service.fetches_media)
        return await asyncio.to_thread(
            llm.encode_chat,
            messages,
            tools=asked.offered_tools(),
            thinking_mode=asked.thinks[0],
        )


async def _fetch_media(messages: Sequence[Mapping[str, Any]], *, allowed: bool) -> None:
    """Puts the images and videos themselves where messages have their addresses."""
    num_fetched = 0
    for i, message in enumerate(messages):
        content = message["content"]
        for j, part in enumerate(content if isinstance(content, list) else ()):
            max_bytes = _MAX_BYTES.get(part["type"])
            if max_bytes is None or not part[part["type"]]["url"].startswith(("http://", "https://")):
                continue
            medium, field = part[part["type"]], f"messages[{i}].content[{j}].{part['type']}"
            if not allowed:
                raise InputError(field, "this server fetches nothing; send a data URL")
            num_fetched += 1
            if num_fetched > MAX_FETCHED:
                raise InputError(field, f"at most {MAX_FETCHED} addresses are fetched for a request; send data URLs")
            medium["url"] = await fetch(medium["url"], max_bytes=max_bytes, field=field)


def _fields(asked: ChatRequest, fields: Mapping[str, str]) -> dict[str, str]:
    """What the engine knows under the first name, under the caller's."""
    return {**{name: fields.get(own, own) for name, own in asked.engine_fields.items()}, **fields}
