"""From a conversation to its answer: what the endpoints share that converse. Each translates to `ChatRequest`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from openm3.engine.prompt import Prompt
from openm3.server.answer import Answer, renamed
from openm3.server.routes.models import check_model
from openm3.server.schema.chat import ChatRequest, Message

if TYPE_CHECKING:
    from openm3.server.backend import Backend


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
    return Answer(service, [prompt], params, fields, one_call=asked.parallel_tool_calls is False), prompt


async def encode(service: Backend, asked: ChatRequest, fields: Mapping[str, str] = MappingProxyType({})) -> Prompt:
    """The prompt that a conversation is; the arguments and errors are those of `converse`."""
    llm = service.llm
    check_model(asked.model, llm)
    with renamed(_fields(asked, fields)):
        return await asyncio.to_thread(
            llm.encode_chat,
            [message.for_template(inline=asked.reasoning_split is False) for message in asked.messages],
            tools=asked.offered_tools(),
            thinking_mode=asked.thinks[0],
        )


def _fields(asked: ChatRequest, fields: Mapping[str, str]) -> dict[str, str]:
    """What the engine knows under the first name, under the caller's."""
    return {**{name: fields.get(own, own) for name, own in asked.engine_fields.items()}, **fields}
