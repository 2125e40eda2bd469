"""`POST /v1/completions`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from openm3.server.schema.request import GenerationRequest, Only, Unsupported
from openm3.server.schema.response import FinishReason, GenerationResponse

MAX_PROMPTS = 64

TokenId = Annotated[int, Field(ge=0)]
Tokens = list[TokenId]


def _kind(prompt: Any) -> str | None:
    if isinstance(prompt, str):
        return "text"
    first = prompt[0] if isinstance(prompt, list) and prompt else None
    return {str: "texts", int: "tokens", list: "token lists"}.get(type(first))


TEXTS_OR_TOKENS = Discriminator(
    _kind,
    custom_error_type="invalid_type",
    custom_error_message="must be a string, a list of token ids, or a list of either",
)
"""Tells the branches of one or many texts, each text or token ids, apart by their first element."""

Prompt = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[Tokens, Tag("tokens")]
    | Annotated[list[str], Field(max_length=MAX_PROMPTS), Tag("texts")]
    | Annotated[list[Tokens], Field(max_length=MAX_PROMPTS), Tag("token lists")],
    TEXTS_OR_TOKENS,
]


class CompletionRequest(GenerationRequest):
    """Texts to go on with. `max_tokens` is 16 unless given, as in the OpenAI API."""

    prompt: Prompt
    logprobs: int | None = None

    best_of: Annotated[Literal[1] | None, Only] = None
    echo: Annotated[Literal[False] | None, Only] = None
    suffix: Unsupported = None

    def prompts(self) -> list[str | Tokens]:
        """The prompts, each a text or its token ids; `n` choices are made from each."""
        return each_of(self.prompt)


def each_of(given: Any) -> list[str | Tokens]:
    """One or many texts as a list of them, each text or token ids; the first element tells which."""
    many = isinstance(given, list) and not isinstance(given[0], int)
    return list(given) if many else [given]


class Logprobs(BaseModel):
    """Log probabilities of tokens; `text_offset` is where each begins in the choice's text, in characters."""

    text_offset: list[int]
    token_logprobs: list[float]
    tokens: list[str]
    top_logprobs: list[dict[str, float]]


class Choice(BaseModel):
    """One of the answers, or in a stream what is added to it. Choices of the first prompt come first."""

    index: int
    text: str
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None


class Completion(GenerationResponse):
    """A whole response, or one event of a stream."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[Choice]
