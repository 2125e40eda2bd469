"""Replicas as actors of a Ray cluster.

Plain actors, not Ray Serve: what Serve would add, an HTTP proxy, routing and limits, this server has already, with
keys, fair shares and prompts that are tokens, so that routing can go by what a replica has read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from minimax_code.errors import InputError as CodeInputError
from minimax_code.join_ray import join_ray
from openm3 import __version__, hub
from openm3.config import EngineConfig
from openm3.context.evidence import Observed
from openm3.context.sources import Passage, SourceMap
from openm3.engine.fairness import Share
from openm3.engine.output import Delta, Event
from openm3.engine.params import SamplingParams
from openm3.engine.prompt import Prompt
from openm3.errors import InputError, OpenM3Error
from openm3.server.replicas.pool import Replicas
from openm3.server.replicas.replica import ReplicaLostError

if TYPE_CHECKING:
    from openm3.engine.reader import Reader
    from openm3.engine.service import Service, ServiceStatus

_AT_ONCE = 10_000  # requests and checks of one replica; the engine has its own queue
_CLOSING_S = 10.0


@dataclass(frozen=True, kw_only=True)
class ReplicaOptions:
    """How many replicas, and what each one runs.

    Attributes:
        count: None: one on each machine of the cluster.
        model, config: as of `LLM`; a machine that lacks the model fetches it.
        threads: to compute with, and cores that are reserved; None: as many as `count` replicas leave each other.
    """

    count: int | None
    model: str
    config: EngineConfig
    threads: int | None = None


def connect(address: str | None) -> None:
    """Joins a Ray cluster, or starts one of this machine, which ends with this process.

    Args:
        address: `HOST:PORT` of its head, or "auto" for the one that runs on this machine; None: starts one.

    Raises:
        InputError: Ray isn't installed, or there is no cluster.
    """
    try:
        join_ray(address, field="--replicas" if address is None else "--ray")
    except CodeInputError as error:
        raise InputError(error.field, error.message) from error


def start(options: ReplicaOptions) -> RayReplicas:
    """Starts replicas on the cluster that this process has joined, and waits until all of them are ready.

    Raises:
        InputError: the cluster has no room for them.
        OpenM3Error: the model can't be loaded there.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    count = len(nodes) if options.count is None else options.count
    reserved = _reservation(nodes, count, options)
    threads = options.threads or max(1, int(reserved["num_cpus"]))
    actor = ray.remote(EngineActor).options(
        max_restarts=-1, max_task_retries=0, max_concurrency=_AT_ONCE, scheduling_strategy="SPREAD", **reserved
    )
    handles: list[Any] = [actor.remote(options.model, options.config, threads, __version__) for _ in range(count)]
    try:
        reader, *_ = ray.get([handle.reader.remote() for handle in handles])
    except RayTaskError as error:
        if isinstance(error.cause, OpenM3Error):
            raise error.cause from None
        raise
    except RayError as error:
        raise OpenM3Error(f"a replica ended while it was loading {options.model}: {error}") from error
    return RayReplicas(reader, [RayReplica(str(i), handle) for i, handle in enumerate(handles)])


def _reservation(nodes: Sequence[dict[str, float]], count: int, options: ReplicaOptions) -> dict[str, float]:
    """What each replica reserves: its GPUs, and the most cores with which all of them find room.

    Raises:
        InputError: there is none.
    """

    def room(kind: str, each: float) -> int:
        return sum(int(node.get(kind, 0) // each) for node in nodes)

    config = options.config
    num_gpus = 0
    if config.device == "cuda" or (config.device is None and room("GPU", 1)):
        num_gpus = config.tensor_parallel
        if room("GPU", num_gpus) < count:
            raise InputError("--replicas", f"{count} of {num_gpus} GPUs each are more than the cluster has")
    most = options.threads or (1 if num_gpus else max(int(node.get("CPU", 0)) for node in nodes))
    least = options.threads or 1
    for num_cpus in range(most, least - 1, -1):
        if room("CPU", num_cpus) >= count:
            return {"num_cpus": num_cpus, "num_gpus": num_gpus}
    raise InputError("--replicas", f"{count} of {least} cores each are more than the {room('CPU', 1)} of the cluster")


class EngineActor:
    """An engine in a process of the cluster. It loads when it is first asked for anything, after a restart too."""

    def __init__(self, model: str, config: EngineConfig, threads: int, version: str) -> None:
        self._model, self._config, self._threads, self._version = model, config, threads, version
        self._loading: asyncio.Task[Service] | None = None

    async def reader(self) -> Reader:
        """How its model reads."""
        from openm3.engine.reader import Reader

        llm = (await self._ready()).llm
        return Reader(*llm.__reduce__()[1])

    async def status(self) -> ServiceStatus:
        """As of `Service`."""
        return (await self._ready()).status()

    async def stream(
        self,
        prompt: Prompt | Sequence[int],
        passages: Sequence[Passage] | None,
        params: SamplingParams,
        share: Share,
    ) -> AsyncGenerator[list[Event], None]:
        """As of `Service`, with what has happened since the last time in one piece.

        Args:
            passages: of the prompt's sources, whose rest is here.
        """
        service = await self._ready()
        if passages is not None and isinstance(prompt, Prompt):
            prompt = replace(prompt, sources=SourceMap(prompt.ids, service.llm.tokenizer.token_bytes, passages))
        happened, news = list[Event](), asyncio.Event()

        async def follow() -> None:
            try:
                async with aclosing(service.stream(prompt, params, share)) as events:
                    async for event in events:
                        happened.append(_light(event))
                        news.set()
            finally:
                news.set()

        following = asyncio.create_task(follow())
        try:
            while not following.done() or happened:
                await news.wait()
                if happened:
                    piece, happened[:] = happened[:], []
                    yield piece
                if not following.done():
                    news.clear()
            await following
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError, Exception):  # what it raised was raised above
                await following

    async def close(self) -> None:
        """Cancels what runs."""
        if self._loading is not None and self._loading.done():
            await self._loading.result().aclose()

    async def _ready(self) -> Service:
        if self._loading is None:
            self._loading = asyncio.create_task(self._load())
        return await asyncio.shield(self._loading)

    async def _load(self) -> Service:
        if self._version != __version__:
            raise OpenM3Error(f"a machine of the cluster has openm3 {__version__}, and the server {self._version}")
        service = await asyncio.to_thread(self._make)
        await service.start()
        return service

    def _make(self) -> Service:
        import torch

        from openm3.engine.llm import LLM
        from openm3.engine.service import Service

        torch.set_num_threads(self._threads)
        return Service(LLM(hub.pull(self._model), self._config))


class RayReplicas(Replicas):
    """Replicas on the cluster that this process has joined; leaves it when they are closed."""

    async def aclose(self) -> None:
        """As of `Replicas`."""
        import ray

        await super().aclose()
        await asyncio.to_thread(ray.shutdown)  # a signal may end this process before it could do so by itself


class RayReplica:
    """An `EngineActor`, as this process sees it."""

    def __init__(self, name: str, actor: Any) -> None:
        self.name, self._actor = name, actor

    async def status(self) -> ServiceStatus:
        """As of `Replica`."""
        from ray.exceptions import RayError

        try:
            status: ServiceStatus = await self._actor.status.remote()
        except RayError as error:
            raise ReplicaLostError(_first_line(error)) from error
        return status

    async def stream(
        self, prompt: Prompt | Sequence[int], params: SamplingParams, share: Share
    ) -> AsyncGenerator[Event, None]:
        """As of `Replica`."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        passages = None
        if isinstance(prompt, Prompt) and prompt.sources is not None:
            passages = prompt.sources.passages
            prompt = replace(prompt, sources=None)  # it holds the tokenizer, which is there already
        pieces = self._actor.stream.options(num_returns="streaming").remote(prompt, passages, params, share)
        ended = False
        try:
            async for piece in pieces:
                for event in await piece:
                    yield event
            ended = True
        except RayTaskError as error:
            raise error.cause from None
        except RayError as error:
            raise ReplicaLostError(_first_line(error)) from error
        finally:
            if not ended:
                ray.cancel(pieces)

    async def restart(self) -> None:
        """As of `Replica`."""
        import ray

        await asyncio.to_thread(ray.kill, self._actor, no_restart=False)

    async def aclose(self) -> None:
        """As of `Replica`."""
        import ray
        from ray.exceptions import RayError

        with suppress(RayError, TimeoutError):
            await asyncio.wait_for(self._actor.close.remote(), _CLOSING_S)
        await asyncio.to_thread(ray.kill, self._actor)


def _light(event: Event) -> Event:
    """Without the readings that evidence was made from: they are large, and a server tells only the sentences."""
    if isinstance(event, Delta) and event.evidence is not None:
        nothing = Observed(SourceMap((), bytes), event.evidence.observed.block_size)
        return replace(event, evidence=replace(event.evidence, observed=nothing))
    return event


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
