"""From a conversation to a prompt: what the model can't do is refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from openm3.context.sources import SourceMap
from openm3.engine.prompt import Prompt
from openm3.errors import InputError
from openm3.model.vision_config import VisionConfig
from openm3.model.vision_prompt import VisionPrompt, encode_conversation
from openm3.text.dialect import Dialect, begins_in_thinking, dialect_of
from openm3.text.template import ChatTemplate, Message, encode_chat
from openm3.text.tokenizer import Tokenizer

THINKING_MODES = ("enabled", "disabled", "adaptive")


class Conversations:
    """Turns conversations into prompts for one model. Immutable: any number of threads may use one.

    Args:
        tokenizer: the model's, with its chat template.
        vision: how the model sees; None where it doesn't.
        max_tokens: images and videos that need more are refused before the next one is read.

    Attributes:
        dialect: how the model marks thinking and tool calls.
        has_modes: its chat template takes a mode of thinking.
    """

    def __init__(self, tokenizer: Tokenizer, vision: VisionConfig | None, max_tokens: int) -> None:
        self._tokenizer, self._vision, self._max_tokens = tokenizer, vision, max_tokens
        source = tokenizer.chat_template
        self._template = ChatTemplate(source) if source else None
        self.has_modes = "thinking_mode" in (source or "")
        self.dialect: Dialect = dialect_of(source)

    def encode(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking_mode: str | None = None,
    ) -> Prompt:
        """The prompt of a conversation, see `LLM.encode_chat`."""
        if thinking_mode == "disabled" and not self.dialect.think:
            thinking_mode = None  # it never thinks aloud
        variables: dict[str, Any] = {} if thinking_mode is None else {"thinking_mode": thinking_mode}
        if thinking_mode is not None and not self.has_modes:
            raise InputError("thinking_mode", "this model's chat template has no modes of thinking; leave it out")
        if thinking_mode is not None and thinking_mode not in THINKING_MODES:
            raise InputError("thinking_mode", f"must be one of {', '.join(THINKING_MODES)}, got {thinking_mode!r}")
        if tools and not self.dialect.tools:
            raise InputError("tools", "this model's chat template knows no tool calls; leave them out")
        for i, message in enumerate(messages):
            self._check(message, f"messages[{i}]")
        if self._vision is None:
            plain = [_as_text(message, f"messages[{i}].content") for i, message in enumerate(messages)]
            prompt = VisionPrompt(encode_chat(self._tokenizer, self._template, plain, tools=tools, **variables), (), [])
        else:
            prompt = encode_conversation(
                self._tokenizer, self._template, self._vision, messages,
                tools=tools, max_tokens=self._max_tokens, **variables,
            )  # fmt: skip
        return Prompt(
            prompt.ids,
            prompt.media,
            prompt.places,
            self.dialect,
            thinking=begins_in_thinking(self._tokenizer, self.dialect, prompt.ids),
            tools=tuple(tools or ()),
            sources=SourceMap.of_messages(prompt.ids, self._tokenizer.token_bytes, messages),
            head=self._num_system(prompt.ids, messages, tools=tools, **variables),
        )

    def _num_system(self, ids: Sequence[int], messages: Sequence[Message], **variables: Any) -> int:
        """How many tokens the system prompt is: those that a conversation about something else begins with too."""
        system = [_as_text(each, "messages") for each in takewhile(lambda each: each.get("role") == "system", messages)]
        if not system:
            return 0
        other = encode_chat(self._tokenizer, self._template, [*system, {"role": "user", "content": "?"}], **variables)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, other, strict=False)))

    def _check(self, message: Message, field: str) -> None:
        if not self.dialect.tools:
            if message.get("role") == "tool":
                raise InputError(f"{field}.role", "'tool': this model's chat template knows no tools")
            if message.get("tool_calls"):
                raise InputError(f"{field}.tool_calls", "this model's chat template knows no tool calls")
        if message.get("reasoning_content") and not self.dialect.think:
            raise InputError(f"{field}.reasoning_content", "this model doesn't think aloud")


def _as_text(message: Message, field: str) -> Message:
    """The message with its parts of text as one text, a line each, which every template takes."""
    content = message.get("content")
    if not isinstance(content, Sequence) or isinstance(content, str):
        return message
    texts = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            what = f"{kind!r} is not for this model, which has no vision part;" if kind and kind != "text" else "is no"
            raise InputError(f"{field}[{i}]", f"{what} text part: give {{'type': 'text', 'text': ...}}")
        texts.append(part["text"])
    return {**message, "content": "\n".join(texts)}
