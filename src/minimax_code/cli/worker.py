"""`minimax-code worker`: does what clusters on other machines have to do."""

from __future__ import annotations

import asyncio
import importlib
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from minimax_code.errors import InputError

if TYPE_CHECKING:
    from minimax_code.clusters.errand import Work


@click.command()
@click.option(
    "--store", required=True, envvar="MINIMAX_CODE_STORE", help="postgresql://USER@HOST/NAME, as the cluster has it."
)
@click.option("--at-once", type=click.IntRange(min=1), default=1, show_default=True, help="Sub-tasks at the same time.")
@click.option(
    "--work", "name", default="minimax_code.clusters.task:do_task", show_default=True, help="How: MODULE:FUNCTION."
)
def worker(store: str, at_once: int, name: str) -> None:
    """Does sub-tasks of clusters with executor="workers", until it is told to end.

    \b
    minimax-code worker --store postgresql://me@db.example/jobs --at-once 4

    It leases them from the store. If it dies another worker does them; if it is frozen and comes back, what it writes
    then is refused.
    """
    from minimax_code.clusters.workers import work_off
    from minimax_code.store import Store

    work, opened = _function(name), Store(store)

    async def until_told() -> None:
        working = asyncio.ensure_future(work_off(opened, work, at_once=at_once))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, working.cancel)
        with suppress(asyncio.CancelledError):
            await working

    try:
        asyncio.run(until_told())
    finally:
        opened.close()


def _function(name: str) -> Work:
    module, _, function = name.partition(":")
    try:
        found: Work = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError("--work", f"{name!r} is no MODULE:FUNCTION that can be imported ({error})") from error
    return found
