"""`Reader`: how a model reads text, without its weights; another process can have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openm3.engine.conversation import Conversations
from openm3.engine.prompt import Prompt
from openm3.model.vision_config import VisionConfig
from openm3.text.tokenizer import Tokenizer

Message = Mapping[str, Any]


class Reader:
    """What is known of a loaded model, and how text and conversations become prompts for it. It can be pickled.

    Args:
        vision: how the model sees; None where it doesn't.

    Attributes:
        name: what the model is called in answers.
        identity: 16 hex digits that differ for other weights files or configurations.
        max_context: the most tokens of a prompt and its answer together.
        hidden_size: numbers of a token's state.
        can_see: whether messages may hold images and videos.
    """

    def __init__(
        self,
        name: str,
        identity: str,
        tokenizer: Tokenizer,
        vision: VisionConfig | None,
        max_context: int,
        hidden_size: int,
    ) -> None:
        self.name, self.identity, self.tokenizer = name, identity, tokenizer
        self.max_context, self.hidden_size = max_context, hidden_size
        self.can_see = vision is not None
        self._vision = vision
        self._conversations = Conversations(tokenizer, vision, max_context)

    def __reduce__(self) -> tuple[type[Reader], tuple[Any, ...]]:
        return Reader, (
            self.name,
            self.identity,
            self.tokenizer,
            self._vision,
            self.max_context,
            self.hidden_size,
        )

    @property
    def has_thinking_modes(self) -> bool:
        """Whether a conversation may say how the answer thinks."""
        return self._conversations.has_modes

    def encode(self, text: str) -> list[int]:
        """Tokens of a plain prompt; names of control tokens in it are ordinary characters."""
        return self.tokenizer.encode(text, add_bos=self.tokenizer.adds_bos)

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking_mode: str | None = None,
    ) -> Prompt:
        """A conversation, ready for the answer.

        Args:
            messages: as in the OpenAI API. A content is text or a list of parts; a model that sees takes images and
                videos among them, see `openm3.model.vision_prompt.encode_conversation`.
            tools: what the model may call, as in the OpenAI API; where its chat template knows tool calls.
            thinking_mode: "enabled", "disabled" or "adaptive"; where its chat template has these modes.

        Raises:
            InputError: no messages, or the model has no chat template, or the template refuses them, or they ask for
                what the model can't do; the field says where.
        """
        return self._conversations.encode(messages, tools=tools, thinking_mode=thinking_mode)
