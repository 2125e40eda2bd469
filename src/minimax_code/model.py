"""What agents and skills ask of a language model. Where it runs, and who speaks HTTP to it, they don't know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from minimax_code.record import Record

Strategy = Literal["pipeline", "agent"]
"""How a model is used for a task. agent: it drives a loop of tool calls; pipeline: our code drives, and it fills in."""
_WINDOWS = ("max_model_len", "context_length", "context_window", "max_context_length", "n_ctx")


class ToolCall(Record):
    """A call that a model wants made. `arguments` is the JSON text that it wrote, which may be anything."""

    id: str
    name: str
    arguments: str = "{}"


class Message(Record):
    """A turn of a conversation. A message of role "tool" answers the call `call_id`."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    calls: tuple[ToolCall, ...] = ()
    call_id: str | None = None


class ToolSpec(Record):
    """A tool as models are told of it; `parameters` is a JSON schema of type "object"."""

    name: str
    description: str
    parameters: Mapping[str, Any]


class Usage(Record):
    """Tokens that a reply has cost. `cached_tokens` are those of the prompt that needn't be computed again."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Of prompt, cached or not, and completion."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
        )


class Request(Record):
    """What a model is asked.

    `json_schema` constrains the whole content, and is only given to a model whose abilities say that it can;
    `temperature` None is the model's own default.
    """

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    json_schema: Mapping[str, Any] | None = None
    max_tokens: int = 1024
    temperature: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


class Reply(Record):
    """What a model answered; "length" means that it was cut at `max_tokens` or the window."""

    content: str = ""
    calls: tuple[ToolCall, ...] = ()
    thinking: str = ""
    finish_reason: Literal["stop", "length", "tool_calls"] = "stop"
    usage: Usage = Usage()

    @property
    def message(self) -> Message:
        """The reply as a turn of the conversation; what the model thought is not part of it."""
        return Message(role="assistant", content=self.content, calls=self.calls)


class Abilities(Record):
    """What a model can do, as its server says or a probe has found.

    Attributes:
        context_tokens: its window, prompt and reply together.
        calls_tools: whether `tools` of a request are honoured; else tools are written of in text.
        takes_json_schema: whether `json_schema` of a request is honoured.
    """

    context_tokens: int
    calls_tools: bool = False
    takes_json_schema: bool = False


def window_of(listed: Mapping[str, Any]) -> int | None:
    """The window of a model in a server's list of models, by whichever name the server gives it; None: by none."""
    meta = listed.get("meta")
    for fields in (listed, meta if isinstance(meta, dict) else {}):
        for name in (*_WINDOWS, "n_ctx_train"):
            if isinstance(fields.get(name), int) and fields[name] > 0:
                return int(fields[name])
    return None


class Model(Protocol):
    """A language model."""

    @property
    def name(self) -> str:
        """What reports call it; the same name means the same calibration."""
        ...

    async def abilities(self) -> Abilities:
        """What it can do; asked once and remembered.

        Raises:
            ModelError: it can't be reached.
        """
        ...

    async def reply(self, request: Request) -> Reply:
        """Its answer.

        Raises:
            ModelError: it can't be reached, or refuses; what a retry could mend was tried again before.
        """
        ...
