"""The upstreams together: which of them is asked next, and which are up."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import httpx

from minimax_code.model import window_of
from openm3.errors import InputError
from openm3.server.errors import ApiError
from openm3.server.gate import overloaded
from openm3.server.routes.models import ALIASES
from openm3.server.upstreams.upstream import Upstream, parse_names

if TYPE_CHECKING:
    from openm3.server.settings import Settings

_CONNECT_S = 5.0
_CHECK_S = 5.0  # for an answer to a check

_log = logging.getLogger(__name__)


class Upstreams:
    """Chooses among upstreams by weight and load, and asks each in turn whether it is up.

    Raises:
        InputError: an address or a name is wrong, or the environment lacks the key.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.all = [Upstream.parse(text) for text in settings.upstreams]
        self._names = parse_names(settings.upstream_models)
        self.client = httpx.AsyncClient(
            headers={"authorization": f"Bearer {key}"} if (key := _key(settings.upstream_key_env)) else {},
            timeout=httpx.Timeout(None, connect=_CONNECT_S),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
        )
        self._room = asyncio.Condition()
        self._checks: asyncio.Task[None] | None = None
        self.num_waiting = 0

    async def start(self) -> None:
        """Asks every upstream once, and from then on now and then."""
        await self.check()
        self._checks = asyncio.create_task(self._check_for_ever())

    async def aclose(self) -> None:
        """Ends the checks and closes all connections."""
        if self._checks is not None:
            self._checks.cancel()
            with suppress(asyncio.CancelledError):
                await self._checks
        await self.client.aclose()

    def models(self) -> list[str]:
        """What can be asked for now; a name that was given to a model hides the upstreams' own."""
        theirs = {model for upstream in self.all if upstream.is_up for model in upstream.models}
        named = {name for name, model in self._names.items() if model in theirs}
        return sorted(named | (theirs - set(self._names.values())))

    def theirs(self, model: str) -> str:
        """What upstreams call a model; where there is only one, clients needn't know its name."""
        if model.lower() in ALIASES and model not in self._names and len(served := self.models()) == 1:
            [model] = served
        return self._names.get(model, model)

    def having(self, model: str, without: Collection[Upstream] = ()) -> list[Upstream]:
        """The upstreams that are up and serve a model."""
        theirs = self.theirs(model)
        return [each for each in self.all if each.is_up and theirs in each.models and each not in without]

    def window(self, model: str) -> int | None:
        """The shortest that its upstreams tell of a model; None: they tell none.

        Raises:
            ApiError: nobody serves it.
        """
        if not (having := self.having(model)):
            raise self._nobody(model)
        theirs = self.theirs(model)
        return min((window for each in having if (window := each.models[theirs])), default=None)

    @asynccontextmanager
    async def place(self, model: str, without: Collection[Upstream] = ()) -> AsyncGenerator[Upstream, None]:
        """A place at the least burdened upstream that serves a model; waits for one where all are full.

        Args:
            model: by the client's name.
            without: those that have failed already.

        Raises:
            ApiError: nobody serves it, all of them are down, or too many wait.
        """
        upstream = await self._take(model, without)
        try:
            yield upstream
        finally:
            upstream.num_running -= 1
            async with self._room:
                self._room.notify()

    async def _take(self, model: str, without: Collection[Upstream]) -> Upstream:
        is_waiting = False
        async with self._room:
            try:
                while True:
                    candidates = self.having(model, without)
                    if not candidates:
                        raise self._nobody(model)
                    free = [each for each in candidates if each.num_running < self._settings.upstream_running]
                    if free:
                        upstream = min(free, key=lambda each: each.burden)
                        upstream.num_running += 1
                        upstream.num_served += 1
                        return upstream
                    if not is_waiting:
                        if self.num_waiting >= self._settings.max_waiting:
                            raise overloaded(self.num_waiting)
                        is_waiting = True
                        self.num_waiting += 1
                    await self._room.wait()
            finally:
                self.num_waiting -= is_waiting

    def _nobody(self, model: str) -> ApiError:
        if any(upstream.is_up for upstream in self.all) and not any(
            self.theirs(model) in upstream.models for upstream in self.all
        ):
            known = ", ".join(map(repr, self.models()))
            return ApiError(
                404, f"the model {model!r} does not exist; there are {known}", code="model_not_found", param="model"
            )
        message = "no server that could answer is up; try again later"
        return ApiError(503, message, code="no_upstream", headers={"retry-after": "5"})

    async def _check_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.upstream_check_s)
            await self.check()

    async def check(self) -> None:
        """Asks all upstreams what they serve."""
        before = [upstream.is_up for upstream in self.all]
        await asyncio.gather(*map(self._check_one, self.all))
        if [upstream.is_up for upstream in self.all] != before:
            for upstream in self.all:  # so that one that comes back isn't flooded to make up for what it missed
                upstream.num_served = 0
            async with self._room:
                self._room.notify_all()

    async def _check_one(self, upstream: Upstream) -> None:
        was_up = upstream.is_up
        try:
            async with asyncio.timeout(_CHECK_S):
                response = await self.client.get(f"{upstream.url}/models")
            response.raise_for_status()
            upstream.came_up(_models(response.json()))
        except (httpx.HTTPError, ValueError, TimeoutError) as error:
            upstream.went_down(str(error) or type(error).__name__)
        if upstream.is_up != was_up:
            state = "is up" if upstream.is_up else f"is down: {upstream.error}"
            _log.warning("upstream %s %s", upstream.name, state)


def _models(listed: Any) -> dict[str, int | None]:
    """The names in a list of models, with the windows that it tells.

    Raises:
        ValueError: it is none.
    """
    try:
        return {str(model["id"]): window_of(model) for model in listed["data"]}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("its list of models can't be read") from error


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not (key := os.environ.get(variable)):
        raise InputError("--upstream-key-env", f"the environment has no {variable}")
    return key
