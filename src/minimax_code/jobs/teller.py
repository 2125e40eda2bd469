"""Tells a job's user of its events, in the user's process, each at least once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from minimax_code.jobs.status import Standing
from minimax_code.jobs.update import Update
from minimax_code.store import Store

POLL_S = 1.0
_LONGEST_S = 300.0  # between two tries to tell the same


class Teller(threading.Thread):
    """Calls a function with each `Update` of a job, in order, until the job has ended.

    What it has told is remembered in the store, so that another process goes on where this one ended. A call that
    raises is made again, later and later, with the same update; the log of Python says why.
    """

    def __init__(self, store: Store, job: str, callback: Callable[[Update], object]) -> None:
        super().__init__(name=f"updates of {job}", daemon=True)
        self._store, self._job, self._callback = store, job, callback
        self._ending = threading.Event()

    def run(self) -> None:
        """The thread."""
        delay = POLL_S
        standing = Standing(self._job)
        updates: list[Update] = []
        while True:
            try:
                row = self._store.job(self._job)
                updates += standing.read(self._store.events(self._job, standing.seq))
                while updates:
                    seq = int(updates[0].event_id.rpartition("/")[2])
                    if seq > row.told:
                        self._callback(updates[0])
                        self._store.told(self._job, seq)
                    del updates[0]
                delay = POLL_S
                if row.has_ended and row.seq == standing.seq:
                    return
            except Exception:  # of the callback, or a store that is away
                logging.getLogger(__name__).exception("the callback of %s failed; it will be called again", self._job)
                delay = min(2 * delay, _LONGEST_S)
            if self._ending.wait(delay):
                return

    def end(self) -> None:
        """Tells no more."""
        self._ending.set()
