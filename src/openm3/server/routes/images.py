"""`POST /v1/images/generate`, and the same at the OpenAI API's path `/v1/images/generations`."""

from __future__ import annotations

import asyncio
import base64
import math
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request

from openm3.errors import InputError
from openm3.server.answer import renamed
from openm3.server.body import JsonRoute
from openm3.server.callers import Caller, caller_of
from openm3.server.disconnect import until_disconnect
from openm3.server.errors import ApiError, timed_out
from openm3.server.gate import overloaded
from openm3.server.images import ImageGenerator
from openm3.server.record import Record
from openm3.server.schema import images as schema
from openm3.server.schema.response import ErrorResponse, documented
from openm3.server.settings import Settings

if TYPE_CHECKING:
    from PIL.Image import Image

    from openm3.model.diffusion import Drawing

_PATCH, _STEPS = 32 * 32, 25  # pixels and steps that are a token
_DEFAULT = "default"
_NONE = (
    "this server draws no images; `openm3 serve --images FOLDER`, with the folder of a diffusers pipeline, "
    "makes it (pip install 'openm3[images]')"
)
# What the model knows as the first name, the caller knows as the second.
_FIELDS = {name: f"openm3.{name}" for name in ("negative_prompt", "steps", "guidance_scale", "seed")}


def router(generator: ImageGenerator | None, settings: Settings) -> APIRouter:
    """The endpoints that draw; without a generator they say how to get one."""
    routes = APIRouter(route_class=JsonRoute)
    studio = None if generator is None else _Studio(generator, settings)

    @routes.post("/v1/images/generations", operation_id="images_generations", responses=documented(ErrorResponse))
    @routes.post("/v1/images/generate", operation_id="images_generate", responses=documented(ErrorResponse))
    async def generate(asked: schema.ImageRequest, request: Request) -> schema.ImageList:
        """Draws images."""
        if studio is None:
            raise ApiError(501, _NONE, code="not_configured")
        return await until_disconnect(request.receive, studio.draw(asked, caller_of(request)))

    return routes


class _Studio:
    """Requests that are drawn one image after the other; what is too much is refused at once."""

    def __init__(self, generator: ImageGenerator, settings: Settings) -> None:
        self._generator, self._settings = generator, settings
        self._num_asked = 0

    async def draw(self, asked: schema.ImageRequest, caller: Caller) -> schema.ImageList:
        """The response to a request.

        Raises:
            InputError: it can't be drawn as asked; names the field.
            ApiError: another model is asked for, too many requests wait, a limit forbids it, or it takes too long.
        """
        if asked.model not in (self._generator.name, _DEFAULT):
            message = f"the image model {asked.model!r} does not exist; this server has {self._generator.name!r}"
            raise ApiError(404, message, code="model_not_found", param="model")
        if self._num_asked > self._settings.max_waiting:  # one is drawn, the others wait
            raise overloaded(self._num_asked - 1)
        self._num_asked += 1
        try:
            async with asyncio.timeout(self._settings.request_s) as limit:
                return await self._drawn(asked, caller)
        except TimeoutError:
            if not limit.expired():
                raise
            raise timed_out(self._settings.request_s) from None
        finally:
            self._num_asked -= 1

    async def _drawn(self, asked: schema.ImageRequest, caller: Caller) -> schema.ImageList:
        drawing, num_prompt = await self._prepare(asked)
        assert drawing.size and drawing.steps, "the generator has completed it"
        num_images = asked.n or 1
        most = _tokens(drawing, num_images * drawing.steps)
        files, num_tokens = [], 0
        async with (
            caller.reserve(self._generator.name, num_prompt, most, num_images) as reservation,
            aclosing(self._images(drawing, num_images)) as drawn,
        ):
            async for num_steps, image in drawn:
                num_tokens = _tokens(drawing, num_steps)
                await reservation.spend(num_prompt, num_tokens)
                if image is not None:
                    files.append(await asyncio.to_thread(_encoded, image, asked))
        if record := Record.of_task():
            record.model = self._generator.name
            record.add_tokens(prompt=num_prompt, completion=num_tokens)
        return schema.ImageList(
            created=int(time.time()),
            data=[schema.DrawnImage(b64_json=file) for file in files],
            output_format=asked.output_format or "png",
            size=f"{drawing.size[0]}x{drawing.size[1]}",
            usage=schema.ImageUsage(
                input_tokens=num_prompt,
                input_tokens_details=schema.ImageInputDetails(text_tokens=num_prompt),
                output_tokens=num_tokens,
                total_tokens=num_prompt + num_tokens,
            ),
            openm3=schema.DrawnWith(seed=drawing.seed, steps=drawing.steps, model=self._generator.name),
        )

    async def _prepare(self, asked: schema.ImageRequest) -> tuple[Drawing, int]:
        """What is drawn, with everything said, and how many tokens are read."""
        from openm3.model.diffusion import Drawing

        own = (asked.openm3 or schema.ImageExtensions()).model_dump()
        seed = own.pop("seed")
        seed = secrets.randbits(32) if seed is None else seed
        with renamed(_FIELDS):
            drawing, num_prompt = await self._generator.prepare(
                Drawing(prompt=asked.prompt, size=asked.pixels, seed=seed, **own)
            )
            assert drawing.size and drawing.steps
            width, height = drawing.size
            if width * height > self._settings.max_image_pixels:
                most = self._settings.max_image_pixels
                raise InputError("size", f"{width}x{height} is more than the {most} pixels that this server draws")
            if drawing.steps > self._settings.max_image_steps:
                raise InputError("steps", f"must be at most {self._settings.max_image_steps}, got {drawing.steps}")
        return drawing, num_prompt

    async def _images(self, drawing: Drawing, num_images: int) -> AsyncGenerator[tuple[int, Image | None], None]:
        """How many steps have been done, in all, and each image when it is there."""
        assert drawing.steps
        for i in range(num_images):
            num_steps = i * drawing.steps
            async with aclosing(self._generator.draw(replace(drawing, seed=drawing.seed + i))) as events:
                async for image in events:
                    # Some samplers take a step more than they are asked to.
                    num_steps = min(num_steps + 1, (i + 1) * drawing.steps)
                    yield (num_steps, None) if image is None else ((i + 1) * drawing.steps, image)


def _tokens(drawing: Drawing, num_steps: int) -> int:
    """What so many steps cost."""
    assert drawing.size
    return math.ceil(drawing.size[0] * drawing.size[1] * num_steps / (_PATCH * _STEPS))


def _encoded(image: Image, asked: schema.ImageRequest) -> str:
    quality = {} if asked.output_compression is None else {"quality": asked.output_compression}
    file = BytesIO()
    image.convert("RGB").save(file, asked.output_format or "png", **quality)
    return base64.b64encode(file.getvalue()).decode()
