"""`python -m minimax_code.jobs JOB`: leaves for the background, runs a worker, and runs another if it dies.

Each worker is a process of its own, so that one that is started after an upgrade is of the new version.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import FrameType

from minimax_code.errors import CodeError, LeaseError
from minimax_code.jobs.launch import STORE
from minimax_code.jobs.worker import LEASE_S
from minimax_code.store import Store, default_url

_FIRST_DELAY_S, _LONGEST_DELAY_S = 1.0, 1000.0
_LONG_ENOUGH_S = 600.0  # a worker that lived as long was no failure from the start


def main() -> None:
    """Ends in the process that was called once the one in the background is at it, with 1 if the job can't be done."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        os._exit(0 if os.read(reading, 1) else 1)
    os.close(reading)
    os.setsid()
    job, owner = sys.argv[1], f"{os.uname().nodename}-{os.getpid()}"
    try:
        store = Store(os.environ.get(STORE) or default_url())
        is_mine = take(store, job, owner)
        os.write(writing, b"1")
        os.close(writing)
        # Another worker may have died a moment ago, or be about to let go of the job; one that lives may keep it.
        deadline = time.monotonic() + 1.5 * LEASE_S
        while not is_mine and time.monotonic() < deadline:
            time.sleep(_FIRST_DELAY_S)
            is_mine = take(store, job, owner)
        store.close()
    except CodeError as error:
        sys.exit(f"{job}: {error}")
    if is_mine:
        supervise(job, [sys.executable, "-P", "-m", "minimax_code.jobs.process", job, owner])


def take(store: Store, job: str, owner: str) -> bool:
    """Takes a job for workers of this owner, each of which takes it from the one before; False if another has it."""
    try:
        store.lease(job, owner, LEASE_S)
    except LeaseError:
        return False
    return True


def supervise(job: str, command: list[str]) -> None:
    """Runs workers until one says that nothing is left to do, or they fail too often in a row."""
    delay = _FIRST_DELAY_S
    while delay <= _LONGEST_DELAY_S:
        began = time.monotonic()
        if run(command) == 0:
            return
        if time.monotonic() - began > _LONG_ENOUGH_S:
            delay = _FIRST_DELAY_S
        time.sleep(delay)
        delay *= 2
    sys.exit(f"{job}: its workers failed too often")


def run(command: list[str]) -> int:
    """Runs a worker to its end, which comes sooner if this process is told to end."""
    with subprocess.Popen(command) as worker:

        def end(number: int, frame: FrameType | None) -> None:
            worker.terminate()
            worker.wait()
            sys.exit(0)

        signal.signal(signal.SIGTERM, end)
        return worker.wait()


if __name__ == "__main__":
    main()
