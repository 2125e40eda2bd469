"""What the server has beside the answers of its model: embeddings and code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter

from openm3.server.embedders import SentenceEmbedder
from openm3.server.routes import code, embeddings
from openm3.server.settings import Settings

if TYPE_CHECKING:
    from openm3.server.backend import Backend


class Extras:
    """Endpoints with what they need, made from the settings; some of them need a backend that generates.

    Attributes:
        routers: the endpoints.
    """

    def __init__(self, settings: Settings, backend: Backend | None) -> None:
        self._embedders = [SentenceEmbedder(settings.embeddings)]
        self.routers: list[APIRouter] = [embeddings.router(self._embedders)]
        if backend is not None:
            self.routers.append(code.router(backend))

    async def aclose(self) -> None:
        """Ends what is going on in the background."""
        for embedder in self._embedders:
            await embedder.aclose()
