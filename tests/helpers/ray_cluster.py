"""A Ray cluster of two nodes on this machine: what a user has on two machines, but for the network between them."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}


class RayCluster:
    """Two nodes with a core each.

    Attributes:
        address: of the head.
    """

    def __init__(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Ray's own modules
            from ray.cluster_utils import Cluster

            self._cluster: Any = Cluster(initialize_head=True, head_node_args=_NODE)
            self._second = self._cluster.add_node(**_NODE)
        self.address: str = self._cluster.address

    @property
    def second_node(self) -> str:
        """The id of the one that can be lost."""
        return str(self._second.node_id)

    def actors(self, name: str) -> list[int]:
        """The processes of this cluster that run actors of a class."""
        raylets = {info.process.pid for node in self._cluster.list_all_nodes() for info in node.all_processes["raylet"]}
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _runs(pid, name, raylets)]

    def kill(self, pid: int) -> None:
        """Kills a process of an actor."""
        os.kill(pid, signal.SIGKILL)

    def lose_a_node(self) -> None:
        """The second node is gone at once, with all that ran on it."""
        self._cluster.remove_node(self._second, allow_graceful=False)

    def add_a_node(self) -> None:
        """Another second node."""
        self._second = self._cluster.add_node(**_NODE)

    def close(self) -> None:
        """Ends all processes."""
        self._cluster.shutdown()


@contextmanager
def ray_cluster() -> Generator[RayCluster, None, None]:
    """A cluster until the end of the block."""
    cluster = RayCluster()
    try:
        yield cluster
    finally:
        cluster.close()


def _runs(pid: int, name: str, raylets: set[int]) -> bool:
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return False
    return title.startswith(b"ray::" + name.encode()) and parent in raylets
