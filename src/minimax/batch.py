"""Many completions at once: bounded, in order, and one failure loses no other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import openai

from minimax.types import BatchResult, Failure

if TYPE_CHECKING:
    from minimax.async_client import AsyncMiniMaxM3
    from minimax.client import MiniMaxM3


def complete_all(client: MiniMaxM3, tasks: Iterable[Mapping[str, Any]], at_once: int) -> list[BatchResult]:
    """See `MiniMaxM3.batch_complete`."""

    def one(task: Mapping[str, Any]) -> BatchResult:
        try:
            return client.complete(**task)
        except openai.OpenAIError as error:
            return Failure(task=task, error=error)

    given = _checked(tasks)
    with ThreadPoolExecutor(max_workers=max(1, min(at_once, len(given))), thread_name_prefix="minimax") as threads:
        return list(threads.map(one, given))


async def complete_all_async(
    client: AsyncMiniMaxM3, tasks: Iterable[Mapping[str, Any]], at_once: int
) -> list[BatchResult]:
    """See `AsyncMiniMaxM3.batch_complete`. As many workers as connections; each takes the next task."""
    given = _checked(tasks)
    results: list[BatchResult | None] = [None] * len(given)
    left = iter(enumerate(given))

    async def work() -> None:
        for i, task in left:
            try:
                results[i] = await client.complete(**task)
            except openai.OpenAIError as error:
                results[i] = Failure(task=task, error=error)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(at_once, len(given))):
            group.create_task(work())
    return [result for result in results if result is not None]


def _checked(tasks: Iterable[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    given = list(tasks)
    for number, task in enumerate(given):
        if "prompt" not in task:
            raise TypeError(f"tasks[{number}]: has no 'prompt'")
    return given
