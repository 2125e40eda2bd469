"""`python -m minimax_code.jobs.process JOB OWNER`: a worker. It exits with 0 when nothing is left for one to do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from functools import partial

from minimax_code.errors import CodeError
from minimax_code.jobs.launch import MCP_ENV, STORE, root_of
from minimax_code.jobs.task import do_task
from minimax_code.jobs.worker import LEASE_S, work_on
from minimax_code.store import Store, default_url


def main() -> None:
    """Works on the job."""
    job, owner = sys.argv[1:3]
    store = Store(os.environ.get(STORE) or default_url())
    try:
        asyncio.run(_work(store, job, owner))
    except asyncio.CancelledError:
        sys.exit(0)
    except CodeError as error:
        print(f"{job}: {error}", file=sys.stderr)
    row = store.job(job)
    sys.exit(int(row.outcome is None and row.wish == "run"))


async def _work(store: Store, job: str, owner: str) -> None:
    this = asyncio.current_task()
    assert this
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    mcp_env = json.loads(os.environ.get(MCP_ENV) or "{}")
    await work_on(store, store.lease(job, owner, LEASE_S), partial(do_task, root=root_of(store.url), mcp_env=mcp_env))


if __name__ == "__main__":
    main()
