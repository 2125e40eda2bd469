"""What draws images for the server: one pipeline in a thread of its own, loaded when it is first asked."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from openm3.errors import ModelError
from openm3.server.errors import ApiError

if TYPE_CHECKING:
    from PIL.Image import Image

    from openm3.model.diffusion import Drawing, ImagePipeline

_log = logging.getLogger(__name__)


class ImageGenerator(Protocol):
    """Texts in, images out.

    Attributes:
        name: what clients call it.
    """

    name: str

    async def prepare(self, drawing: Drawing) -> tuple[Drawing, int]:
        """The same with size and steps said, and how many tokens are read for it.

        Raises:
            InputError: it can't be drawn as asked; names the field of `Drawing`.
        """

    def draw(self, drawing: Drawing) -> AsyncGenerator[Image | None, None]:
        """None for each step that is done, and then the image; closing it ends the work after the next step.

        Args:
            drawing: as prepared.

        Raises:
            ApiError: the model took the image back, or the server stops.
        """

    async def aclose(self) -> None:
        """Ends what is being drawn, with an error."""


class DiffusersGenerator:
    """A local folder of a diffusers pipeline.

    Raises:
        ModelError: there is none in it, or a library is missing.
    """

    def __init__(self, folder: Path) -> None:
        from openm3.model.diffusion import check_pipeline

        folder = folder.expanduser().resolve()
        check_pipeline(folder)
        self._folder, self.name = folder, folder.name
        # Images take turns in one thread. What is wrong with a request is said by another, however long that lasts.
        self._drawing = ThreadPoolExecutor(1, thread_name_prefix="openm3-images")
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="openm3-images-asked")
        self._closing = threading.Event()
        self._loaded: ImagePipeline | None = None

    async def prepare(self, drawing: Drawing) -> tuple[Drawing, int]:
        def prepare() -> tuple[Drawing, int]:
            pipeline = self._load()
            complete = pipeline.complete(drawing)
            texts = [text for text in (complete.prompt, complete.negative_prompt) if text is not None]
            return complete, sum(map(pipeline.num_tokens, texts))

        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(self._preparing, prepare)

    async def draw(self, drawing: Drawing) -> AsyncGenerator[Image | None, None]:
        loop, goes_on, is_left = asyncio.get_running_loop(), asyncio.Queue[bool](), threading.Event()

        def on_step(_: int) -> None:
            if is_left.is_set() or self._closing.is_set():
                raise _Left
            loop.call_soon_threadsafe(goes_on.put_nowait, True)

        self._check_open()
        work = loop.run_in_executor(self._drawing, self._draw, drawing, on_step)
        work.add_done_callback(lambda _: goes_on.put_nowait(False))
        try:
            while await goes_on.get():
                yield None
            yield await work
        finally:
            is_left.set()
            work.cancel()

    async def aclose(self) -> None:
        self._closing.set()
        for thread in (self._preparing, self._drawing):
            await asyncio.to_thread(thread.shutdown)

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise _stopping()

    def _load(self) -> ImagePipeline:
        """The pipeline; only the preparing thread calls it."""
        if self._loaded is None:
            from openm3.model.diffusion import ImagePipeline

            try:
                self._loaded = ImagePipeline(self._folder)
            except ModelError as error:
                raise ApiError(503, str(error), code="model_unavailable") from error
            _log.info("images are drawn by %s on %s", self.name, self._loaded.device)
        return self._loaded

    def _draw(self, drawing: Drawing, on_step: Callable[[int], None]) -> Image:
        """Only the drawing thread calls it."""
        from openm3.model.diffusion import Flagged

        assert self._loaded, "a drawing is prepared first"
        try:
            self._check_open()
            return self._loaded.draw(drawing, on_step)
        except Flagged:
            message = "the model's safety checker took the image back; ask for something else"
            raise ApiError(400, message, code="content_policy_violation", param="prompt") from None
        except _Left:
            raise _stopping() from None


class _Left(Exception):
    """Nobody waits for the image any more."""


def _stopping() -> ApiError:
    return ApiError(503, "the server is stopping; there is no image", code="cancelled")
