"""What turns texts into vectors for the server: a sentence model, or the states of the model that answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from openm3 import hub
from openm3.engine.fairness import Share
from openm3.engine.output import Delta
from openm3.engine.params import SamplingParams
from openm3.errors import DownloadError, InputError, ModelError
from openm3.server.answer import renamed
from openm3.server.errors import ApiError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from openm3.model.sentence import SentenceModel
    from openm3.server.backend import Backend

DEFAULT = "all-minilm-l6-v2"

_POOLED = SamplingParams(max_tokens=1, pool=True)
_SEQUENCES_AT_ONCE = 16  # of a request, at the engine
_TOKENS_AT_ONCE = 4096  # of one pass: enough for fast products; others take turns behind it

T = TypeVar("T")
Tokens = Sequence[int]

_log = logging.getLogger(__name__)


class Embedder(Protocol):
    """Texts in, vectors out.

    Attributes:
        name: what clients call it.
    """

    name: str

    async def encode(self, inputs: Sequence[str | Tokens], *, truncate: bool) -> list[Tokens]:
        """What the model reads: the tokens of a text with those around it; tokens as they are.

        Args:
            inputs: texts and tokens.
            truncate: leave out the end of a text that is too long.

        Raises:
            InputError: one that is empty, too long, or has a token that the model hasn't; its field is "input[3]".
        """

    async def dimensions(self) -> int:
        """How many numbers a vector has."""

    async def embed(self, sequences: Sequence[Tokens], share: Share) -> Tensor:
        """fp32 `[sequences, dimensions]`: vectors of length 1. Where texts wait for the engine, it is by the share.

        Raises:
            InputError: one that the model can't read; its field is "input[3]".
            ApiError: the server stops, or too many requests wait.
        """

    async def aclose(self) -> None:
        """Ends what it has started."""


class SentenceEmbedder:
    """A sentence model in a thread of its own, loaded when it is first asked.

    Args:
        model: a folder in the layout of sentence-transformers, a name of `openm3 models`, or a hub id.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self.name = Path(model).expanduser().resolve().name if _is_folder(model) else model
        # One thread: requests take turns, pass by pass, and the engine keeps its cores.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="openm3-embeddings")
        self._loaded: SentenceModel | None = None

    async def encode(self, inputs: Sequence[str | Tokens], *, truncate: bool) -> list[Tokens]:
        def encode(model: SentenceModel) -> list[Tokens]:
            encoded = [model.encode(one, truncate=truncate) if isinstance(one, str) else one for one in inputs]
            for i, tokens in enumerate(encoded):
                check(i, tokens, model.max_tokens, model.vocab_size)
            return encoded

        return await self._run(encode)

    async def dimensions(self) -> int:
        return await self._run(lambda model: model.dimensions)

    async def embed(self, sequences: Sequence[Tokens], share: Share) -> Tensor:
        import torch

        vectors = [await self._run(_pass(part)) for part in _parts(sequences)]
        return torch.nn.functional.normalize(torch.cat(vectors), dim=-1)

    async def aclose(self) -> None:
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    async def _run(self, work: Callable[[SentenceModel], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(self._load()))

    def _load(self) -> SentenceModel:
        """The model; only the one thread calls it."""
        if self._loaded is None:
            from openm3.model.sentence import SentenceModel

            if not _is_folder(self._model):
                _log.info("fetching %s where it isn't on this disk yet", self._model)
            try:
                folder = Path(self._model).expanduser() if _is_folder(self._model) else hub.pull(self._model)
                self._loaded = SentenceModel(folder)
            except (ModelError, DownloadError) as error:
                raise ApiError(503, str(error), code="model_unavailable") from error
        return self._loaded


class StatesEmbedder:
    """The model that answers: a text is the mean of its tokens' states behind the last norm, which the engine reads."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.name = backend.llm.name

    async def encode(self, inputs: Sequence[str | Tokens], *, truncate: bool) -> list[Tokens]:
        llm = self._backend.llm
        most = llm.max_context - 1  # an engine keeps room for a token of an answer

        def encode() -> list[Tokens]:
            cut = most if truncate else None
            encoded = [llm.encode(one)[:cut] if isinstance(one, str) else one for one in inputs]
            for i, ids in enumerate(encoded):
                check_length(i, ids, most)
            return encoded

        return await asyncio.to_thread(encode)

    async def dimensions(self) -> int:
        return self._backend.llm.hidden_size

    async def embed(self, sequences: Sequence[Tokens], share: Share) -> Tensor:
        import numpy as np
        import torch

        turns = asyncio.Semaphore(_SEQUENCES_AT_ONCE)
        states = [asyncio.create_task(self._state(i, each, share, turns)) for i, each in enumerate(sequences)]
        try:
            states_BC = np.stack(await asyncio.gather(*states))
        finally:
            for task in states:
                task.cancel()
            await asyncio.wait(states)
        return torch.nn.functional.normalize(torch.from_numpy(states_BC), dim=-1)

    async def aclose(self) -> None:
        """The backend is closed by whoever started it."""

    async def _state(self, index: int, tokens: Tokens, share: Share, turns: asyncio.Semaphore) -> NDArray[np.float32]:
        async with turns, aclosing(self._backend.stream(tokens, _POOLED, share)) as events:
            with renamed({"prompt": f"input[{index}]"}):
                async for event in events:
                    if isinstance(event, Delta) and event.state is not None:
                        return event.state
        raise ApiError(503, "the server is stopping; there are no vectors", code="cancelled")


def check_length(index: int, tokens: Tokens, max_tokens: int) -> None:
    """Refuses what is too short or too long.

    Raises:
        InputError: no tokens, or too many.
    """
    if not 0 < len(tokens) <= max_tokens:
        hint = '; with "openm3": {"truncate": true} the end of a text is left out'
        raise InputError(f"input[{index}]", f"has {len(tokens)} tokens and the model reads 1 to {max_tokens}{hint}")


def check(index: int, tokens: Tokens, max_tokens: int, vocab_size: int) -> None:
    """Refuses what a model can't read.

    Raises:
        InputError: no tokens, too many, or one that the model doesn't have.
    """
    check_length(index, tokens, max_tokens)
    if max(tokens) >= vocab_size:
        raise InputError(f"input[{index}]", f"holds a token id outside 0 to {vocab_size - 1}")


def _is_folder(model: str) -> bool:
    return (Path(model).expanduser() / "modules.json").is_file()


def _parts(sequences: Sequence[Tokens]) -> Iterator[list[Tokens]]:
    """What one pass reads after another: some sequences, as many as are few tokens."""
    part: list[Tokens] = []
    num_tokens = 0
    for sequence in sequences:
        if part and num_tokens + len(sequence) > _TOKENS_AT_ONCE:
            yield part
            part, num_tokens = [], 0
        part.append(sequence)
        num_tokens += len(sequence)
    yield part


def _pass(part: list[Tokens]) -> Callable[[SentenceModel], Tensor]:
    return lambda model: model.embed(part)
