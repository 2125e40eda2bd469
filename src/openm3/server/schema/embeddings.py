"""`POST /v1/embeddings`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, Tag

from openm3.server.schema.completions import TEXTS_OR_TOKENS, Tokens, each_of
from openm3.server.schema.request import RequestModel

MAX_INPUTS = 2048
MAX_TOKENS = 300_000
"""Of all inputs together."""

Input = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[Tokens, Tag("tokens")]
    | Annotated[list[str], Field(max_length=MAX_INPUTS), Tag("texts")]
    | Annotated[list[Tokens], Field(max_length=MAX_INPUTS), Tag("token lists")],
    TEXTS_OR_TOKENS,
]


class EmbeddingExtensions(RequestModel):
    """What the OpenAI API doesn't have. `truncate`: of a text that is too long, the beginning is read."""

    truncate: bool | None = None


class EmbeddingRequest(RequestModel):
    """Texts to turn into vectors. Token ids are those of the embedding model, and are taken as they are."""

    model: str
    input: Input
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None
    openm3: EmbeddingExtensions | None = None

    def inputs(self) -> list[str | Tokens]:
        """Each text, or its token ids."""
        return each_of(self.input)

    @property
    def truncate(self) -> bool:
        """Whether the end of what is too long may be left out."""
        return bool(self.openm3 and self.openm3.truncate)


class Embedding(BaseModel):
    """A vector of length 1: numbers, or base64 of fp32 in little-endian order."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens that were read, those that the model puts around a text included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """The vectors, in the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
