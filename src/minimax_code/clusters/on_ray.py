"""Errands on a Ray cluster, for those who run one already."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from minimax_code.clusters.errand import MOST_LOST, Errand, Outcome, Work, attempt
from minimax_code.errors import InputError
from minimax_code.join_ray import join_ray

_CPUS = 0.25  # that an errand reserves: agents wait for their models most of the time
_LOOK_S, _CANCEL_S = 0.5, 10.0


class RayExecutor:
    """A Ray cluster that this process joins, or starts, and leaves when it is closed.

    Nothing but the outcome of an errand leaves the machine that does it, and only the process that holds the run's
    lease takes it: a machine that was cut off and comes back can change nothing. When this process ends, Ray ends what
    it has begun.

    Args:
        address: as of `join_ray`. A cluster that this process is in already is used as it is.

    Raises:
        InputError: Ray isn't installed, or there is no cluster.
    """

    name, goes_on = "ray", False

    def __init__(self, address: str | None) -> None:
        joined = not _is_joined()
        if joined:
            join_ray(address, field="executor" if address is None else "ray")
        import ray

        self._joined = joined
        # Ray would run an errand again in silence; who does it shall know that it was begun before.
        self._do = ray.remote(_do).options(num_cpus=_CPUS, max_retries=0, scheduling_strategy="SPREAD")

    async def run(self, errand: Errand, work: Work) -> Outcome:
        """As of `Executor`. An errand whose process or machine is lost is done again by another one, which is told."""
        from ray.exceptions import RayError, RayTaskError, TaskCancelledError

        lost: list[str] = []
        while len(lost) < MOST_LOST:
            told = errand.model_copy(update={"causes": (*errand.causes, *lost)})
            try:
                return Outcome.model_validate(await self._done(told, work))
            except (RayTaskError, TaskCancelledError) as error:  # it didn't get as far as the work
                return Outcome(success=False, cause=f"the Ray cluster can't do it: {_last_line(error)}")
            except RayError as error:
                reason = type(error).__name__
                lost.append(f"its process on the Ray cluster was lost ({reason}), and what had come of it is not known")
        return Outcome(success=False, cause=f"{len(lost)} processes of the Ray cluster were lost over it")

    async def close(self) -> None:
        """Leaves the cluster, if it was joined for this."""
        import ray

        if self._joined:
            await asyncio.to_thread(ray.shutdown)

    async def _done(self, errand: Errand, work: Work) -> dict[str, Any]:
        import ray
        from ray.exceptions import RayError

        try:
            running = self._do.remote(errand.model_dump(mode="json"), work)
        except TypeError as error:
            raise InputError("work", f"can't be sent to other machines: {str(error).splitlines()[0]}") from error
        try:
            outcome: dict[str, Any] = await running
        except asyncio.CancelledError:
            ray.cancel(running)
            with suppress(RayError, TimeoutError):  # so that it can clear up before Ray ends its process
                await asyncio.wait_for(asyncio.wrap_future(running.future()), _CANCEL_S)
            raise
        return outcome


def _is_joined() -> bool:
    try:
        import ray
    except ImportError:
        return False
    return ray.is_initialized()


def _do(errand: dict[str, Any], work: Work) -> dict[str, Any]:
    """An errand, in a process of the cluster."""

    async def attempted() -> Outcome:
        looking = asyncio.create_task(_look_up())
        try:
            return await attempt(work, Errand.model_validate(errand, strict=False))
        finally:
            looking.cancel()

    return asyncio.run(attempted()).model_dump(mode="json")


async def _look_up() -> None:
    """Ray cancels by an interrupt that wakes nobody: a loop that waits for a model would notice it minutes later."""
    while True:
        await asyncio.sleep(_LOOK_S)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
