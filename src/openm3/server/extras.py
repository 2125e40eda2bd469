"""What the server has beside the answers of its model: embeddings, images, files and batches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter

from openm3.server import offline
from openm3.server.batches import Batches
from openm3.server.callers import ANONYMOUS, Caller
from openm3.server.embedders import Embedder, SentenceEmbedder, StatesEmbedder
from openm3.server.files import FileStore
from openm3.server.images import DiffusersGenerator
from openm3.server.response_store import ResponseStore
from openm3.server.routes import batches, embeddings, files, images
from openm3.server.schema.embeddings import EmbeddingRequest
from openm3.server.settings import Settings
from openm3.server.upstreams.relay import Relay

if TYPE_CHECKING:
    from openm3.server.accounts.access import Accounts
    from openm3.server.backend import Backend

_FORM_BYTES = 64 << 10  # of an upload, beside the file
_AT_ONCE = 16  # requests of a batch


class Extras:
    """Endpoints with what they need, made from the settings; some of them need a backend that generates, or upstreams.

    Attributes:
        routers: the endpoints.
        responses: those that can be gone on with.
        body_limits: bytes and seconds of bodies, for paths whose bodies may be larger than others.
    """

    def __init__(self, settings: Settings, front: Backend | Relay, accounts: Accounts | None) -> None:
        backend = None if isinstance(front, Relay) else front
        self._front, self._accounts = front, accounts
        self._batches: Batches | None = None
        self._embedders: list[Embedder] = [SentenceEmbedder(settings.embeddings)]
        if backend is not None:
            self._embedders.append(StatesEmbedder(backend))
        self._images = DiffusersGenerator(Path(settings.images)) if settings.images else None
        self.routers: list[APIRouter] = [embeddings.router(self._embedders), images.router(self._images, settings)]
        self.body_limits: dict[str, tuple[int, float]] = {}
        kept = Path(settings.data) / "responses" if settings.data is not None else None
        self.responses = ResponseStore(settings.max_stored_bytes, kept)
        if settings.data is not None:
            store = FileStore(
                Path(settings.data) / "files",
                max_file_bytes=settings.max_file_bytes,
                max_bytes=settings.max_files_bytes,
            )
            self.routers.append(files.router(store))
            self.body_limits["/v1/files"] = settings.max_file_bytes + _FORM_BYTES, settings.upload_s
            self._batches = Batches(
                Path(settings.data) / "batches",
                store,
                self._answer,
                self._holder,
                max_requests=settings.max_batch_requests,
                at_once=_AT_ONCE,
            )
            self.routers.append(batches.router(self._batches))

    async def start(self) -> None:
        """Goes on with what was going on in the background when the server last ended."""
        if self._batches is not None:
            await self._batches.start()

    async def cancel(self) -> None:
        """Ends the requests that take long, each with an error."""
        if self._images is not None:
            await self._images.aclose()

    async def aclose(self) -> None:
        """Ends what is going on in the background."""
        await self.cancel()
        if self._batches is not None:
            await self._batches.aclose()
        for embedder in self._embedders:
            await embedder.aclose()
        await self.responses.aclose()

    async def _answer(self, url: str, body: Any, request_id: str, caller: Caller) -> tuple[int, str]:
        """The answer to a request of a batch."""
        if isinstance(self._front, Relay):
            return await self._front.whole(url.removeprefix("/v1"), body, caller, request_id)
        if url != "/v1/embeddings":
            return await offline.respond(self._front, url, body, request_id, caller)

        async def answer() -> str:
            return await embeddings.embed(self._embedders, EmbeddingRequest.model_validate(body), caller)

        return await offline.told(answer(), body, request_id)

    async def _holder(self, key_id: str) -> Caller:
        """The caller that a batch is of."""
        return await self._accounts.holder(key_id) if key_id and self._accounts else ANONYMOUS
