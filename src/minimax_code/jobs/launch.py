"""Starts workers as processes of their own, which go on when the one that started them ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from minimax_code.errors import StoreError
from minimax_code.store import default_url

STORE = "MINIMAX_CODE_STORE"
"""The environment variable that says where jobs are kept. Workers get it so, as the URL may hold a password."""
API_KEY = "MINIMAX_API_KEY"
MCP_ENV = "MINIMAX_CODE_MCP_ENV"
"""What workers get the environments of servers of tools by: JSON, by the servers' names. They may hold secrets, too."""


def root_of(url: str) -> Path:
    """The folder of a store's jobs on this machine: beside SQLite's file, else the platform's data folder."""
    return Path(default_url() if "://" in url else url).resolve().parent / "jobs"


def launch(
    url: str, job: str, api_key: str | None = None, mcp_env: Mapping[str, Mapping[str, str]] | None = None
) -> None:
    """Starts a worker for a job, and somebody to start it again after a crash.

    Args:
        url: of the store.
        api_key: of the model's server; else that of the environment.
        mcp_env: the environments of the job's servers of tools.

    Raises:
        StoreError: it could not be started.
    """
    environment = os.environ | {STORE: url if "://" in url else str(Path(url).resolve())}
    if api_key:
        environment[API_KEY] = api_key
    if mcp_env:
        environment[MCP_ENV] = json.dumps({name: dict(env) for name, env in mcp_env.items()})
    command = [sys.executable, "-P", "-m", "minimax_code.jobs", job]  # -P: no module of the folder that we are in
    with log_file(url, job).open("ab") as log:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)
    if done.returncode:
        raise StoreError(f"no worker could be started for {job}; {log_file(url, job)} says why")


def log_file(url: str, job: str) -> Path:
    """Where the workers of a job on this machine write what is no event: tracebacks. Made where it isn't there."""
    folder = root_of(url)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{job}.log"
        path.touch(mode=0o600)
    except OSError as error:
        raise StoreError(f"can't write {folder} ({error.strerror})") from error
    return path
