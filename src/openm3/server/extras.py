"""What the server has beside the answers of its model: embeddings and code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter

from openm3.server.embedders import SentenceEmbedder
from openm3.server.files import FileStore
from openm3.server.routes import code, embeddings, files
from openm3.server.settings import Settings

if TYPE_CHECKING:
    from openm3.server.backend import Backend

_FORM_BYTES = 64 << 10  # of an upload, beside the file


class Extras:
    """Endpoints with what they need, made from the settings; some of them need a backend that generates.

    Attributes:
        routers: the endpoints.
        body_limits: bytes and seconds of bodies, for paths whose bodies may be larger than others.
    """

    def __init__(self, settings: Settings, backend: Backend | None) -> None:
        self._embedders = [SentenceEmbedder(settings.embeddings)]
        self.routers: list[APIRouter] = [embeddings.router(self._embedders)]
        self.body_limits: dict[str, tuple[int, float]] = {}
        if settings.data is not None:
            store = FileStore(
                Path(settings.data) / "files",
                max_file_bytes=settings.max_file_bytes,
                max_bytes=settings.max_files_bytes,
            )
            self.routers.append(files.router(store))
            self.body_limits["/v1/files"] = settings.max_file_bytes + _FORM_BYTES, settings.upload_s
        if backend is not None:
            self.routers.append(code.router(backend))

    async def aclose(self) -> None:
        """Ends what is going on in the background."""
        for embedder in self._embedders:
            await embedder.aclose()
