"""Joins a Ray cluster, for clusters of agents and for the server's replicas alike."""

from __future__ import annotations

import os
import signal
import socket
import threading
from typing import Any

from minimax_code.errors import InputError

_OBJECT_STORE = 128 << 20  # bytes; what is sent is small
_REACHED_S = 5.0


def join_ray(address: str | None, *, field: str) -> None:
    """Joins a Ray cluster, or starts one of this machine, which ends with this process.

    Args:
        address: `HOST:PORT` of its head, or "auto" for the one that this machine is in; None: starts one.
        field: what errors are told of.

    Raises:
        InputError: Ray isn't installed, or there is no cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or it would call home
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its future default; else it warns
    try:
        import ray
    except ImportError:
        raise InputError(field, "needs Ray: pip install 'openm3[ray]'") from None
    if address not in (None, "auto"):
        _reach(address, field)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    local: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    try:
        ray.init(address=address or "local", log_to_driver=False, configure_logging=False, **({} if address else local))
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(field, f"there is no Ray cluster at {address}: {error}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own would have this process end as if it had failed


def _reach(address: str, field: str) -> None:
    """Ray itself would try for minutes before it says that nobody is there."""
    host, _, port = address.rpartition(":")
    if "://" in address or not (host and port.isdecimal()):
        raise InputError(field, f"{address!r} is no HOST:PORT of a Ray cluster's head")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACHED_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(field, f"there is no Ray cluster at {address}: {error}") from error
