"""`POST /v1/images/generate` and `/v1/images/generations`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from openm3.server.schema.request import Only, RequestModel, Unsupported, wrong_field

Format = Literal["png", "jpeg", "webp"]

MAX_IMAGES = 10
_MAX_SEED = 2**32 - 1


class ImageExtensions(RequestModel):
    """What the OpenAI API doesn't have; image i is drawn with `seed + i`."""

    negative_prompt: Annotated[str, Field(max_length=32_000)] | None = None
    steps: Annotated[int, Field(ge=1)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    seed: Annotated[int, Field(ge=0, le=_MAX_SEED)] | None = None


class ImageRequest(RequestModel):
    """An image to draw. `size` is `auto`, the model's own, or WIDTHxHEIGHT."""

    prompt: Annotated[str, Field(min_length=1, max_length=32_000)]
    model: str = "default"
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] | None = None
    size: Annotated[str, Field(pattern="^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$")] | None = None
    output_format: Annotated[Format | None, Only] = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    safety_identifier: str | None = None
    user: str | None = None
    openm3: ImageExtensions | None = None

    background: Annotated[Literal["auto", "opaque"] | None, Only] = None
    complexity: Unsupported = None
    frame_count: Unsupported = None
    frame_duration_ms: Unsupported = None
    moderation: Annotated[Literal["auto"] | None, Only] = None
    partial_images: Annotated[Literal[0] | None, Only] = None
    quality: Annotated[Literal["auto"] | None, Only] = None
    response_format: Annotated[Literal["b64_json"] | None, Only] = None
    stream: Annotated[Literal[False] | None, Only] = None
    style: Unsupported = None
    svg: Unsupported = None

    @model_validator(mode="after")
    def _check_together(self) -> ImageRequest:
        if self.output_compression is not None and self.output_format in (None, "png"):
            raise wrong_field("output_compression", "is for jpeg and webp")
        return self

    @property
    def pixels(self) -> tuple[int, int] | None:
        """Width and height; None: the model's own."""
        if self.size is None or self.size == "auto":
            return None
        width, height = self.size.split("x")
        return int(width), int(height)


class DrawnImage(BaseModel):
    """A file, in base64."""

    b64_json: str


class ImageInputDetails(BaseModel):
    """What was read."""

    text_tokens: int
    image_tokens: int = 0


class ImageUsage(BaseModel):
    """Tokens that were charged; those of images count 32 x 32 pixels and 25 steps as one."""

    input_tokens: int
    input_tokens_details: ImageInputDetails
    output_tokens: int
    total_tokens: int


class DrawnWith(BaseModel):
    """What the first image was drawn with; the same request with it gives the same images."""

    seed: int
    steps: int
    model: str


class ImageList(BaseModel):
    """The images in their order."""

    created: int
    data: list[DrawnImage]
    background: Literal["opaque"] = "opaque"
    output_format: Format
    size: str
    usage: ImageUsage
    openm3: DrawnWith
