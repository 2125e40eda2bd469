"""What the server has beside answers of its model: embeddings."""

from __future__ import annotations

from fastapi import APIRouter

from openm3.server.embedders import SentenceEmbedder
from openm3.server.routes import embeddings
from openm3.server.settings import Settings


class Extras:
    """Endpoints with what they need, made from the settings.

    Attributes:
        routers: the endpoints.
    """

    def __init__(self, settings: Settings) -> None:
        self._embedders = [SentenceEmbedder(settings.embeddings)]
        self.routers: list[APIRouter] = [embeddings.router(self._embedders)]

    async def aclose(self) -> None:
        """Ends what is going on in the background."""
        for embedder in self._embedders:
            await embedder.aclose()
